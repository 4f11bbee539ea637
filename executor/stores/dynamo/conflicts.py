"""Conflicts of concurrent writers: a change whose condition fails is computed and written again.

Problem: another process may change an item between the read and the write of a change.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). An attempt reads, decides, and writes
under the condition that nothing has changed since. A refused attempt is repeated, after a random pause that
grows (`noetl.executor.clients.aws_retry`).

Cost: nothing without a conflict. The second attempt follows at once.

Limits: the change is given up after MAX_CONFLICTS attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import StoreError
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS

_MAX_DOUBLINGS = 4

T = TypeVar("T")


def repeat_on_conflict(attempt: Callable[[], T], problem: str) -> T:
    """Return the result of the first attempt that is not refused.

    `problem` says what is given up, such as "Run r1 could not be deleted". An attempt that finds that the
    change must not be made raises another exception, or returns.

    Raises:
        StoreError: MAX_CONFLICTS attempts were refused.
    """
    for conflicts in range(MAX_CONFLICTS):
        if conflicts > 1:
            time.sleep(pause_seconds(min(conflicts, _MAX_DOUBLINGS)))
        with suppress(ConditionFailed):
            return attempt()
    raise StoreError(f"{problem}: too many concurrent writers.")
