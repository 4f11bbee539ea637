"""Counts by key in a bounded map, shared by the threads of a process."""

from __future__ import annotations

import threading
from collections import OrderedDict


class BoundedCounter:
    """A counter for each key. It forgets the key that was counted least recently when it has `max_keys`."""

    def __init__(self, max_keys: int = 10_000) -> None:
        self._max_keys = max_keys
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, key: str, amount: int) -> tuple[int, int]:
        """Add to the count of a key, and return the count before and after it.

        >>> counter = BoundedCounter(max_keys=1)
        >>> [counter.add(key, 2) for key in ("a", "a", "b", "a")]
        [(0, 2), (2, 4), (0, 2), (0, 2)]
        """
        with self._lock:
            before = self._counts.pop(key, 0)
            self._counts[key] = before + amount
            if len(self._counts) > self._max_keys:
                self._counts.popitem(last=False)
            return before, before + amount
