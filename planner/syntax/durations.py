"""Durations as playbooks write them. Standard library only, because the executor reads them too."""

from __future__ import annotations

import re

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
    seconds = parse_duration(value)
    if not MIN_TTL_SECONDS <= seconds <= MAX_TTL_SECONDS:
        raise ValueError("the time must be from `1s` to `365d`")
    return seconds


def parse_duration(value: object) -> float:
    """Return the seconds of a text such as `500ms`, `5s`, `2m`, `1h` or `3d`, or of a number.

    >>> parse_duration("2m"), parse_duration("500ms"), parse_duration(3)
    (120.0, 0.5, 3.0)

    Raises:
        ValueError: the value is not a duration, is negative, or exceeds 100 years.
    """
    seconds: float = -1
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    if not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError("a duration must be `500ms`, `5s`, `2m`, `1h`, `3d` or a number of seconds")
    return float(seconds)
