"""Options of commands that select runs: their status, playbook, tags, times, parent and text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from noetl.api.cli.display.console import CommandError, print_message
from noetl.api.cli.run_ids import FindableRuns, find_run
from noetl.executor.model.run import RunStatus
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


def confirm_selection(runs: SelectableRuns, run_filter: RunFilter, *, is_confirmed: bool) -> list[str]:
    """Return the ids of the runs of a filter that have not ended, after a person has agreed to their number.

    Raises:
        CommandError: the person has not agreed, or the status is not an open one.
    """
    from noetl.executor.model.run_filter import MAX_RUNS_PER_PAGE, OPEN_STATUSES
    from noetl.planner.frozen import replace

    wanted = replace(run_filter, limit=MAX_RUNS_PER_PAGE)
    if not wanted.statuses:
        wanted = replace(wanted, statuses=tuple(OPEN_STATUSES))
    elif not OPEN_STATUSES.issuperset(wanted.statuses):
        raise CommandError("runs that have ended cannot be cancelled; --status must be an open status")
    ids: list[str] = []
    while True:
        page = runs.page(wanted)
        ids += [run.workflow_id for run in page.items]
        if page.next_cursor is None:
            break
        wanted = replace(wanted, cursor=page.next_cursor)
    if ids and not is_confirmed:
        if not sys.stdin.isatty():
            raise CommandError(f"the filter selects {len(ids):,} runs; repeat the command with --yes")
        if not typer.confirm(f"Cancel {len(ids):,} runs?", err=True):
            raise CommandError("nothing was cancelled")
    if not ids:
        print_message("no runs")
    return ids
