"""The instants at which wall-clock times of a zone fire.

Problem: when the UTC offset of a zone changes, some wall-clock times do not exist, and others exist twice. A
daily job must run once on such a day, and an hourly job must run in every hour that passes.

Algorithm: PEP 495. A wall-clock time has the offset before a change (`fold=0`) and the one after it
(`fold=1`). In a gap the second is greater, and where a time is repeated it is smaller. The rule:

    hour field    in a gap                          when repeated
    all hours     dropped                           in both passes
    other         the first instant after the gap   in the first pass

The first instants of ascending wall-clock times ascend, too. So a search may end at the first of them that
is not before the best one so far.

Instants of a time are counted between the changes of the offset, where each wall-clock time is one instant.

Cost: a constant number of matches for each instant. In the hour after a repetition, those of one hour. To
count costs some microseconds for each day, however many instants there are.

Limits: an offset has at most one change in a day.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from noetl.planner.schedules.cron import Cron

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_LAST_YEAR = 9_000
"""After which no instant is looked for, so that no date overflows."""


class Gap(NamedTuple):
    """The wall-clock times from `first` to `end`, which a zone does not have. `instant` is that of `end`."""

    instant: datetime
    first: datetime
    end: datetime


@lru_cache(maxsize=256)
def find_gaps(zone: ZoneInfo, after: datetime, days: int) -> tuple[Gap, ...]:
    """Return the gaps of a zone in some days after an instant, in ascending order.

    >>> gap, = find_gaps(ZoneInfo("Europe/Berlin"), datetime(2025, 1, 1, tzinfo=UTC), 365)
    >>> f"{gap.instant:%d.%m. %H:%M}, {gap.first:%H:%M}, {gap.end:%H:%M}"
    '30.03. 01:00, 02:00, 03:00'
    """
    starts = [after + number * _DAY for number in range(days + 1)]
    offsets = [_offset(zone, start) for start in starts]
    gaps = []
    for start, before, later in zip(starts, offsets, offsets[1:], strict=False):
        if later > before:
            instant = _find_change(zone, start, start + _DAY)
            wall_clock = instant.replace(tzinfo=None)
            gaps.append(Gap(instant, wall_clock + before, wall_clock + later))
    return tuple(gaps)


class OffsetChange(NamedTuple):
    """A change of the offset of a zone at an instant."""

    instant: datetime
    before: timedelta
    later: timedelta

    @property
    def wall_clocks(self) -> tuple[datetime, datetime]:
        """The wall-clock times of the instant, with the offset before the change and with the one after."""
        naive = self.instant.replace(tzinfo=None)
        return naive + self.before, naive + self.later


def find_changes(zone: ZoneInfo, start: datetime, end: datetime) -> list[OffsetChange]:
    """Return the changes of the offset of a zone from `start` on and before `end`, in ascending order.

    >>> berlin = ZoneInfo("Europe/Berlin")
    >>> changes = find_changes(berlin, datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    >>> [f"{change.instant:%d.%m.}" for change in changes]
    ['30.03.', '26.10.']
    """
    changes = []
    before = _offset(zone, start)
    while start < end:
        later = _offset(zone, start + _DAY)
        if later != before:
            changes.append(OffsetChange(_find_change(zone, start, start + _DAY), before, later))
        start, before = start + _DAY, later
    return [change for change in changes if change.instant < end]


def count_instants(cron: Cron, zone: ZoneInfo, start: datetime, end: datetime) -> int:
    """Return how many instants there are at which a cron expression fires, from `start` on and before `end`.

    >>> days = datetime(2025, 3, 29, tzinfo=UTC), datetime(2025, 3, 31, tzinfo=UTC)
    >>> count_instants(Cron("*/20 2 * * *"), ZoneInfo("Europe/Berlin"), *days)
    4
    """
    if start >= end:
        return 0
    changes = find_changes(zone, start - _DAY, end)
    bounds = [start, *(change.instant for change in changes if change.instant > start), end]
    counted = 0
    for since, until in pairwise(bounds):
        offset = _offset(zone, since)
        first, last = (instant.replace(tzinfo=None) + offset for instant in (since, until))
        for change in changes if not cron.is_hourly else ():
            if change.instant > since:
                continue
            was, became = change.wall_clocks
            if became < was:
                # Repeated times have fired in the first pass.
                first = max(first, was)
            elif change.instant == since and cron.count_between(was, became):
                # The times of the gap fire at its end, together with the time that follows.
                counted += not cron.count_between(became, became + _SECOND)
        counted += cron.count_between(first, last) if first < last else 0
    return counted


def next_instant(cron: Cron, zone: ZoneInfo, after: datetime) -> datetime | None:
    """Return the first instant after `after` at which a cron expression fires, in UTC, or None.

    >>> berlin, before = ZoneInfo("Europe/Berlin"), datetime(2025, 3, 29, 12, tzinfo=UTC)
    >>> next_instant(Cron("30 2 * * *"), berlin, before).astimezone(berlin).isoformat()
    '2025-03-30T03:00:00+02:00'
    """
    best: datetime | None = None
    for local in cron.matches_from(_first_local(cron, zone, after)):
        if local.year > _LAST_YEAR:
            break
        instants = find_instants(local, zone, is_hourly=cron.is_hourly)
        if best is not None and _offset_instant(local, zone, 0) >= best:
            return best
        later = [instant for instant in instants if instant > after]
        best = min([*later, *([best] if best is not None else [])], default=None)
    return best


def find_instants(local: datetime, zone: ZoneInfo, *, is_hourly: bool) -> list[datetime]:
    """Return the instants at which a wall-clock time fires, in UTC. There are none, one or two."""
    first, second = _offset_instant(local, zone, 0), _offset_instant(local, zone, 1)
    if first == second:
        return [first]
    if first < second:
        return [first, second] if is_hourly else [first]
    return [] if is_hourly else [_find_change(zone, first - _DAY, first + _DAY)]


def _first_local(cron: Cron, zone: ZoneInfo, after: datetime) -> datetime:
    """Return a wall-clock time that is not later than the first one that fires after an instant."""
    local = after.astimezone(zone).replace(tzinfo=None)
    if not cron.is_hourly:
        return local
    # The second pass of an earlier wall-clock time may follow.
    return local - max(_offset(zone, after - _DAY) - _offset(zone, after + _DAY), timedelta())


def _offset_instant(local: datetime, zone: ZoneInfo, fold: int) -> datetime:
    return local.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _find_change(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """Return the first instant with another offset than at `low`, to the second."""
    before = _offset(zone, low)
    while high - low > _SECOND:
        middle = (low + (high - low) / 2).replace(microsecond=0)
        low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
    return high.replace(microsecond=0)


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
