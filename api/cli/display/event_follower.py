"""A run as it goes on, with the runs that it starts and waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from noetl.api.cli.display.run_board import Board

if TYPE_CHECKING:
    from noetl.executor.model.events import Event
    from noetl.executor.model.run import Run
    from noetl.executor.stores.interface import Store

_EVENTS_AT_ONCE = 1000
_RUNS_AT_ONCE = 100


@dataclass
class Followed:
    """A run that is followed: how deep below the one that everything began with, and how far its history is known."""

    run: Run
    depth: int = 0
    cursor: str | None = None
    board: Board = field(default_factory=Board)
    started: list[Followed] = field(default_factory=list)


News = list[tuple[Followed, "Event"]]


class Follower:
    """Follows runs, and those that they start and wait for."""

    def __init__(self, store: Store, *runs: Run, depth: int = 0) -> None:
        self._store = store
        self._all = {run.id: Followed(run, depth) for run in runs}
        self.roots = list(self._all.values())

    def add(self, run: Run, depth: int) -> None:
        """Follow another run."""
        if run.id not in self._all:
            self._all[run.id] = followed = Followed(run, depth)
            self.roots.append(followed)

    def skip(self) -> None:
        """Take what has happened so far as known, and wait for what happens when the runs go on."""
        for followed in {followed.run.id: followed for followed, _ in self.news()}.values():
            followed.board.begin_anew(time.time())
        for root in self.roots:
            root.board.has_ended = False

    def news(self) -> News:
        """What has happened since it was asked last, in the order in which it did."""
        found = [news for root in self.roots for news in self._news_of(root)]
        is_of_one = all(followed is found[0][0] for followed, _ in found)
        return found if is_of_one else sorted(found, key=lambda news: news[1].at)

    def _news_of(self, followed: Followed) -> Iterator[tuple[Followed, Event]]:
        has_news = False
        for event in self._events_of(followed):
            followed.board.take(event)
            yield followed, event
            has_news = True
        if followed.board.starts_runs:
            self._find_started(followed, has_news=has_news)
        for child in followed.started:
            yield from self._news_of(child)

    def _events_of(self, followed: Followed) -> Iterator[Event]:
        if followed.board.has_ended:
            return
        while events := self._store.events(followed.run.id, followed.cursor, _EVENTS_AT_ONCE):
            followed.cursor = events[-1].id
            yield from events
            if len(events) < _EVENTS_AT_ONCE:
                return

    def _find_started(self, parent: Followed, *, has_news: bool) -> None:
        """Learn which runs a run has started lately, and where it has news itself, whether one that had ended has gone on."""
        newest = parent.started[-1].run.created_at if parent.started and not has_news else None
        runs, _ = self._store.runs(parent.run.tenant, parent=parent.run.id, since=newest, limit=_RUNS_AT_ONCE)
        for run in reversed(runs):
            known = self._all.get(run.id)
            if known is None:
                self._all[run.id] = known = Followed(run, parent.depth + 1)
                parent.started.append(known)
            elif run.resumes != known.run.resumes:
                known.run, known.board.has_ended = run, False
