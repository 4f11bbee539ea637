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
    """The values of the latest keys, up to `max_weight` together. The weight of a value is an estimate.

    Safe to share between threads. A value that is heavier than `max_value_weight` is not kept. The default is
    a quarter of the cache, so that one value does not evict most others.
    """

    def __init__(self, max_weight: int, max_value_weight: int | None = None) -> None:
        self._max_weight = max_weight
        self._max_value_weight = max_weight // 4 if max_value_weight is None else max_value_weight
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: K) -> V | None:
        """Return the value of a key, or None if it is not kept."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def get(self, key: K, load: Callable[[K], tuple[V, int]]) -> V:
        """Return the value of a key. If it is not kept, `load(key)` returns it with its weight.

        Two threads may load one value at the same time. A value must not be None.
        """
        kept = self.find(key)
        if kept is not None:
            return kept
        value, weight = load(key)
        self.add(key, value, weight)
        return value

    def add(self, key: K, value: V, weight: int) -> None:
        """Keep a value, unless the key has one or the value is too heavy."""
        if weight > self._max_value_weight:
            return
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
