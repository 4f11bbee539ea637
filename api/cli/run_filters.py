"""Options of commands that select runs: their status, playbook, tags, times, parent and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from noetl.api.cli.run_ids import FindableRuns, find_run
from noetl.executor.model.run import RunStatus
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
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
