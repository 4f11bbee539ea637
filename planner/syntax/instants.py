"""Instants as playbooks write them: ISO 8601, with an offset or in a time zone."""

from __future__ import annotations

from datetime import datetime, tzinfo

_YEARS = range(1970, 3000)


class InstantYearError(ValueError):
    """An instant of another year. The message has the years that are possible."""


def check_instant(value: object) -> str:
    """Return the text of an instant.

    Raises:
        InstantYearError: it is not of the years 1970 to 2999.
        ValueError: it is none.
    """
    parsed = datetime.fromisoformat(value) if isinstance(value, str) else None
    if parsed is None or not isinstance(value, str):
        raise ValueError("an instant must be `2030-01-31T08:00:00` or `2030-01-31T08:00:00Z`")
    if parsed.year not in _YEARS:
        raise InstantYearError(f"a year from {_YEARS.start} to {_YEARS.stop - 1}")
    return value


def parse_instant(text: str, zone: tzinfo) -> float:
    """Return the seconds since the epoch. A text without an offset is a time of the zone.

    >>> from datetime import UTC
    >>> parse_instant("1970-01-02", UTC), parse_instant("1970-01-01T01:00:00+01:00", UTC)
    (86400.0, 0.0)
    """
    parsed = datetime.fromisoformat(text)
    return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=zone)).timestamp()
