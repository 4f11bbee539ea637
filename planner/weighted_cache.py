"""A cache that is bounded in bytes: it evicts what was not used for the longest time.

`functools.lru_cache` counts entries. With entries from outside, each of any size, that is no bound.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class WeightedCache(Generic[K, V]):
    """The values that `compute` returned for the latest keys, up to `max_weight` by the estimate `weigh`.

    Safe to share between threads. A value that is heavier than a quarter of the cache is not kept.
    """

    def __init__(self, compute: Callable[[K], V], weigh: Callable[[K, V], int], max_weight: int) -> None:
        self._compute = compute
        self._weigh = weigh
        self._max_weight = max_weight
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V:
        """Return `compute(key)`, or the same value as before if it is still kept.

        Two threads may compute one value at the same time.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                return entry[0]
        value = self._compute(key)
        weight = self._weigh(key, value)
        if weight <= self._max_weight // 4:
            self._add(key, value, weight)
        return value

    def _add(self, key: K, value: V, weight: int) -> None:
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = value, weight
            self.weight += weight
            while self.weight > self._max_weight:
                _, (_, evicted) = self._entries.popitem(last=False)
                self.weight -= evicted

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._entries.clear()
            self.weight = 0
