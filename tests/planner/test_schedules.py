"""Schedules: cron expressions in zones whose offset from UTC changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from itertools import islice, pairwise, takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cronsim import CronSim

from noetl.planner.schedules.cron import Cron, CronError, NoDateError
from noetl.planner.schedules.zone import count_instants, next_instant

MINUTE = timedelta(minutes=1)
FIELDS = {
    "30 2 * * *": (range(30, 31), range(2, 3)),
    "0 30 2 * * *": (range(30, 31), range(2, 3)),
    "*/20 0-3 * * *": (range(0, 60, 20), range(4)),
    "59 23,0,1 * * *": (range(59, 60), (23, 0, 1)),
    "15 * * * *": (range(15, 16), range(24)),
    "*/30 */1 * * *": (range(0, 60, 30), range(24)),
    "0 */2 * * *": (range(1), range(0, 24, 2)),
}
"""Expressions with the minutes and the hours that they match, on each day."""


def firings(cron: Cron, zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    instant = next_instant(cron, zone, start)
    while instant is not None and instant <= end:
        yield instant
        instant = next_instant(cron, zone, instant)


def shown(text: str, zone: str, day: str, hours: int = 5) -> list[str]:
    """Return the firings of the first hours of a day, as local times with their offset in hours."""
    known = ZoneInfo(zone)
    start = datetime.fromisoformat(day).replace(tzinfo=known).astimezone(UTC)
    found = firings(Cron(text), known, start, start + timedelta(hours=hours))
    return [instant.astimezone(known).strftime("%H:%M%z")[:-2] for instant in found]


@pytest.mark.parametrize(
    ("text", "march", "october"),
    [
        ("30 2 * * *", ["03:00+02"], ["02:30+02"]),
        ("0 30 2 * * *", ["03:00+02"], ["02:30+02"]),
        ("*/20 2 * * *", ["03:00+02"], ["02:00+02", "02:20+02", "02:40+02"]),
        (
            "15 * * * *",
            ["00:15+01", "01:15+01", "03:15+02", "04:15+02", "05:15+02"],
            ["00:15+02", "01:15+02", "02:15+02", "02:15+01", "03:15+01"],
        ),
    ],
)
def test_the_night_of_a_change_in_berlin(text: str, march: list[str], october: list[str]) -> None:
    assert shown(text, "Europe/Berlin", "2025-03-30") == march
    assert shown(text, "Europe/Berlin", "2025-10-26") == october


def find_changes(zone: ZoneInfo, first: int = 2024, last: int = 2030) -> list[datetime]:
    """Return the days, as their first instants, in which the offset of a zone changes."""
    start, count = datetime(first, 1, 1, tzinfo=UTC), 366 * (last - first + 1)
    days = [start + timedelta(days=number) for number in range(count)]
    offsets = [(day, day.astimezone(zone).utcoffset()) for day in days]
    return [before for (before, offset), (_, other) in pairwise(offsets) if offset != other]


@cache
def zones_that_change() -> dict[str, list[datetime]]:
    """Return one zone of those with equal offsets around equal changes, with the days of the changes."""
    known: set[object] = set()
    found: dict[str, list[datetime]] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        changes = find_changes(zone)
        key = tuple((change, change.astimezone(zone).utcoffset()) for change in changes)
        if changes and key not in known:
            known.add(key)
            found[name] = changes
    return found


class Minute(NamedTuple):
    """A minute of a zone: its wall-clock time, whether it comes again, and those that it skips."""

    instant: datetime
    hour: int
    minute: int
    is_repeated: bool
    skipped: list[datetime]


@lru_cache(maxsize=1)
def minutes_around(zone: ZoneInfo, start: datetime, end: datetime) -> list[Minute]:
    """Return each minute after `start`, up to `end`."""
    minutes: list[Minute] = []
    seen: set[datetime] = set()
    instant = start - timedelta(hours=3)
    before = instant.astimezone(zone).replace(tzinfo=None, fold=0) - MINUTE
    while instant <= end:
        local = instant.astimezone(zone).replace(tzinfo=None, fold=0)
        skipped = [before + n * MINUTE for n in range(1, (local - before) // MINUTE)]
        if instant > start:
            minutes.append(Minute(instant, local.hour, local.minute, local in seen, skipped))
        seen.add(local)
        before, instant = local, instant + MINUTE
    return minutes


def brute_force(text: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Return the firings by the rule, from each minute of the time."""
    minutes, hours = map(frozenset, FIELDS[text])
    is_hourly = len(hours) == 24
    found = []
    for instant, hour, minute, is_repeated, skipped in minutes_around(zone, start, end):
        if minute in minutes and hour in hours and (is_hourly or not is_repeated):
            found.append(instant)
        elif skipped and not is_hourly:
            if any(local.minute in minutes and local.hour in hours for local in skipped):
                found.append(instant)
    return found


@pytest.mark.parametrize("text", [*FIELDS, "0 2 L * SUN", "30 0 13 * FRI"])
@pytest.mark.parametrize("name", ["Europe/Berlin", "America/Havana", "Australia/Lord_Howe"])
def test_counted_instants_around_each_change_equal_those_that_are_found(text: str, name: str) -> None:
    cron, zone = Cron(text), ZoneInfo(name)
    for change in find_changes(zone, 2025, 2026):
        for start in (change - timedelta(hours=5, seconds=7), change, change + timedelta(minutes=40)):
            found = list(firings(cron, zone, start - timedelta(microseconds=1), change + timedelta(hours=30)))
            for end in (change + timedelta(minutes=31, seconds=1), change + timedelta(hours=30)):
                expected = sum(instant < end for instant in found)
                assert count_instants(cron, zone, start, end) == expected, (start, end)


def test_firings_around_each_change_equal_the_rule() -> None:
    """All zones with a change from 2024 to 2030, of which those with the same changes count once.

    After 2026 most zones repeat their rules, so each change is compared for two expressions, in turn.
    """
    texts = tuple(FIELDS)
    for name, changes in zones_that_change().items():
        zone = ZoneInfo(name)
        for number, change in enumerate(changes):
            start, end = change - timedelta(hours=6), change + timedelta(hours=36)
            later_texts = (texts[number % len(texts)], texts[(number + 3) % len(texts)])
            for text in texts if change.year <= 2026 else later_texts:
                found = list(firings(Cron(text), zone, start, end))
                assert found == brute_force(text, zone, start, end), (name, change, text)


@pytest.mark.parametrize("text", ["0 30 2 * * *", "*/20 0-3 * * *", "0 */2 * * *"])
def test_cronsim_with_a_zone_differs_from_the_rule(text: str) -> None:
    """The reason why `Cron` gives it local times without a zone."""
    zone = ZoneInfo("Europe/Berlin")
    differences = []
    for change in find_changes(zone, 2025, 2025):
        start, end = change - timedelta(hours=6), change + timedelta(hours=36)
        instants = (local.astimezone(UTC) for local in CronSim(text, start.astimezone(zone)))
        found = list(takewhile(end.__ge__, instants))
        differences.append(found != brute_force(text, zone, start, end))
        assert list(firings(Cron(text), zone, start, end)) == brute_force(text, zone, start, end)
    assert any(differences)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 25 * * *", "the hour `25` is wrong"),
        ("0 1", "it has 2 fields, not 5 or 6"),
        ("0 0 32 * *", "the day `32` is wrong"),
        ("0 0 * * FRI-MON", "the weekday `FRI-MON` is wrong"),
        ("@daily", "a schedule such as `@daily` is written in five fields, `0 0 * * *`"),
        ("0 0 15W * *", "the weekday nearest to a date is not offered"),
        ("0 0 ? * *", "`?` is written as `*`"),
        ("H 0 * * *", "`H` is no value: write a number, and spread the firings by `jitter`"),
    ],
)
def test_expressions_of_other_dialects(text: str, message: str) -> None:
    with pytest.raises(CronError, match=re.escape(message)):
        Cron(text)


def test_no_instant_is_looked_for_after_the_year_9000() -> None:
    start = datetime(8999, 1, 1, tzinfo=UTC)
    assert next_instant(Cron("0 0 29 2 *"), ZoneInfo("UTC"), start) is None


def test_dates_that_never_come() -> None:
    with pytest.raises(NoDateError, match="none of its months has the day"):
        Cron("0 0 31 4,6 *")
    with pytest.raises(CronError, match="the month `13` is wrong"):
        Cron("0 0 31 13 *")
    start = datetime(2024, 1, 1, tzinfo=UTC)
    assert next_instant(Cron("0 0 30 2 1"), ZoneInfo("UTC"), start) == datetime(2024, 2, 5, tzinfo=UTC)
    assert next_instant(Cron("0 0 29 2 *"), ZoneInfo("UTC"), datetime(2096, 3, 1, tzinfo=UTC)) == datetime(
        2104, 2, 29, tzinfo=UTC
    )


@pytest.mark.parametrize(
    "text",
    [
        "*/7 3-5 * * *",
        "*/20 59 23 * * *",
        "0 0 L * *",
        "0 12 LW 2,6 *",
        "0 0 31 * *",
        "0 0 13 * FRI",
        "0 0 * * MON#5",
        "0 0 * 2 7L",
        "0 0 29 2 *",
        "0 0 */28 2 MON#5",
        "30 */7 */10 */5 */2",
    ],
)
@pytest.mark.parametrize("shown_start", ["2024-02-28T23:59:59.500000", "2099-12-31T04:00:00"])
def test_the_matches_are_those_of_cronsim(text: str, shown_start: str) -> None:
    start = datetime.fromisoformat(shown_start)
    expected = CronSim(text, (start - timedelta(microseconds=1)).replace(microsecond=0))
    assert list(islice(Cron(text).matches_from(start), 5)) == list(islice(expected, 5))


@pytest.mark.parametrize("text", ["0 0 */31 * MON#5", "0 0 29 2 */7", "0 0 */30 2 */2"])
def test_a_rare_date_is_found_with_few_comparisons(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    days: list[date] = []
    match_day = CronSim.match_day

    def count_and_match(cron: CronSim, day: date) -> bool:
        days.append(day)
        return match_day(cron, day)

    monkeypatch.setattr(CronSim, "match_day", count_and_match)
    list(islice(Cron(text).matches_from(datetime(2024, 3, 1)), 3))  # noqa: DTZ001
    assert len(days) <= 12 * 50 * 3


def test_the_last_dates_of_the_calendar_end_a_search() -> None:
    assert list(Cron("0 0 31 12 *").matches_from(datetime(9990, 1, 1)))[-1].year == 9999  # noqa: DTZ001
