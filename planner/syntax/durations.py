"""Durations as playbooks write them. Standard library only, because the executor reads them too."""

from __future__ import annotations

import re

from noetl.planner.limits import MAX_LIMIT, MAX_WINDOW_SECONDS, MIN_WINDOW_SECONDS
from noetl.planner.polled_sources import MAX_SETTLE_SECONDS
from noetl.planner.schedules.schedule import MAX_CATCH_UP_SECONDS, MAX_JITTER_SECONDS
from noetl.planner.trigger_sources import MAX_WEBHOOK_WAIT_SECONDS

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_MAX_SECONDS = 36_500 * 86_400
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


MIN_TTL_SECONDS, MAX_TTL_SECONDS = 1.0, 365 * 86_400.0
"""The shortest and the longest time for which a cached result is used."""


def parse_ttl(value: object) -> float:
    """Return the seconds of a duration for which a cached result is used.

    Raises:
        ValueError: the value is not a duration, or is too short or too long.
    """
    return _parse_bounded(value, MIN_TTL_SECONDS, MAX_TTL_SECONDS, "the time must be from `1s` to `365d`")


def parse_window(value: object) -> float:
    """Return the seconds of the window of a rate.

    Raises:
        ValueError: the value is not a duration, or is too short or too long.
    """
    return _parse_bounded(
        value, MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS, "the window must be from `1s` to `31d`"
    )


def parse_rate(text: str) -> tuple[int, float]:
    """Return the units and the window in seconds of a rate.

    >>> parse_rate("100/1m")
    (100, 60.0)

    Raises:
        ValueError: it is not a rate.
    """
    units, slash, window = text.partition("/")
    if not slash:
        raise ValueError("a rate must be a number and a time, such as `100/1m`")
    if not (units.isascii() and units.isdigit() and 1 <= int(units[:6]) <= MAX_LIMIT):
        raise ValueError(f"a rate must begin with a number from 1 to {MAX_LIMIT:,}, such as `100/1m`")
    return int(units), parse_window(window)


def parse_interval(value: object) -> float:
    """Return the seconds between two firings of a trigger.

    Raises:
        ValueError: the value is not a duration, or is too short.
    """
    return _parse_bounded(value, 1.0, _MAX_SECONDS, "the interval must be at least `1s`")


def parse_jitter(value: object) -> float:
    """Return the greatest delay of a firing in seconds.

    Raises:
        ValueError: the value is not a duration, or is too long.
    """
    return _parse_bounded(value, 0.0, MAX_JITTER_SECONDS, "the delay must be at most `1d`")


def parse_catch_up_time(value: object) -> float:
    """Return the seconds for which missed firings are performed later.

    Raises:
        ValueError: the value is not a duration, or is too short or too long.
    """
    return _parse_bounded(value, 1.0, MAX_CATCH_UP_SECONDS, "the time must be from `1s` to `30d`")


def parse_tolerance(value: object) -> float:
    """Return the seconds by which the signed time of a request may differ from that of the service.

    Raises:
        ValueError: the value is not a duration, or is too short or too long.
    """
    return _parse_bounded(value, 1.0, 86_400.0, "the time must be from `1s` to `1d`")


def parse_webhook_wait(value: object) -> float:
    """Return the seconds for which the sender of a request waits for a result.

    Raises:
        ValueError: the value is not a duration, or is too long.
    """
    return _parse_bounded(value, 0.0, MAX_WEBHOOK_WAIT_SECONDS, "the time must be at most `25s`")


def parse_remember_time(value: object) -> float:
    """Return the seconds for which a repeated request is recognised.

    Raises:
        ValueError: the value is not a duration, or is too short or too long.
    """
    return _parse_bounded(value, 60.0, 365 * 86_400.0, "the time must be from `1m` to `365d`")


MIN_LATE_SECONDS, MAX_LATE_SECONDS = 1.0, 365 * 86_400.0
"""The shortest and the longest time after which a run may be late."""


def parse_late_time(value: object) -> float:
    """Return the seconds after which a run is late.

    Raises:
        ValueError: the value is not a duration, or is too short or too long.
    """
    return _parse_bounded(value, MIN_LATE_SECONDS, MAX_LATE_SECONDS, "the time must be from `1s` to `365d`")


MIN_DEBOUNCE_SECONDS, MAX_DEBOUNCE_SECONDS = 1.0, 30 * 86_400.0
"""The shortest and the longest time for which a run waits for further starts."""


def parse_debounce_time(value: object) -> float:
    """Return the seconds for which a run waits for further starts.

    Raises:
        ValueError: the value is not a duration, or is too short or too long.
    """
    message = "the time must be from `1s` to `30d`"
    return _parse_bounded(value, MIN_DEBOUNCE_SECONDS, MAX_DEBOUNCE_SECONDS, message)


def parse_settle_time(value: object) -> float:
    """Return the seconds for which a file must stay unchanged.

    Raises:
        ValueError: the value is not a duration, or is too long.
    """
    return _parse_bounded(value, 0.0, MAX_SETTLE_SECONDS, "the time must be at most `1h`")


def _parse_bounded(value: object, shortest: float, longest: float, message: str) -> float:
    seconds = parse_duration(value)
    if not shortest <= seconds <= longest:
        raise ValueError(message)
    return seconds


def parse_duration(value: object) -> float:
    """Return the seconds of a text such as `500ms`, `5s`, `2m`, `1h` or `3d`, or of a number.

    >>> parse_duration("2m"), parse_duration("500ms"), parse_duration(3)
    (120.0, 0.5, 3.0)
    >>> parse_duration("838407418h")
    Traceback (most recent call last):
    ValueError: a duration must be at most `36500d`

    Raises:
        ValueError: the value is not a duration, is negative, or exceeds 100 years.
    """
    seconds: float = -1
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    if seconds > _MAX_SECONDS:
        raise ValueError("a duration must be at most `36500d`")
    if not seconds >= 0:
        raise ValueError("a duration must be `500ms`, `5s`, `2m`, `1h`, `3d` or a number of seconds")
    return float(seconds)
