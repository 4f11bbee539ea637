"""The headline of a run: in one line, why it has ended, what it waits for or does, or that it is paused."""

from __future__ import annotations

from collections.abc import Mapping

from noetl.api.service.views import RunReport, StepCounts, StepReport, StepState
from noetl.executor.model.run import RunStatus
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.frozen import frozen

MAX_LENGTH = 120


@frozen
class Headline:
    """The headline of a run in a list, and how many of its steps have finished, if it was computed.

    A run that has succeeded has `step_count` instead: the number of steps of its playbook, if it is known.
    """

    text: str = ""
    steps: StepCounts | None = None
    step_count: int | None = None


def summarize_report(report: RunReport) -> Headline:
    """Return the headline of the run of a report, with the numbers of its steps."""
    progress = report.progress
    return Headline(describe_run(report), StepCounts(done=progress.finished, total=progress.steps))


def describe_run(report: RunReport) -> str:
    """Return the headline of a run, at most MAX_LENGTH characters without control characters.

    It is the first error, else what the run waits for, else the steps at work, else the status. That of a
    paused run says so, and that of a cancelled run without an error, too.
    """
    wait, work = _find_wait(report.steps), _find_work(report.steps)
    state = wait or work or _describe_status(report)
    if report.status is RunStatus.PAUSED:
        state = f"paused; {state}" if work is None else f"paused; at work: {work}"
    line = " ".join((_find_error(report) or state).split())
    printable = to_printable(line)
    return printable if len(printable) <= MAX_LENGTH else f"{printable[: MAX_LENGTH - 1]}…"


def _find_error(report: RunReport) -> str | None:
    if report.error is not None:
        step = report.error["step"]
        return f"{step}: {report.error['message']}" if step else report.error["message"]
    for name, step_report in report.steps.items():
        if step_report.status is StepState.FAILED and step_report.error is not None:
            return f"{name}: {step_report.error['message']}"
    return None


def _find_wait(steps: Mapping[str, StepReport]) -> str | None:
    if any(step.status is StepState.RUNNING for step in steps.values()):
        return None
    for name, step in steps.items():
        wait = step.waiting_for
        if wait is not None:
            if wait.limit is not None:
                place = _place_in_queue(wait.limit.queued_before, wait.until)
                return f"{name} waits: limit {wait.limit.limit}, {place}"
            titles = [question.title for question in wait.questions or () if question.title]
            actions = ", ".join([*wait.actions, *(f"retry of {action}" for action in wait.retried or ())])
            until = "" if wait.until is None else f", until {wait.until[:19]}Z"
            return f"{name} waits: {titles[0] if titles else actions}{until}"
        if step.status is StepState.RETRYING and step.error is not None:
            return f"{name} is tried again: {step.error['message']}"
    return None


def _place_in_queue(queued_before: int | None, until: str | None) -> str:
    if queued_before is None:
        return f"until {(until or '')[:19]}Z"
    return f"{queued_before:,} ahead" if queued_before else "next"


def _find_work(steps: Mapping[str, StepReport]) -> str | None:
    running = [name for name, step in steps.items() if step.status is StepState.RUNNING]
    if not running:
        return None
    more = f" and {len(running) - 1} more" if len(running) > 1 else ""
    return f"{running[0]}{more}"


def _describe_status(report: RunReport) -> str:
    progress = report.progress
    if report.status is RunStatus.QUEUED:
        return "waits for a worker" if report.begins_at is None else _describe_begin(report, report.begins_at)
    count = f"{progress.finished} of {progress.steps} steps"
    return f"cancelled after {count}" if report.status is RunStatus.CANCELLED else count


def _describe_begin(report: RunReport, begins_at: str) -> str:
    """Return when a run begins that waits for further starts, and how many it has."""
    starts = "" if report.starts is None else f"{report.starts:,} starts joined, "
    return f"{starts}begins at {begins_at[:19]}Z, or after further starts"
