"""The times of a run that has forked, measured from its events, of which a process reads only the new ones.

Problem: the visits after a fork do not carry the times of their run. Its events are in the items of its
visits, and a run on cycles may have thousands.

Algorithm: a checkpoint (Gray and Reuter 1993) in the memory of the process. It has the times up to a moment,
and the least clock of the visits that may have events after it. A visit has a greater clock than its cause.
So the next measurement reads the visits on cycles from this clock on, in the order of their ids. It reads the
other visits again, and the events of all of them. What was before the checkpoint adds nothing.
A join may fire with a smaller clock if the branches that it waits for end elsewhere. So the visits before the
clock are counted. If any is missing, all are read.

Cost: the first measurement of a process reads all visits. Another one reads those on cycles that have begun
since, as long as none of an old clock is open. It reads all others, such as those of joins. An ended run is
measured once.

Limits: a run with more than MAX_MEASURED_VISITS visits on cycles is not measured from its begin. A checkpoint
is not used after a resume of the run, and none is made while it is paused.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from threading import Lock

from noetl.executor.model.durations import RunTimes, begin_times, extend_times
from noetl.executor.model.ids import ORDERED
from noetl.executor.model.run import Visit
from noetl.executor.model.run_summary import has_started
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.carried_times import run_events
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.history import RunHistory
from noetl.executor.stores.dynamo.run_items import has_ended, is_paused, run_id_of
from noetl.executor.stores.dynamo.run_overview import count_by_step, is_indexed, read_visits_from
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, read_snapshot_of
from noetl.planner.frozen import frozen

MAX_MEASURED_VISITS = 5_000
"""Up to how many visits on cycles a run is measured from its begin."""

MIN_VISITS = 100
"""From how many visits on cycles on a checkpoint is made."""

MAX_CHECKPOINTS = 256

_RECENT_SECONDS = 120.0
"""Visits that have ended so lately may have followers that were not read."""


@frozen
class _Checkpoint:
    """The times of a run that were measured. `before` counts visits on cycles with smaller clocks by step."""

    times: RunTimes
    resumes: int
    has_ended: bool
    clock: int
    before: Counter[str]


class MeasuredTimes:
    """The times of runs that this process has measured."""

    def __init__(self, context: DynamoContext, history: RunHistory) -> None:
        self._context = context
        self._history = history
        self._checkpoints: OrderedDict[str, _Checkpoint] = OrderedDict()
        self._lock = Lock()

    def measure(self, head: Item, latest: RunSnapshot, created_at: float, now: float) -> RunTimes | None:
        """Return the times of a run up to `now`, or None if too many visits would have to be read.

        `latest` has the latest visits of the run.
        """
        if not is_indexed(self._context, head):
            return self._measure_all(head, created_at, now)[1]
        started = count_by_step(latest)
        count = sum(started.values())
        times = None if count <= MIN_VISITS else self._measure_new(head, started, now)
        if times is not None or count > MAX_MEASURED_VISITS:
            return times
        snapshot, times = self._measure_all(head, created_at, now)
        if count > MIN_VISITS:
            self._keep(snapshot, times, None)
        return times

    def _measure_all(self, head: Item, created_at: float, now: float) -> tuple[RunSnapshot, RunTimes]:
        snapshot = read_snapshot_of(self._context, head, attributes=tuple(head))
        active = [item.visit for item in snapshot.active_items]
        events = self._history.all_events(snapshot)
        return snapshot, extend_times(begin_times(created_at), events, active, 0, now)

    def _measure_new(self, head: Item, started: Mapping[str, int], now: float) -> RunTimes | None:
        """Return the times from a checkpoint, or None if there is none that fits."""
        before = self._checkpoints.get(run_id_of(head))
        if before is None or before.resumes != head.get("resumes", 0):
            return None
        if before.has_ended and has_ended(head):
            return before.times
        snapshot = read_visits_from(self._context, head, before.clock)
        read = _count_visits(snapshot, before.clock) + _count_others(snapshot) + before.before
        if any(read[step] < count for step, count in started.items()):
            return None
        events = [
            *self._history.events_from(snapshot, before.clock),
            *run_events(self._context, head, before.times.until),
        ]
        active = [item.visit for item in snapshot.active_items]
        times = extend_times(before.times, events, active, 0, now)
        self._keep(snapshot, times, before)
        return times

    def _keep(self, snapshot: RunSnapshot, times: RunTimes, before: _Checkpoint | None) -> None:
        """Keep a checkpoint of a run whose visits were read, those of smaller clocks up to another one."""
        head, visits = snapshot.head, [item.visit for item in snapshot.current_items]
        latest = times.until - _RECENT_SECONDS
        clocks = [visit.clock for visit in visits if visit.finished_at is None or visit.finished_at > latest]
        if is_paused(head) or not (clocks or has_ended(head)):
            return
        clock = min(clocks, default=max(visit.clock for visit in visits) + 1)
        counts = _count_visits(snapshot, 0 if before is None else before.clock, clock)
        if before is not None:
            counts += before.before
        run_id = run_id_of(head)
        with self._lock:
            self._checkpoints[run_id] = _Checkpoint(
                times, head.get("resumes", 0), has_ended(head), clock, counts
            )
            self._checkpoints.move_to_end(run_id)
            while len(self._checkpoints) > MAX_CHECKPOINTS:
                self._checkpoints.popitem(last=False)


def _count_visits(snapshot: RunSnapshot, first: int, end: int | None = None) -> Counter[str]:
    """Return how many visits on cycles of each step have started, of those that were read.

    Those with clocks from `first` on count, up to the one before `end`.
    """
    visits = (item.visit for item in snapshot.current_items if item.visit.id.startswith(ORDERED))
    return Counter(
        visit.step
        for visit in visits
        if visit.clock >= first and (end is None or visit.clock < end) and _has_started(visit)
    )


def _count_others(snapshot: RunSnapshot) -> Counter[str]:
    """Return how many other visits of each step have started: all of them were read."""
    visits = (item.visit for item in snapshot.current_items if not item.visit.id.startswith(ORDERED))
    return Counter(visit.step for visit in visits if _has_started(visit))


def _has_started(visit: Visit) -> bool:
    return has_started(visit) or visit.finished_at is not None
