"""NP601 and NP602: there is time enough for what is to be done."""

from __future__ import annotations

from noetl.planner.diagnostics.diagnostic import Label
from noetl.planner.program.program import Subject
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, RetryPolicy, Step, TaskEntry

LONGEST_INVOCATION_SECONDS = {"lambda": 900.0}
"""For each target, how long one invocation lasts at most."""


def check_timing(subject: Subject) -> None:
    """Report attempts that are to last longer than they can, and retries for which there is never time."""
    longest = LONGEST_INVOCATION_SECONDS.get(subject.target or "")
    if longest is not None:
        _check_invocations(subject, longest)
    playbook = subject.playbook
    if playbook.timeout is None:
        return
    _check_retry(subject, playbook.retry, ("retry",), playbook.timeout)
    for step in playbook.steps:
        if step.name != playbook.finally_:
            _check_retry(subject, step.retry, (*step.path, "retry"), playbook.timeout)
    for entry, path, _ in subject.entries:
        if isinstance(entry, ActionEntry):
            _check_retry(subject, entry.retry, (*path, "retry"), playbook.timeout)


def _check_retry(subject: Subject, retry: RetryPolicy | None, path: DocumentPath, seconds: float) -> None:
    if retry is None or (attempts := attempts_within(retry, seconds)) == retry.attempts:
        return
    message = f"of {retry.attempts:,} attempts at most {attempts:,} can be made before the run is out of time"
    label = Label(subject.document.span(("timeout",)), "it ends then")
    hint = "allow fewer attempts, shorter pauses or more time"
    subject.report("NP602", message, path, hint, labels=[label], key=True)


def attempts_within(retry: RetryPolicy, seconds: float) -> int:
    """How many attempts can begin within some time, when none of them takes any and jitter is as short as can be."""
    passed, delay = 0.0, retry.delay
    for attempt in range(1, retry.attempts):
        passed += min(delay, retry.max_delay) * (0.5 if retry.jitter else 1)
        delay = min(delay * retry.backoff, retry.max_delay)
        if passed >= seconds:
            return attempt
    return retry.attempts


def _check_invocations(subject: Subject, longest: float) -> None:
    for step in subject.playbook.steps:
        if step.timeout is not None and not _spans_invocations(subject, step):
            _check_timeout(subject, step.timeout, longest, (*step.path, "timeout"))
    for entry, _, _ in subject.entries:
        if isinstance(entry, ActionEntry) and entry.timeout is not None and not _suspends(subject, entry):
            _check_timeout(subject, entry.timeout, longest, (*entry.path, "timeout"))


def _check_timeout(subject: Subject, seconds: float, longest: float, path: DocumentPath) -> None:
    if seconds > longest:
        message = f"an attempt lasts one invocation, and that at most {longest / 60:g} minutes"
        hint = "do it in several steps, or let something outside do it and wait with `callback`"
        subject.report("NP601", message, path, hint)


def _spans_invocations(subject: Subject, step: Step) -> bool:
    """Whether one attempt of the step is spread over several invocations."""
    return (step.loop is not None and step.loop.batch is not None) or any(
        _suspends(subject, entry) for entry in step.run or ()
    )


def _suspends(subject: Subject, entry: Entry) -> bool:
    if isinstance(entry, ActionEntry):
        declaration = subject.catalogue.get(entry.action)
        return declaration is None or declaration.suspends
    # What a task does may wait too, in tasks that it calls.
    return isinstance(entry, TaskEntry | str)
