"""Retention: how long a run is kept after its end.

Problem: ended runs would fill the store. A run must not vanish while a parent or a child run refers to it.

Algorithm: SQL stores delete ended runs oldest first, with all rows that belong to them. A transaction deletes
a few runs, so that commits wait for milliseconds. A worker repeats it until no run is too old, every five
seconds. A sweep does the same, for functions without such a worker. Plans that nothing names any more are
deleted too (`plan_uses.py`).
DynamoDB deletes items whose time to live is over; the head of a run expires one day before its other items.
Plans in DynamoDB have rules of their own (`dynamo/plan_uses.py`).

Cost: one deletion for each row or item.

Limits: a sweep deletes up to 5,000 runs. DynamoDB may delete an expired item a few days late.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from noetl.executor.errors import SettingError

DAY_SECONDS = 86_400
_SETTING = "NOETL_RETENTION_DAYS"


def read_retention_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return how long ended runs are kept: `NOETL_RETENTION_DAYS` in seconds, or None for ever.

    >>> read_retention_seconds({"NOETL_RETENTION_DAYS": "2"})
    172800.0

    Raises:
        SettingError: the setting is not a number of days.
    """
    text = environ.get(_SETTING, "").strip()
    if not text:
        return None
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36_500:
        raise SettingError(f"{_SETTING} is {text!r}; it must be a number of days, at most 36500.")
    return days * DAY_SECONDS
