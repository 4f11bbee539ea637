"""How long runs are kept that have ended."""

from __future__ import annotations

import os
from collections.abc import Mapping

from noetl.executor.errors import SettingError

DAY_SECONDS = 86_400
_SETTING = "NOETL_RETENTION_DAYS"


def read_retention_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """How long runs are kept after their end: `NOETL_RETENTION_DAYS`, or None for ever.

    Raises:
        SettingError: it is not a number of days.
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
