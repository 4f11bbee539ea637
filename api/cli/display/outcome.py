"""Report of a run that has ended: its errors with their places, its status and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import typer

from noetl.api.cli.display.console import EXIT_FAILED, print_message, write_json
from noetl.api.cli.display.failure import failure_lines, shown_file
from noetl.api.cli.display.run_board import format_duration
from noetl.executor.model.run import RunStatus

if TYPE_CHECKING:
    from noetl.api.service.services import TenantServices
    from noetl.api.service.views import RunReport, RunResult
    from noetl.executor.model.run import Run
    from noetl.executor.model.run_summary import RunSummary
    from noetl.executor.stores.interface import Store
    from noetl.planner.plan import Plan

HasShown = Callable[[str, Any], bool]
"""A function that returns whether the failure with this record, of the run with this id, was printed."""

FindResult = Callable[["Run"], Any]
"""A function that returns what is shown as the result of a run that has ended."""


class RunReports(Protocol):
    """The results of runs, and the reports about their steps."""

    def result(self, run_id: str) -> RunResult: ...

    def report(self, run_id: str) -> RunReport: ...


class OutcomeContext(Protocol):
    """Part of a command that the report of a run needs: where runs are read, and the options."""

    @property
    def reports(self) -> RunReports: ...

    @property
    def as_json(self) -> bool: ...

    @property
    def quiet(self) -> bool: ...

    @property
    def can_resume(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class RunCommandContext:
    """The services of a command that reports a run, and its options `--json` and `--quiet`.

    `can_resume` is false if the run is lost with the process.
    """

    services: TenantServices
    as_json: bool
    quiet: bool
    can_resume: bool = True

    @property
    def store(self) -> Store:
        """Store of the run, for the execution of the run and for its events."""
        return self.services.store

    @property
    def reports(self) -> RunReports:
        return _TenantReports(self.services)


@dataclass(frozen=True, slots=True)
class _TenantReports:
    """The results and the reports of the runs of a tenant (implements `RunReports`)."""

    services: TenantServices

    def result(self, run_id: str) -> RunResult:
        return self.services.runs.result(run_id)

    def report(self, run_id: str) -> RunReport:
        return self.services.items.report(run_id)


def result_of(run: Run) -> Any:
    """Return the result of a run."""
    return run.result


def print_outcome(
    context: OutcomeContext, run: Run, plan: Plan, has_shown: HasShown, find_result: FindResult = result_of
) -> None:
    """Print the errors and the status of a run to stderr, and write its result to stdout.

    Errors that were printed when they happened are not repeated.
    """
    is_skipped = run.status is RunStatus.SKIPPED
    for error in () if is_skipped else _errors_of(run):
        if not has_shown(run.id, error):
            for line in failure_lines(error, plan, shown_file(run)):
                print_message(line)
    if is_skipped:
        print_message(f"run {run.id} was skipped: {_errors_of(run)[0]['message']}")
    elif run.status is not RunStatus.SUCCEEDED:
        print_message(f"run {run.id} {describe_end(context, run)}")
    elif not context.quiet:
        seconds = (run.finished_at or run.created_at) - (run.started_at or run.created_at)
        print_message(f"run {run.id} succeeded in {format_duration(seconds)}")
    if context.as_json:
        from noetl.api.service.views import members

        reports = context.reports
        shown = {**members(reports.result(run.id)), "result": find_result(run)}
        write_json({**shown, "steps": reports.report(run.id).steps})
    elif run.status in (RunStatus.SUCCEEDED, RunStatus.COMPLETED_WITH_ERRORS):
        write_json(find_result(run))


def exit_unless_succeeded(run: Run) -> None:
    """End the command with an error code if the run did not succeed. A skipped run is no failure.

    Raises:
        typer.Exit: the run did not succeed.
    """
    if run.status not in (RunStatus.SUCCEEDED, RunStatus.SKIPPED):
        raise typer.Exit(EXIT_FAILED)


def describe_end(context: OutcomeContext, run: Run | RunSummary) -> str:
    """Return the status of a run that did not succeed, and how to resume it if that is possible."""
    hint = f"; resume it with `noetl runs resume {run.id}`" if context.can_resume else ""
    return f"{run.status.value}{hint}"


def _errors_of(run: Run) -> list[Any]:
    errors = list(run.errors)
    if run.error is not None and run.error not in errors:
        errors.insert(0, run.error)
    return errors
