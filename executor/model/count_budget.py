"""A count with a limit: attempts at actions of a visit, or its actions that wait.

Problem: tasks that call each other multiply. Fifty calls in each of 32 levels are 50³² actions in 26 KB of
text. A loop of 100,000 waits keeps 500 MB in memory, and each of its segments writes all of them.

Algorithm: one counter for all threads of the work.

Cost: one increment for each attempt at an action.

Limits: the limit; past it, actions fail with `LimitExceeded`.
"""

from __future__ import annotations

import threading

from noetl.executor.errors import ActionError

ACTIONS_SETTING = "NOETL_MAX_ACTIONS"
WAITS_SETTING = "NOETL_MAX_WAITS"
DEFAULT_ACTIONS = 1_000_000
DEFAULT_WAITS = 10_000


class CountBudget:
    """A counter that starts at `count`. `excess` is the message of the error beyond `limit`."""

    def __init__(self, limit: int, excess: str, count: int = 0) -> None:
        self._limit = limit
        self._excess = excess
        self._count = count
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The number of what was taken and not given back."""
        return self._count

    def take(self) -> None:
        """Add 1 to the count.

        Raises:
            ActionError: `LimitExceeded`, if the limit is reached. The count stays as it is.
        """
        with self._lock:
            if self._count >= self._limit:
                raise ActionError("LimitExceeded", self._excess, retryable=False)
            self._count += 1

    def give_back(self) -> None:
        """Subtract 1 from the count."""
        with self._lock:
            self._count -= 1


def action_budget(limit: int = DEFAULT_ACTIONS, count: int = 0) -> CountBudget:
    """Return the budget of attempts at actions of a visit that has made `count` of them."""
    excess = f"the work of the step performs more than {limit:,} actions ({ACTIONS_SETTING})"
    return CountBudget(limit, excess, count)


def wait_budget(limit: int = DEFAULT_WAITS) -> CountBudget:
    """Return the budget of actions of a visit that wait. A segment performs each of them again."""
    return CountBudget(limit, f"more than {limit:,} actions of the step wait ({WAITS_SETTING})")
