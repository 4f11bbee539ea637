"""Instants of a schedule that have passed: which are performed, and which are missed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.model import due_instants
from noetl.executor.model.due_instants import (
    MAX_COUNTED,
    MISSED_SECONDS,
    DueInstants,
    count_passed,
    find_due,
)
from noetl.planner.schedules.schedule import CatchUp, CatchUpMode, Schedule

HOUR, DAY = 3600.0, 86_400.0
HOURLY = Schedule(every_seconds=HOUR)


def perform_all(schedule: Schedule, next_at: float, now: float) -> tuple[list[float], int, float | None]:
    """Return the performed instants, how many were missed, and the next instant."""
    performed, missed, following = [], 0, next_at
    while True:
        due = find_due(schedule, following, now)
        missed += due.missed
        if due.performed is not None:
            performed.append(due.performed)
        if due.next_at is None or due.next_at == following:
            return performed, missed, due.next_at
        following = due.next_at


def test_nothing_is_due_before_the_next_instant() -> None:
    assert find_due(HOURLY, HOUR, HOUR - 1) == DueInstants(None, 0, None, HOUR)
    assert count_passed(HOURLY, HOUR, HOUR - 1) == DueInstants(None, 0, None, HOUR)
    assert count_passed(HOURLY, None, HOUR) == DueInstants(None, 0, None, None)


@pytest.mark.parametrize(
    ("catch_up", "performed", "missed"),
    [
        (CatchUp("none"), [], 5),
        (CatchUp("last"), [5 * HOUR], 4),
        (CatchUp("all"), [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR], 0),
        (CatchUp("all", limit=2), [4 * HOUR, 5 * HOUR], 3),
        (CatchUp("all", within_seconds=2 * HOUR), [4 * HOUR, 5 * HOUR], 3),
        (CatchUp("all", within_seconds=60.0), [], 5),
    ],
)
def test_instants_that_were_missed(catch_up: CatchUp, performed: list[float], missed: int) -> None:
    schedule = Schedule(every_seconds=HOUR, catch_up=catch_up)
    assert perform_all(schedule, HOUR, 5.5 * HOUR) == (performed, missed, 6 * HOUR)


@pytest.mark.parametrize("mode", ["none", "last", "all"])
def test_instants_of_the_last_minute_are_performed_in_order(mode: CatchUpMode) -> None:
    schedule = Schedule(every_seconds=10.0, catch_up=CatchUp(mode))
    assert perform_all(schedule, 0.0, 45.0) == ([0.0, 10.0, 20.0, 30.0, 40.0], 0, 50.0)


def test_an_instant_before_the_end_of_the_schedule() -> None:
    schedule = Schedule(every_seconds=HOUR, end_at=2.5 * HOUR)
    assert find_due(schedule, HOUR, 9 * HOUR) == DueInstants(2 * HOUR, 1, HOUR, None)
    assert count_passed(schedule, HOUR, 9 * HOUR) == DueInstants(None, 2, 2 * HOUR, None)


@pytest.mark.parametrize("mode", ["none", "last", "all"])
@pytest.mark.parametrize("schedule", [Schedule(cron="* * * * * *"), Schedule(every_seconds=1.0)])
def test_a_schedule_of_each_second_after_a_month(schedule: Schedule, mode: CatchUpMode) -> None:
    now = 30 * DAY
    catch_up = CatchUp(mode, limit=100)
    due = find_due(schedule, 0.0, now, catch_up)
    first = now - MISSED_SECONDS - (100 if mode == "all" else 0)
    assert (due.performed, due.newest_missed, due.next_at) == (first, first - 1, first + 1)
    # Those of a cron expression are counted one by one, and not all.
    assert due.missed == (first if schedule.cron is None else MAX_COUNTED - (now - first) - 1)


def test_the_next_instant_counts_although_the_schedule_has_changed() -> None:
    assert find_due(HOURLY, 0.5 * HOUR, 0.6 * HOUR) == DueInstants(0.5 * HOUR, 0, None, HOUR)
    assert find_due(HOURLY, 0.5 * HOUR, 1.5 * HOUR) == DueInstants(HOUR, 1, 0.5 * HOUR, 2 * HOUR)


def test_instants_that_all_passed_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """More instants than are counted, and than are kept, before a gap in which no span has enough of them."""
    monkeypatch.setattr(due_instants, "MAX_COUNTED", 100)
    schedule = Schedule(cron="*/30 * * 1 *")
    due = find_due(schedule, 0.0, 330 * DAY)
    assert due.missed == 99
    assert due.newest_missed == 31 * DAY - HOUR
    assert due.performed == 31 * DAY - HOUR / 2
    assert due.next_at == 365 * DAY


@given(
    interval=st.integers(1, 500),
    passed=st.integers(0, 1500),
    catch_up=st.builds(
        CatchUp, st.sampled_from(["none", "last", "all"]), st.integers(0, 3000), st.integers(1, 20)
    ),
    start=st.integers(0, 1000),
)
def test_every_passed_instant_is_performed_or_missed(
    interval: int, passed: int, catch_up: CatchUp, start: int
) -> None:
    schedule = Schedule(every_seconds=interval, start_at=start, catch_up=catch_up)
    now = float(start + passed)
    instants = [float(start + interval * index) for index in range(passed // interval + 1)]
    performed, missed, following = perform_all(schedule, instants[0], now)
    assert len(performed) + missed == len(instants)
    assert following == instants[-1] + interval
    fresh = [instant for instant in instants if instant >= now - MISSED_SECONDS]
    late = [instant for instant in instants if instant < now - MISSED_SECONDS]
    if catch_up.mode == "none":
        kept: list[float] = []
    elif catch_up.mode == "last":
        kept = [] if fresh else late[-1:]
    else:
        kept = [instant for instant in late[-catch_up.limit :] if instant >= now - catch_up.within_seconds]
    assert performed == kept + fresh
