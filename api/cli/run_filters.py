"""Options of commands that select runs: their status, playbook, tags, times, parent and text."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from noetl.api.cli.display.console import CommandError, print_message
from noetl.api.cli.run_ids import FindableRuns, find_run, find_run_id
from noetl.executor.model.run import SERVICE_QUEUE, RunStatus
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    from noetl.api.service.views import RunPage
    from noetl.executor.model.run_filter import RunFilter

StatusOption = Annotated[
    list[RunStatus] | None,
    typer.Option("--status", help="Only runs with this status, or with one of several."),
]
PlaybookOption = Annotated[
    str | None, typer.Option("--playbook", metavar="NAME", help="Only runs of this playbook.")
]
TagOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", metavar="TAG", help="Only runs with this tag, KEY or KEY=VALUE, or with all of several."
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only runs created since: 2026-01-31T09:00Z, or 30m, 2h, 1d."
    ),
]
UntilOption = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="Only runs created before, in the same form as --since."),
]
ParentOption = Annotated[
    str | None, typer.Option("--parent", metavar="ID", help="Only runs that this run has started.")
]
SearchOption = Annotated[
    str | None,
    typer.Option(
        "--search", metavar="TEXT", help="Only runs with this text in the id, the playbook or the headline."
    ),
]


class FilterableRuns(FindableRuns, Protocol):
    """Runs that can be found, with the time that a duration before now is counted from."""

    def current_time(self) -> float: ...


class SelectableRuns(FilterableRuns, Protocol):
    """Runs that a filter can select."""

    def page(self, run_filter: RunFilter) -> RunPage: ...


@frozen
class FilterOptions:
    """The options of a command that select runs, as texts."""

    status: list[RunStatus] | None = None
    playbook: str | None = None
    tag: list[str] | None = None
    since: str | None = None
    until: str | None = None
    parent: str | None = None
    search: str | None = None

    def to_filter(self, runs: FilterableRuns) -> RunFilter:
        """Return the filter of the options. A duration is counted back from now.

        Raises:
            CommandError: a time is neither, or the parent is unknown.
        """
        from noetl.api.cli.display.run_list import parse_run_time
        from noetl.executor.model.run_filter import RunFilter

        now = runs.current_time()
        return RunFilter(
            statuses=tuple(self.status or ()),
            playbook=self.playbook,
            tags=tuple(self.tag or ()),
            since=None if self.since is None else parse_run_time("--since", self.since, now),
            until=None if self.until is None else parse_run_time("--until", self.until, now),
            parent=None if self.parent is None else find_run(runs, self.parent).id,
            text=self.search or None,
        )


class RunChange(StrEnum):
    """A change that a command makes to runs."""

    CANCEL = "cancel"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    RESUME = "resume"
    MIGRATE = "migrate"
    DELETE = "delete"

    def narrow(self, run_filter: RunFilter) -> RunFilter:
        """Return a filter of the runs that may be changed. Without statuses, it selects those of the change.

        Raises:
            CommandError: --status names a status whose runs cannot be changed.
        """
        from noetl.executor.model.run_filter import MAX_RUNS_PER_PAGE, OPEN_STATUSES
        from noetl.planner.frozen import replace

        ended = frozenset(RunStatus) - OPEN_STATUSES
        match self:
            case RunChange.CANCEL:
                allowed, problem = OPEN_STATUSES, "runs that have ended cannot be cancelled"
                hint = "--status must be an open status"
            case RunChange.PAUSE:
                allowed, problem = OPEN_STATUSES - {RunStatus.PAUSED}, "only open runs can be paused"
                hint = "--status must be queued, running or waiting"
            case RunChange.UNPAUSE:
                allowed, problem = frozenset({RunStatus.PAUSED}), "only paused runs can be unpaused"
                hint = "leave out --status"
            case RunChange.RESUME:
                allowed, problem = ended - {RunStatus.SUCCEEDED}, "open and succeeded runs cannot be resumed"
                hint = "--status must be failed, timed_out, completed_with_errors, cancelled or skipped"
            case RunChange.MIGRATE:
                allowed, problem = OPEN_STATUSES, "runs that have ended are resumed in another version"
                hint = "use `noetl runs resume ID --playbook`"
            case RunChange.DELETE:
                allowed, problem = ended, "open runs cannot be deleted"
                hint = "--status must be a final status"
        if not allowed.issuperset(run_filter.statuses):
            raise CommandError(f"{problem}; {hint}")
        # Cancelled and skipped runs were ended on purpose.
        defaults = allowed - {RunStatus.CANCELLED, RunStatus.SKIPPED} if self is RunChange.RESUME else allowed
        return replace(
            run_filter,
            statuses=run_filter.statuses or tuple(defaults),
            # A local run is resumed in the process of the command, so only by itself.
            queue=SERVICE_QUEUE if self is RunChange.RESUME else None,
            # A run is deleted with its child runs, so the oldest runs come first.
            is_oldest_first=self is RunChange.DELETE,
            limit=MAX_RUNS_PER_PAGE,
        )


def check_selection(ids: list[str] | None, options: FilterOptions) -> None:
    """Check that a command names its runs in one way.

    Raises:
        CommandError: there are ids and a filter, or neither.
    """
    has_filter = options != FilterOptions()
    if bool(ids) == has_filter:
        problem = "there are ids and a filter" if has_filter else "no run is named"
        raise CommandError(f"{problem}; name runs by their ids or by a filter such as --playbook")


def select_runs(
    runs: SelectableRuns, change: RunChange, selection: list[str] | FilterOptions, *, is_confirmed: bool
) -> list[str]:
    """Return the ids of the runs that a command names, or of those of its filter that may be changed.

    A person has agreed to the number of a filter, and to each deletion.

    Raises:
        CommandError: a run is unknown, or the person has not agreed.
    """
    if isinstance(selection, FilterOptions):
        selected = find_all(runs, change.narrow(selection.to_filter(runs)))
        subject = f"the filter selects {_count(selected)}"
    else:
        selected = list(dict.fromkeys(find_run_id(runs, id) for id in selection))
        subject = f"{_count(selected)} would be deleted"
        is_confirmed = is_confirmed or change is not RunChange.DELETE
    if not selected:
        print_message("no runs")
    elif not is_confirmed:
        if not sys.stdin.isatty():
            raise CommandError(f"{subject}; repeat the command with --yes")
        if not typer.confirm(f"{change.capitalize()} {_count(selected)}?", err=True):
            raise CommandError("nothing was changed")
    return selected


def _count(ids: list[str]) -> str:
    return f"{len(ids):,} run" + ("" if len(ids) == 1 else "s")


def find_all(runs: SelectableRuns, run_filter: RunFilter) -> list[str]:
    """Return the ids of all runs of a filter."""
    from noetl.planner.frozen import replace

    ids: list[str] = []
    while True:
        page = runs.page(run_filter)
        ids += [run.workflow_id for run in page.items]
        if page.next_cursor is None:
            return ids
        run_filter = replace(run_filter, cursor=page.next_cursor)
