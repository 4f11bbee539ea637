"""The times of a run from its events and its visits, without a store."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from noetl.executor.model.durations import (
    Durations,
    RunTimes,
    begin_times,
    extend_times,
    visit_intervals,
)
from noetl.executor.model.events import Event, timestamp
from noetl.executor.model.run import DEADLINE, NEVER, Visit, VisitStatus


def visit(status: VisitStatus, step: str = "a", **fields: float) -> Visit:
    return Visit("v", "r", step, status, 1, {}, **fields)  # type: ignore[arg-type]


def event(type: str, time: float, step: str | None = "a") -> Event:
    return Event(type, time, step, None if step is None else 1)


def extend(before: RunTimes, events: Sequence[Event], now: float, *active: Visit) -> RunTimes:
    return extend_times(before, events, active, before.place + 1, now)


@pytest.mark.parametrize(
    ("active", "durations"),
    [
        (visit(VisitStatus.READY), Durations(0.0, 0.0, 10.0)),
        (visit(VisitStatus.RUNNING, segment_started_at=4.0), Durations(6.0, 0.0, 4.0)),
        (visit(VisitStatus.WAITING, due_at=NEVER), Durations(0.0, 0.0, 10.0)),
        (visit(VisitStatus.PARKED), Durations(0.0, 0.0, 0.0)),
        (visit(VisitStatus.READY, DEADLINE), Durations(0.0, 0.0, 0.0)),
    ],
)
def test_a_visit_without_events_is_measured_by_its_record(active: Visit, durations: Durations) -> None:
    assert extend(begin_times(0.0), [], 10.0, active).durations == durations


def test_a_pause_between_two_batches_is_in_the_queue_from_its_due_time() -> None:
    started = extend(begin_times(0.0), [event("step.started", 2.0)], 3.0, visit(VisitStatus.RUNNING))
    assert started.durations == Durations(1.0, 0.0, 2.0)
    later = extend(started, [], 9.0, visit(VisitStatus.READY, due_at=5.0))
    assert later.durations == Durations(3.0, 0.0, 6.0)


def test_a_visit_that_resumes_after_the_end_of_its_run_waits_again() -> None:
    events = [event("step.started", 1.0), event("step.waiting", 2.0), event("workflow.cancelled", 3.0, None)]
    ended = extend(begin_times(0.0), events, 3.0)
    assert ended.durations == Durations(1.0, 1.0, 1.0)
    resumed = extend(ended, [], 5.0, visit(VisitStatus.WAITING, due_at=NEVER))
    assert (resumed.active, resumed.durations) == ({("a", 1): (1, None)}, ended.durations)


def test_a_paused_run_is_not_measured() -> None:
    paused = [event("step.started", 1.0), event("step.waiting", 2.0), event("workflow.paused", 4.0, None)]
    held = extend(begin_times(0.0), paused, 5.0, visit(VisitStatus.PARKED))
    assert held.durations == Durations(1.0, 2.0, 1.0)
    events = [*paused, event("workflow.unpaused", 8.0, None)]
    waiting = visit(VisitStatus.WAITING, due_at=NEVER)
    assert extend(begin_times(0.0), events, 10.0, waiting).durations == Durations(1.0, 4.0, 1.0)


def test_a_step_at_work_is_not_paused() -> None:
    events = [event("step.started", 1.0), event("workflow.paused", 2.0, None)]
    events += [event("workflow.unpaused", 4.0, None), event("notification.failed", 4.5, None)]
    events += [event("step.completed", 5.0)]
    assert extend(begin_times(0.0), events, 6.0).durations == Durations(4.0, 0.0, 1.0)


def test_an_open_visit_is_measured_up_to_now() -> None:
    started = [event("step.started", 2.0)]
    ready = visit(VisitStatus.READY, due_at=6.0)
    assert visit_intervals(ready, started, 0.0, 9.0) == [(2, 0.0, 2.0), (0, 2.0, 6.0), (2, 6.0, 9.0)]
    running = visit(VisitStatus.RUNNING, segment_started_at=3.0)
    assert visit_intervals(running, [], 0.0, 9.0) == [(2, 0.0, 3.0), (0, 3.0, 9.0)]
    assert visit_intervals(visit(VisitStatus.PARKED), started, 0.0, 9.0) == [(2, 0.0, 2.0)]


def test_a_time_that_is_not_known_has_no_timestamp() -> None:
    assert timestamp(None) is None
