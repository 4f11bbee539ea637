"""The wait budget of a segment: how many actions of a visit may wait at the same time.

Problem: a loop of 100,000 waits keeps 500 MB in memory, and each of its segments writes all of them.

Algorithm: one counter for all threads of the segment. A segment performs each action that still waits again,
so its counter has all waits of the visit.

Cost: one increment for each call of an action that may wait.

Limits: the limit; past it, actions fail with `LimitExceeded`.
"""

from __future__ import annotations

import threading

from noetl.executor.errors import ActionError

WAITS_SETTING = "NOETL_MAX_WAITS"
DEFAULT_WAITS = 10_000


class WaitBudget:
    """A counter of actions that wait, shared by all threads of the work."""

    def __init__(self, limit: int = DEFAULT_WAITS) -> None:
        self._limit = limit
        self._count = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Count an action that may wait.

        Raises:
            ActionError: `LimitExceeded`, if the budget is exceeded.
        """
        with self._lock:
            self._count += 1
            if self._count > self._limit:
                self._count -= 1
                message = f"more than {self._limit:,} actions of the step wait ({WAITS_SETTING})"
                raise ActionError("LimitExceeded", message, retryable=False)

    def give_back(self) -> None:
        """Count an action no longer, because it does not wait."""
        with self._lock:
            self._count -= 1
