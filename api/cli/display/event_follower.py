"""Polling of the events of a run, and of the runs that it starts and waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from noetl.api.cli.display.run_board import RunBoard
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunSummary, summarize

if TYPE_CHECKING:
    from noetl.executor.model.events import Event
    from noetl.executor.model.run import Run

_EVENTS_PER_QUERY = 1000
_RUNS_PER_QUERY = 100


class EventReader(Protocol):
    """Reader of the events of runs, and of the runs that a run has started: a store, or a service."""

    def events(self, run_id: str, after: str | None, limit: int) -> list[Event]: ...

    def find(self, run_filter: RunFilter) -> tuple[list[RunSummary], str | None]: ...


@dataclass
class FollowedRun:
    """A followed run.

    `depth` is its distance from the first run. `cursor` is the id of the latest event that was read.
    """

    run: RunSummary
    depth: int = 0
    cursor: str | None = None
    board: RunBoard = field(default_factory=RunBoard)
    children: list[FollowedRun] = field(default_factory=list)


RunEvents = list[tuple[FollowedRun, "Event"]]


class EventFollower:
    """A reader of the new events of runs, and of the runs that they start and wait for."""

    def __init__(self, reader: EventReader, *runs: Run, depth: int = 0) -> None:
        self._reader = reader
        self._followed = {run.id: FollowedRun(summarize(run), depth) for run in runs}
        self.roots = list(self._followed.values())

    def add(self, run: RunSummary, depth: int) -> None:
        """Follow another run."""
        if run.id not in self._followed:
            self._followed[run.id] = followed = FollowedRun(run, depth)
            self.roots.append(followed)

    def skip_past_events(self) -> None:
        """Read the past events without returning them, before a resume adds new ones."""
        for followed in {followed.run.id: followed for followed, _ in self.new_events()}.values():
            followed.board.restart_clocks(time.time())
        for root in self.roots:
            root.board.has_ended = False

    def new_events(self) -> RunEvents:
        """Return the events since the previous call, ordered by time."""
        events = [pair for root in self.roots for pair in self._new_events_of(root)]
        is_one_run = all(followed is events[0][0] for followed, _ in events)
        return events if is_one_run else sorted(events, key=lambda pair: pair[1].at)

    def _new_events_of(self, followed: FollowedRun) -> Iterator[tuple[FollowedRun, Event]]:
        has_events = False
        for event in self._read_events(followed):
            followed.board.apply(event)
            yield followed, event
            has_events = True
        if followed.board.starts_runs:
            self._find_children(followed, has_events=has_events)
        for child in followed.children:
            yield from self._new_events_of(child)

    def _read_events(self, followed: FollowedRun) -> Iterator[Event]:
        if followed.board.has_ended:
            return
        while events := self._reader.events(followed.run.id, followed.cursor, _EVENTS_PER_QUERY):
            followed.cursor = events[-1].id
            yield from events
            if len(events) < _EVENTS_PER_QUERY:
                return

    def _find_children(self, parent: FollowedRun, *, has_events: bool) -> None:
        """Follow the children that a run has started since the latest known one.

        If the parent has new events, query all children: one that had ended may have been resumed.
        """
        since = parent.children[-1].run.created_at if parent.children and not has_events else None
        runs, _ = self._reader.find(
            RunFilter(parent.run.tenant, parent=parent.run.id, since=since, limit=_RUNS_PER_QUERY)
        )
        for run in reversed(runs):
            child = self._followed.get(run.id)
            if child is None:
                self._followed[run.id] = child = FollowedRun(run, parent.depth + 1)
                parent.children.append(child)
            elif run.resumes != child.run.resumes:
                child.run, child.board.has_ended = run, False
