"""The action budget of a segment: how many actions the work of a visit may perform before it pauses or ends.

Problem: tasks that call each other multiply. Fifty calls in each of 32 levels are 50³² actions in 26 KB of
text.

Algorithm: one counter for all threads of the segment.

Cost: one increment for each attempt at an action.

Limits: `MAX_ACTIONS`; past it, actions fail with `LimitExceeded`. A pause begins a new segment.
"""

from __future__ import annotations

import threading

from noetl.executor.errors import ActionError

MAX_ACTIONS = 1_000_000
"""The most attempts at actions of a visit between two pauses."""


class ActionBudget:
    """A counter of attempts at actions, shared by all threads of the work."""

    def __init__(self, limit: int = MAX_ACTIONS) -> None:
        self._limit = limit
        self._count = 0
        self._lock = threading.Lock()

    def count(self) -> None:
        """Count an attempt.

        Raises:
            ActionError: `LimitExceeded`, if the budget is exceeded.
        """
        with self._lock:
            self._count += 1
            if self._count > self._limit:
                message = f"the work of the step performs more than {self._limit:,} actions without a pause"
                raise ActionError("LimitExceeded", message, retryable=False)
