"""Checks of time limits: timeouts fit into an invocation, and retries into a run (NP601 and NP602)."""

from __future__ import annotations

from noetl.planner.diagnostics.diagnostic import Label
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, RetryPolicy, Step, TaskEntry

LONGEST_INVOCATION_SECONDS = {"lambda": 900.0}
"""The maximum duration of one invocation, by target."""


def check_timing(program: Program) -> None:
    """Report timeouts longer than an invocation, and retries that the timeout of the run does not allow."""
    longest = LONGEST_INVOCATION_SECONDS.get(program.target or "")
    if longest is not None:
        _check_timeouts(program, longest)
    playbook = program.playbook
    if playbook.timeout is None:
        return
    _check_retry(program, playbook.retry, ("retry",), playbook.timeout)
    for step in playbook.steps:
        if step.name != playbook.finally_:
            _check_retry(program, step.retry, (*step.path, "retry"), playbook.timeout)
    for entry, path, _ in program.entries:
        if isinstance(entry, ActionEntry):
            _check_retry(program, entry.retry, (*path, "retry"), playbook.timeout)


def _check_retry(program: Program, retry: RetryPolicy | None, path: DocumentPath, seconds: float) -> None:
    if retry is None or (attempts := count_attempts_within(retry, seconds)) == retry.attempts:
        return
    message = f"at most {attempts:,} of {retry.attempts:,} attempts can start before the run times out"
    label = Label(program.document.span(("timeout",)), "the run times out then")
    hint = "reduce the attempts or the delay, or increase the timeout"
    program.report("NP602", message, path, hint, labels=[label], key=True)


def count_attempts_within(retry: RetryPolicy, seconds: float) -> int:
    """Return how many attempts can start within `seconds`, if attempts take no time and jitter is minimal.

    >>> count_attempts_within(RetryPolicy(attempts=5, delay=1.0, backoff=2.0, jitter=False), 7.0)
    3
    """
    elapsed, delay = 0.0, retry.delay
    for attempt in range(1, retry.attempts):
        elapsed += min(delay, retry.max_delay) * (0.5 if retry.jitter else 1)
        delay = min(delay * retry.backoff, retry.max_delay)
        if elapsed >= seconds:
            return attempt
    return retry.attempts


def _check_timeouts(program: Program, longest: float) -> None:
    for step in program.playbook.steps:
        if step.timeout is not None and not _spans_invocations(step):
            _check_timeout(program, step.timeout, longest, (*step.path, "timeout"))
    for entry, _, _ in program.entries:
        if isinstance(entry, ActionEntry) and entry.timeout is not None and not _may_suspend(entry):
            _check_timeout(program, entry.timeout, longest, (*entry.path, "timeout"))


def _check_timeout(program: Program, seconds: float, longest: float, path: DocumentPath) -> None:
    if seconds > longest:
        message = f"timeout exceeds the longest invocation ({longest / 60:g} minutes)"
        hint = "use several steps, or start an external job and wait for it with `callback`"
        program.report("NP601", message, path, hint)


def _spans_invocations(step: Step) -> bool:
    """Return whether one attempt of the step may take several invocations."""
    return (step.loop is not None and step.loop.batch is not None) or any(
        _may_suspend(entry) for entry in step.run or ()
    )


def _may_suspend(entry: Entry) -> bool:
    if isinstance(entry, ActionEntry):
        return entry.declaration is None or entry.declaration.suspends
    # A task may suspend, directly or in a task that it calls.
    return isinstance(entry, TaskEntry | str)
