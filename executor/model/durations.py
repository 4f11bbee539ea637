"""Durations of visits and runs, split in work, waiting and queued.

Problem: a step that took an hour may have worked for a second. A person must see whether it worked, waited
for a timer or an answer, or was ready and no worker had time. A run may have thousands of visits, and showing
its times must not read all of them.

Algorithm: the events of a visit are read in order as changes of a state machine, whose intervals follow. The
time of a run is the union of the intervals of its visits, by a sweep over their ends. At each moment work
counts before waiting, and waiting before queued. A checkpoint keeps what was measured up to a moment: the
sums, and the state of each visit that had not ended. A later measurement begins there.

Cost: O(n log n) for n events since the checkpoint.

Limits: no event says when a pause between batches or rounds begins, so it counts as work. No event says when
a visit resumes, so it resumes with its next event. Of MAX_ACTIVE visits that have not ended at once, further
ones may be missing from the times of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from typing import Any, TypeAlias

from noetl.executor.model.events import DEBOUNCED_EVENT, NOTIFICATION_EVENT, Event
from noetl.executor.model.run import NEVER, Visit, VisitStatus
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.planner.frozen import frozen

_WORK, _WAITING, QUEUED = range(3)
"""The states of a visit that has not ended. `QUEUED` is that of a visit that no worker has begun."""

_ENDS = ("step.completed", "step.failed")

MAX_ACTIVE = 256
"""How many visits that have not ended a measurement of a run takes into account."""

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

    def __init__(self, since: float | None, state: int = QUEUED, due_at: float | None = None) -> None:
        self.intervals: list[Interval] = []
        self._state: int | None = None if since is None else state
        self._since = since or 0.0
        self._due_at = due_at
        self._state_before_pause: int | None = None

    def apply(self, event: Event) -> None:
        if event.type == "step.waiting":
            self._change(_WAITING, event.at, event.payload.get("until"))
        elif event.type == "step.retrying":
            self._change(_WAITING, event.at, event.payload.get("next_attempt_at"))
        elif event.type in _ENDS:
            self._change(None, event.at)
        elif self._state != _WORK and event.type != "step.transition":
            self._change(_WORK, event.at)

    @property
    def state(self) -> tuple[int, float | None] | None:
        """State, and until when the visit waits if that is known. None if it does nothing."""
        return None if self._state is None else (self._state, self._due_at)

    def pause(self, time: float) -> None:
        """Suspend the visit, unless it is at work."""
        if self._state not in (None, _WORK):
            self._state_before_pause, due_at = self._state, self._due_at
            self._change(None, time)
            self._due_at = due_at

    def unpause(self, time: float) -> None:
        """Continue the visit after a pause."""
        if self._state_before_pause is not None and self._state is None:
            due_at = self._due_at
            self._change(self._state_before_pause, time)
            self._due_at = due_at
        self._state_before_pause = None

    def end(self, time: float) -> None:
        """End the visit with its run."""
        self._change(None, time)

    def update(self, visit: Visit, now: float) -> None:
        """Add what the record of the visit says, and no event, and measure up to `now`."""
        if visit.status is VisitStatus.RUNNING and self._state != _WORK:
            self._change(_WORK, visit.segment_started_at or now)
        elif visit.status is VisitStatus.READY and self._state == _WORK:
            self._change(QUEUED, visit.due_at)  # It has paused between two batches or rounds.
        if visit.status in (VisitStatus.WAITING, VisitStatus.RETRYING):
            if self._state is None:
                self._change(_WAITING, now)
            self._due_at = visit.due_at if visit.due_at < NEVER else self._due_at
        state, due_at = self._state, self._due_at
        self._change(state, now)
        self._due_at = due_at

    def close(self, visit: Visit, now: float) -> list[Interval]:
        """Return the intervals, with the last one of a visit that has not ended."""
        if visit.status is VisitStatus.PARKED or visit.finished_at is not None:
            self._state = None
        elif visit.status is VisitStatus.RUNNING and self._state != _WORK:
            self._change(_WORK, visit.segment_started_at or now)
        elif visit.status is VisitStatus.READY and self._state == _WORK:
            self._change(QUEUED, visit.due_at)  # It has paused between two batches or rounds.
        if visit.status in (VisitStatus.WAITING, VisitStatus.RETRYING) and visit.due_at < NEVER:
            self._due_at = visit.due_at
        self._change(None, now)
        return self.intervals

    def _change(self, state: int | None, time: float, due: str | None = None) -> None:
        begin, end = self._since, max(time, self._since)
        if self._state == _WAITING and self._due_at is not None and self._due_at < end:
            due_at = max(self._due_at, begin)
            self.intervals += [(_WAITING, begin, due_at), (QUEUED, due_at, end)]
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


@frozen
class RunTimes:
    """The times of a run up to a moment. `place` says up to which entry of its history.

    `active` are the visits that have not ended, by step and number, each with its state and until when it
    waits. The next step is ready since `begun_at`, if no step has started.
    """

    durations: Durations
    until: float
    place: int = 0
    active: Mapping[tuple[str, int], tuple[int, float | None]] = field(default_factory=dict)
    begun_at: float | None = None

    def to_json(self) -> list[Any]:
        """Return the stored form."""
        active = [[*key, *state] for key, state in self.active.items()]
        sums = [self.durations.work, self.durations.waiting, self.durations.queued]
        return [sums, self.until, self.place, active, self.begun_at]

    @classmethod
    def from_json(cls, stored: Sequence[Any]) -> RunTimes:
        """Return the times of a stored form.

        >>> times = RunTimes(Durations(1.0, 2.0, 3.0), 9.0, 7, {("a", 1): (0, None)})
        >>> RunTimes.from_json(times.to_json()) == times
        True
        """
        sums, until, place, active, begun_at = stored
        states = {(step, number): (state, due_at) for step, number, state, due_at in active}
        return cls(Durations(*sums), until, place, states, begun_at)


def begin_segment(visit: Visit, begun_at: float) -> Event:
    """Return an event that no history has: a visit is at work since a time."""
    return Event("segment", begun_at, visit.step, visit.number)


def begin_times(created_at: float) -> RunTimes:
    """Return the times of a run that has just been created."""
    return RunTimes(Durations(0.0, 0.0, 0.0), created_at, begun_at=created_at)


def extend_times(
    before: RunTimes, events: Iterable[Event], active: Iterable[Visit], place: int, now: float
) -> RunTimes:
    """Return the times of a run up to `now`.

    `events` are those after `before.place` up to `place`, and `active` the visits that have not ended.
    """
    sweep = _Sweep(before)
    for event in sorted(events, key=lambda event: event.at):
        sweep.apply(event)
    tracks = sweep.close(active, now)
    intervals = [
        (state, max(begin, before.until), end)
        for track in sweep.tracks.values()
        for state, begin, end in track.intervals
    ]
    added, sums = measure(intervals), before.durations
    return RunTimes(
        Durations(sums.work + added.work, sums.waiting + added.waiting, sums.queued + added.queued),
        max(now, before.until),
        place,
        {key: track.state for key, track in tracks.items() if track.state is not None},
        sweep.begun_at,
    )


class _Sweep:
    """The tracks of the visits of a run, to which events are applied in the order of their times."""

    def __init__(self, before: RunTimes) -> None:
        self.begun_at = before.begun_at
        self.tracks = {key: _Track(before.until, *state) for key, state in before.active.items()}
        self._leads: dict[str, float] = {}
        """When the last visit ended that leads to a step."""

    def apply(self, event: Event) -> None:
        if event.step is not None:
            self._track(event.step, event.visit or 0).apply(event)
            if event.type == "step.transition":
                self._leads |= dict.fromkeys(event.payload.get("targets", ()), event.at)
        elif event.type == "workflow.paused":
            for track in self.tracks.values():
                track.pause(event.at)
        elif event.type == "workflow.unpaused":
            for track in self.tracks.values():
                track.unpause(event.at)
        elif event.type == "workflow.migrated":
            renamed = event.payload.get("renamed", {})
            self.tracks = {
                (renamed.get(step, step), number): track for (step, number), track in self.tracks.items()
            }
        elif event.type not in ("workflow.started", DEBOUNCED_EVENT, NOTIFICATION_EVENT):
            for track in self.tracks.values():
                track.end(event.at)
            self._leads.clear()

    def close(self, active: Iterable[Visit], now: float) -> dict[tuple[str, int], _Track]:
        """Measure up to `now`, and return the tracks of the visits that have not ended."""
        tracks = {}
        for visit in active:
            if visit.status is not VisitStatus.PARKED and not is_pseudo_step(visit.step):
                track = tracks[visit.step, visit.number] = self._track(visit.step, visit.number)
                track.update(visit, now)
        return tracks

    def _track(self, step: str, number: int) -> _Track:
        """Return the track of a visit. A new one is queued since it was created."""
        track = self.tracks.get((step, number))
        if track is None:
            ready_at = self._leads.get(step, self.begun_at)
            track = self.tracks[step, number] = _Track(ready_at)
            self.begun_at = None
        return track
