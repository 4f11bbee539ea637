"""Firings of schedules: properties of the instants, and the list that `noetl plan --triggers` shows."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.planner.schedules.cron import Cron
from noetl.planner.schedules.firings import find_moved_time, list_firings
from noetl.planner.schedules.schedule import Schedule
from noetl.planner.schedules.zone import find_gaps
from noetl.planner.schedules.zone_names import find_zone

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
)
FIRST, LAST = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2024, 2028))

instants = st.floats(FIRST, LAST, allow_nan=False)
seconds = st.one_of(st.integers(1, 100_000).map(float), st.floats(1.0, 100_000.0))
minutes = st.sampled_from(["0", "30", "*/7", "5,45", "*", "10-12"])
hours = st.sampled_from(["*", "2", "*/5", "1-3", "0,23"])
days = st.sampled_from(["* *", "1 *", "L *", "* 3", "29 2", "*/10 6-9"])
weekdays = st.sampled_from(["*", "MON-FRI", "SUN", "MON#2", "5L"])
crons = st.tuples(minutes, hours, days, weekdays).map(" ".join)
spans = st.tuples(st.none() | instants, st.none() | instants)
timings = st.one_of(st.tuples(crons, st.none()), st.tuples(st.none(), seconds))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Return any schedule. It may end before its first firing."""
    (cron, interval), (start, end) = draw(timings), draw(spans)
    return Schedule(cron, interval, draw(st.sampled_from(ZONES)), start, end)


@given(schedules(), instants)
def test_firings_ascend_from_start_to_end(schedule: Schedule, instant: float) -> None:
    start = -1.0 if schedule.start_at is None else schedule.start_at
    found = instant
    for _ in range(5):
        following = schedule.next_after(found)
        if following is None:
            return
        assert following > found
        assert following >= start
        assert schedule.end_at is None or following < schedule.end_at
        found = following


@given(schedules(), instants, st.floats(0.0, 1.0))
def test_no_firing_is_passed_over(schedule: Schedule, instant: float, part: float) -> None:
    """A firing is the next one from each instant before it."""
    following = schedule.next_after(instant)
    if following is not None:
        middle = min(instant + (following - instant) * part, following - 0.001)
        if middle >= instant:
            assert schedule.next_after(middle) == following


@given(seconds, st.none() | instants, instants)
def test_intervals_are_multiples_from_the_start(interval: float, start: float | None, instant: float) -> None:
    following = Schedule(every_seconds=interval, start_at=start).next_after(instant)
    assert following is not None
    count = round((following - (start or 0.0)) / interval)
    assert count >= 0
    assert following == (start or 0.0) + count * interval
    assert following - max(instant, start or 0.0) <= interval + 1e-3


@given(instants)
def test_an_interval_fires_at_its_start(start: float) -> None:
    for interval in (1.0, 1.1, 86_400.0):
        schedule = Schedule(every_seconds=interval, start_at=start)
        assert schedule.next_after(start - 5.0) == start
        assert schedule.next_after(start) == start + interval


@given(crons, st.sampled_from(ZONES), instants)
def test_a_firing_has_a_time_that_matches_or_that_is_moved(cron: str, zone: str, instant: float) -> None:
    schedule = Schedule(cron, timezone=zone)
    for firing in list_firings(schedule, instant, 3):
        local = firing.local.replace(tzinfo=None)
        matches = next(Cron(cron).matches_from(local)) == local
        assert matches or find_moved_time(schedule, firing.local) is not None


BERLIN = Schedule("30 2 * * *", timezone="Europe/Berlin")


def shown(schedule: Schedule, day: str, number: int) -> list[tuple[str, str | None]]:
    start = datetime.fromisoformat(day).replace(tzinfo=find_zone(schedule.timezone)).timestamp()
    return [(firing.local.isoformat(" "), firing.note) for firing in list_firings(schedule, start, number)]


def test_a_change_of_the_offset_has_a_note() -> None:
    assert shown(BERLIN, "2025-03-29", 3) == [
        ("2025-03-29 02:30:00+01:00", None),
        ("2025-03-30 03:00:00+02:00", "there is no 02:30: the offset changes from +01:00 to +02:00"),
        ("2025-03-31 02:30:00+02:00", None),
    ]
    assert shown(BERLIN, "2025-10-26", 2) == [
        ("2025-10-26 02:30:00+02:00", None),
        ("2025-10-27 02:30:00+01:00", "the offset changes from +02:00 to +01:00"),
    ]
    assert shown(Schedule("15 * * * *", timezone="Europe/Berlin"), "2025-03-30 01:00", 2) == [
        ("2025-03-30 01:15:00+01:00", None),
        ("2025-03-30 03:15:00+02:00", "the offset changes from +01:00 to +02:00"),
    ]


def test_the_first_firing_has_no_note_of_an_earlier_change() -> None:
    late = Schedule("*/20 2 * * *", timezone="Europe/Berlin", start_at=1_831_503_600.0)
    assert shown(late, "2027-07-01", 1) == [("2028-01-15 02:00:00+01:00", None)]
    assert shown(BERLIN, "2025-03-30", 1) == [
        ("2025-03-30 03:00:00+02:00", "there is no 02:30: the offset changes from +01:00 to +02:00")
    ]
    monthly = Schedule("30 2 30 3 *", timezone="Europe/Berlin")
    assert shown(monthly, "2024-12-01", 1) == shown(BERLIN, "2025-03-30", 1)


def test_a_list_begins_at_its_first_instant_and_may_end() -> None:
    assert shown(Schedule("0 4 * * *"), "2025-01-01 04:00", 1) == [("2025-01-01 04:00:00+00:00", None)]
    ends = Schedule(every_seconds=60.0, start_at=100.0, end_at=220.0)
    assert [firing.to_json() for firing in list_firings(ends, 0.0, 10)] == [
        {"scheduled_at": "1970-01-01T00:01:40Z", "local": "1970-01-01T00:01:40+00:00", "note": None},
        {"scheduled_at": "1970-01-01T00:02:40Z", "local": "1970-01-01T00:02:40+00:00", "note": None},
    ]


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Europe/Berlin", ["03-30 02:00 03:00"]),
        ("Australia/Lord_Howe", ["10-05 02:00 02:30"]),
        ("Asia/Kathmandu", []),
    ],
)
def test_gaps_of_a_year(zone: str, expected: list[str]) -> None:
    gaps = find_gaps(find_zone(zone), datetime(2025, 1, 1, tzinfo=UTC), 365)
    assert [f"{gap.first:%m-%d %H:%M} {gap.end:%H:%M}" for gap in gaps] == expected
    for gap in gaps:
        before, later = (find_zone(zone).utcoffset(time) for time in (gap.first, gap.end))
        assert before is not None
        assert later is not None
        assert gap.instant.replace(tzinfo=None) == gap.end - later
    assert all(first.instant < second.instant for first, second in pairwise(gaps))


def test_a_firing_on_the_day_of_a_gap_is_not_moved() -> None:
    schedule = Schedule(cron="30 12 * * *", timezone="Europe/Berlin")
    noon = datetime(2025, 3, 30, 12, 30, tzinfo=find_zone("Europe/Berlin"))
    assert find_moved_time(schedule, noon) is None
