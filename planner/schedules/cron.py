"""Cron expressions: the wall-clock times that they match.

Problem: dialects of cron differ in their characters, and in what a day and a weekday mean together.

Algorithm: `cronsim` parses an expression, and decides which days match as Debian's cron does. Each day that
matches has the same times, so the matches are enumerated and counted by days. They are times without a zone.
`noetl.planner.schedules.zone` maps them.

Only days that the fields name are compared. So an expression that never matches costs about a millisecond.
A text is parsed once, because each instant of a schedule asks for its expression again.

Cost: proportional to the matches that are read. To count them costs a microsecond or two for each day.

The library accepts a step past the end of its field, such as `*/61`, which matches the first value only.
Texts of playbooks may not have one. Schedules that are stored may.

Limits: nearest weekdays (`15W`), `?`, `H`, `@daily` and ranges past the end of the week are refused.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

_SAMPLE = datetime(2024, 1, 1)  # noqa: DTZ001  Matches are wall-clock times, without a zone.
_DAY = timedelta(days=1)
_DAY_SECONDS = 86_400
_MAX_LENGTH = 500
_LAST_YEAR = 9999
_SEARCHED_YEARS = 50
"""In how many further years a date must match, as in `cronsim`."""

_OTHER_DIALECTS = {
    r"^@": "a schedule such as `@daily` is written in five fields, `0 0 * * *`",
    r"\?": "`?` is written as `*`",
    r"\bH\b": "`H` is no value: write a number, and spread the firings by `jitter`",
    r"\d+W\b": "the weekday nearest to a date is not offered",
}

_FIELD_RANGES = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 31),
    "month": (1, 12),
    "weekday": (0, 7),
}

_FIELD_HINTS = {
    "second": "write numbers from 0 to 59, such as `30`, `0-29`, `0,30` or `*/10`",
    "minute": "write numbers from 0 to 59, such as `30`, `0-29`, `0,30` or `*/10`",
    "hour": "write numbers from 0 to 23, such as `2`, `9-17`, `6,18` or `*/4`",
    "day": "write numbers from 1 to 31, such as `1`, `1-7`, `1,15` or `*/2`, or `L` for the last day",
    "month": "write numbers from 1 to 12 or names in ascending order, such as `1-6` or `JAN,JUL`",
    "weekday": "write numbers from 0 to 7 or names in ascending order, such as `MON-FRI` or `SAT,SUN`",
}
"""What a field may have."""

_FIELDS_HINT = "write minute, hour, day, month and weekday, such as `30 2 * * MON-FRI`"


class CronError(ValueError):
    """A text that is no cron expression. The message says what is wrong, and `hint` what may be written."""

    def __init__(self, message: str, hint: str = _FIELDS_HINT) -> None:
        super().__init__(message)
        self.hint = hint


class NoDateError(CronError):
    """A cron expression whose day is in none of its months."""


class Cron:
    """A cron expression of five fields, or of six with seconds first.

    Raises:
        CronError: the text is none.
        NoDateError: no month of it has the day.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        if len(self.text) > _MAX_LENGTH:
            raise CronError(f"it has more than {_MAX_LENGTH} characters", "write several triggers")
        self._parsed = parsed = _parse(self.text)
        self._times = _DayTimes(parsed.hours, parsed.minutes, parsed.seconds)
        # Negative numbers stand for the last day and the last weekday of a month.
        has_fixed_days = parsed.day_and and min(parsed.days) > 0
        self._days = sorted(parsed.days) if has_fixed_days else range(1, 32)
        self.is_hourly = len(parsed.hours) == 24
        """Whether the expression matches in every hour of the day."""
        self.day_or_weekday = not parsed.day_and
        """Whether a date matches if only its day or only its weekday does."""

    def matches_from(self, local: datetime) -> Iterator[datetime]:
        """Yield the wall-clock times that match, from `local` on, in ascending order.

        They end if no date matches in the fifty years that follow.

        >>> next(Cron("30 2 * * MON").matches_from(datetime(2024, 1, 8, 2, 30)))
        datetime.datetime(2024, 1, 8, 2, 30)
        """
        first = local
        for day in self._dates_from(local.date()):
            midnight = datetime.combine(day, time())
            for passed in self._times.from_second((first - midnight).total_seconds()):
                yield midnight + timedelta(seconds=passed)
            first = midnight

    def _dates_from(self, first: date) -> Iterator[date]:
        """Yield the dates that match from `first` on, in ascending order, until fifty years have none."""
        latest = first
        for year in range(first.year, _LAST_YEAR + 1):
            if year > latest.year + _SEARCHED_YEARS:
                return
            for month in sorted(self._parsed.months):
                _, length = monthrange(year, month)
                days = [date(year, month, number) for number in self._days if number <= length]
                for day in days:
                    if day >= first and self._parsed.match_day(day):
                        latest = day
                        yield day

    def count_between(self, first: datetime, end: datetime) -> int:
        """Return how many wall-clock times match, from `first` on and before `end`.

        >>> Cron("*/20 2 * * *").count_between(datetime(2024, 1, 8, 2, 20), datetime(2024, 1, 10, 2, 20))
        6
        """
        counted = 0
        day = first.date()
        while day <= end.date():
            if day.month in self._parsed.months and self._parsed.match_day(day):
                midnight = datetime.combine(day, time())
                counted += self._times.count_before(end - midnight)
                counted -= self._times.count_before(first - midnight)
            day += _DAY
        return counted


class _DayTimes:
    """The times of a day that match: each combination of some hours, minutes and seconds."""

    def __init__(self, hours: Iterable[int], minutes: Iterable[int], seconds: Iterable[int]) -> None:
        self._hours = sorted(hours)
        self._minutes = sorted(minutes)
        self._seconds = sorted(seconds)

    def from_second(self, first: float) -> Iterator[int]:
        """Yield the seconds after midnight of the times that are at `first` or later, in ascending order.

        >>> list(_DayTimes([0, 2], [0, 30], [0]).from_second(1800.5))
        [7200, 9000]
        """
        rest = min(max(math.ceil(first), 0), _DAY_SECONDS)
        first_hour, rest = divmod(rest, 3600)
        first_minute, first_second = divmod(rest, 60)
        for hour in self._hours[bisect_left(self._hours, first_hour) :]:
            is_first_hour = hour == first_hour
            start = bisect_left(self._minutes, first_minute) if is_first_hour else 0
            for minute in self._minutes[start:]:
                is_first_minute = is_first_hour and minute == first_minute
                start = bisect_left(self._seconds, first_second) if is_first_minute else 0
                for second in self._seconds[start:]:
                    yield 3600 * hour + 60 * minute + second

    def count_before(self, passed: timedelta) -> int:
        """Return how many of the times are less than `passed` after midnight."""
        rest = min(max(math.ceil(passed.total_seconds()), 0), _DAY_SECONDS)
        hour, rest = divmod(rest, 3600)
        minute, second = divmod(rest, 60)
        counted = bisect_left(self._hours, hour) * len(self._minutes) * len(self._seconds)
        if hour in self._hours:
            counted += bisect_left(self._minutes, minute) * len(self._seconds)
            if minute in self._minutes:
                counted += bisect_left(self._seconds, second)
        return counted


@lru_cache(maxsize=256)
def _parse(text: str) -> CronSim:
    """Return a parsed expression, which no caller may change.

    Raises:
        CronError: the text is none.
        NoDateError: no month of it has the day.
    """
    for pattern, message in _OTHER_DIALECTS.items():
        if re.search(pattern, text.upper()):
            raise CronError(message)
    try:
        return CronSim(text, _SAMPLE)
    except CronSimError as problem:
        if str(problem) == "Bad day-of-month" and _is_valid_in_any_month(text):
            raise NoDateError("none of its months has the day") from None
        raise _describe(str(problem), text) from None


def find_long_step(text: str) -> CronError | None:
    """Return what is wrong with a valid expression that has a step past the end of its field, or None.

    >>> str(find_long_step("*/61 * * * *"))
    'the step of the minute `*/61` must be at most 59, as its values are 0 to 59'
    >>> find_long_step("*/59 */23 * * 1-5/2")
    """
    fields = text.split()
    for (name, (first, last)), field in zip(list(_FIELD_RANGES.items())[-len(fields) :], fields, strict=True):
        steps = [int(term.partition("/")[2]) for term in field.split(",") if "/" in term]
        if any(step > last for step in steps):
            values = f"its values are {first} to {last}"
            message = f"the step of the {name} `{field}` must be at most {last}, as {values}"
            return CronError(message, _FIELD_HINTS[name])
    return None


def _is_valid_in_any_month(text: str) -> bool:
    *first_fields, _, weekday = text.split() or [""]
    try:
        CronSim(" ".join([*first_fields, "*", weekday]), _SAMPLE)
    except CronSimError:
        return False
    return True


def _describe(problem: str, text: str) -> CronError:
    """Return what is wrong, from the message of cronsim.

    >>> _describe("Bad hour", "0 25 * * *")
    CronError('the hour `25` is wrong')
    >>> _describe("Wrong number of fields", "0 1")
    CronError('it has 2 fields, not 5 or 6')
    """
    names = ("second", "minute", "hour", "day-of-month", "month", "day-of-week")
    fields = text.split()
    name = problem.removeprefix("Bad ")
    if name not in names or len(fields) not in (5, 6):
        return CronError(f"it has {len(fields)} fields, not 5 or 6")
    shown = {"day-of-month": "day", "day-of-week": "weekday"}.get(name, name)
    field = fields[names.index(name) - (len(fields) == 5)]
    return CronError(f"the {shown} `{field}` is wrong", _FIELD_HINTS[shown])
