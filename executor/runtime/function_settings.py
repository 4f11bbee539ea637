"""The settings of the functions that execute runs."""

from __future__ import annotations

import os
from collections.abc import Mapping

from noetl.executor.errors import SettingError

CONTINUE_SETTING = "NOETL_CONTINUE_PERCENT"
DEFAULT_CONTINUE_PERCENT = 50
MAX_CONTINUE_PERCENT = 90


def read_continue_fraction(environ: Mapping[str, str] = os.environ) -> float:
    """Return the first part of an invocation, in which it also executes following visits.

    Later ones get a new invocation.

    Raises:
        SettingError: `NOETL_CONTINUE_PERCENT` is not a whole number from 0 to 90.
    """
    text = environ.get(CONTINUE_SETTING, "").strip() or str(DEFAULT_CONTINUE_PERCENT)
    if not text.isdecimal() or len(text) > 2 or int(text) > MAX_CONTINUE_PERCENT:
        raise SettingError(
            f"{CONTINUE_SETTING} is {text!r}; it must be a whole number from 0 to {MAX_CONTINUE_PERCENT}."
        )
    return int(text) / 100
