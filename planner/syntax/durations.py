"""Durations as playbooks write them. Standard library only: the executor reads them as well."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_LONGEST_SECONDS = 36_500 * 86_400
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> float:
    """Seconds of `500ms`, `5s`, `2m`, `1h`, `3d` or a number, up to 100 years; raises ValueError on anything else."""
    seconds: float = -1
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise ValueError("a duration is `500ms`, `5s`, `2m`, `1h`, `3d` or seconds as a number")
    return float(seconds)
