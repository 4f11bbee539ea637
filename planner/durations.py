"""Durations as playbooks write them. Standard library only: the executor reads them as well."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(value: object) -> float:
    """Seconds of `500ms`, `5s`, `2m`, `1h`, `3d` or a number.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match[1]) * _UNIT_SECONDS[match[2]]
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise ValueError("a duration is `500ms`, `5s`, `2m`, `1h`, `3d` or seconds as a number")
