"""Durations of visits and runs, split in work, waiting and queued.

Problem: a step that took an hour may have worked for a second. A person must see whether it worked, waited
for a timer or an answer, or was ready and no worker had time.

Algorithm: the events of a visit are read in order as changes of a state machine, whose intervals follow. The
time of a run is the union of the intervals of its visits, by a sweep over their ends. At each moment work
counts before waiting, and waiting before queued.

Cost: O(n log n) for n intervals. No record is written for it.

Limits: no event says when a pause between batches or rounds begins, so it counts as work. No event says when
a visit resumes, so it resumes with its next event.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from noetl.executor.model.events import Event
from noetl.executor.model.run import NEVER, Visit, VisitStatus
from noetl.planner.frozen import frozen

Targets: TypeAlias = Mapping[str, Sequence[Sequence[str]]]
"""The steps to which each case of a step leads, by the name of the step."""

_WORK, _WAITING, _QUEUED = range(3)
_ENDS = ("step.completed", "step.failed")

Interval: TypeAlias = tuple[int, float, float]
"""State, begin and end."""


@frozen
class Durations:
    """Seconds of work, of waiting, and in the queue."""

    work: float
    waiting: float
    queued: float


def visit_intervals(
    visit: Visit, events: Iterable[Event], ready_at: float | None, now: float
) -> list[Interval]:
    """Return the intervals of a visit from the time it was ready, up to `now` if it has not ended."""
    track = _Track(ready_at)
    for event in events:
        track.apply(event)
    return track.close(visit, now)


class _Track:
    """The intervals of a visit up to an event, and the state since then.

    `due_at` is when the visit can be claimed again, if that is known.
    """

    def __init__(self, ready_at: float | None) -> None:
        self.intervals: list[Interval] = []
        self._state: int | None = None if ready_at is None else _QUEUED
        self._since = ready_at or 0.0
        self._due_at: float | None = None

    def apply(self, event: Event) -> None:
        if event.type == "step.waiting":
            self._change(_WAITING, event.at, event.payload.get("until"))
        elif event.type == "step.retrying":
            self._change(_WAITING, event.at, event.payload.get("next_attempt_at"))
        elif event.type in _ENDS:
            self._change(None, event.at)
        elif self._state != _WORK and event.type != "step.transition":
            self._change(_WORK, event.at)

    def close(self, visit: Visit, now: float) -> list[Interval]:
        """Return the intervals, with the last one of a visit that has not ended."""
        if visit.status is VisitStatus.PARKED or visit.finished_at is not None:
            self._state = None
        elif visit.status is VisitStatus.RUNNING and self._state != _WORK:
            self._change(_WORK, visit.segment_started_at or now)
        elif visit.status is VisitStatus.READY and self._state == _WORK:
            self._change(_QUEUED, visit.due_at)  # It has paused between two batches or rounds.
        if visit.status in (VisitStatus.WAITING, VisitStatus.RETRYING) and visit.due_at < NEVER:
            self._due_at = visit.due_at
        self._change(None, now)
        return self.intervals

    def _change(self, state: int | None, time: float, due: str | None = None) -> None:
        begin, end = self._since, max(time, self._since)
        if self._state == _WAITING and self._due_at is not None and self._due_at < end:
            due_at = max(self._due_at, begin)
            self.intervals += [(_WAITING, begin, due_at), (_QUEUED, due_at, end)]
        elif self._state is not None:
            self.intervals.append((self._state, begin, end))
        self._state, self._since = state, time
        self._due_at = None if due is None else datetime.fromisoformat(due).timestamp()


def measure(intervals: Iterable[Interval]) -> Durations:
    """Return how long each state was the first of those that were active: work, then waiting, then queued.

    >>> measure([(0, 1.0, 3.0), (1, 2.0, 6.0), (2, 8.0, 9.0)])
    Durations(work=2.0, waiting=3.0, queued=1.0)
    """
    changes = sorted(
        change
        for state, begin, end in intervals
        for change in ((begin, state, 1), (end, state, -1))
        if end > begin
    )
    active, totals, last = [0, 0, 0], [0.0, 0.0, 0.0], 0.0
    for time, state, change in changes:
        first = next((index for index, count in enumerate(active) if count), None)
        if first is not None:
            totals[first] += time - last
        active[state] += change
        last = time
    return Durations(*totals)


def plain_intervals(visit: Visit, ready_at: float | None, now: float) -> list[Interval]:
    """Return the intervals of a visit with one attempt that has never paused, without its events."""
    if visit.started_at is None:
        is_ready = ready_at is not None and visit.status is VisitStatus.READY
        return [(_QUEUED, ready_at or 0.0, now)] if is_ready else []
    queued = [] if ready_at is None else [(_QUEUED, ready_at, visit.started_at)]
    if visit.finished_at is None and visit.status is not VisitStatus.RUNNING:
        return queued
    return [*queued, (_WORK, visit.started_at, visit.finished_at or now)]


class ReadyTimes:
    """The times at which visits could first be claimed: when the last visit that leads to each ended."""

    def __init__(self, visits: Iterable[Visit], targets: Targets) -> None:
        self._ends: dict[str, list[tuple[float, int]]] = {}
        for visit in visits:
            cases = targets.get(visit.step, ())
            if visit.finished_at is None or visit.case is None or visit.case >= len(cases):
                continue
            for step in cases[visit.case]:
                self._ends.setdefault(step, []).append((visit.finished_at, visit.clock))
        for ends in self._ends.values():
            ends.sort()

    def find(self, visit: Visit, begin: float | None) -> float | None:
        """Return when a visit could first be claimed, or None. `begin` is when it was, or None."""
        ends = self._ends.get(visit.step, [])
        count = len(ends) if begin is None else bisect_right(ends, (begin, sys.maxsize))
        return next(
            (
                end
                for end, clock in ((ends[index]) for index in range(count - 1, -1, -1))
                if clock < visit.clock
            ),
            None,
        )


def to_members(durations: Durations | None) -> dict[str, Any]:
    """Return the members of a view: `work_ms`, `waiting_ms` and `queued_ms`, which may be null.

    >>> to_members(Durations(work=0.5, waiting=0.0, queued=0.0))
    {'work_ms': 500.0, 'waiting_ms': 0.0, 'queued_ms': 0.0}
    """
    names = ("work", "waiting", "queued")
    if durations is None:
        return {f"{name}_ms": None for name in names}
    return {f"{name}_ms": round(getattr(durations, name) * 1000, 3) for name in names}
