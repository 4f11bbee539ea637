"""A table of the latest values by key, of bounded size.

Standard library only. The least recently used value is forgotten first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LatestValues(Generic[Value]):
    """The latest values by key, at most `size`. Safe to share between threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, create: Callable[[], Value]) -> Value:
        """Return the value of a key, which is created if there is none."""
        with self._lock:
            if key not in self._values:
                self._put(key, create())
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: str, value: Value) -> None:
        """Set the value of a key."""
        with self._lock:
            self._put(key, value)
            self._values.move_to_end(key)

    def find(self, key: str) -> Value | None:
        """Return the value of a key, or None if there is none. A value that is found is used."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def remove(self, key: str) -> None:
        """Remove a key, if it is there."""
        with self._lock:
            self._values.pop(key, None)

    def _put(self, key: str, value: Value) -> None:
        self._values[key] = value
        if len(self._values) > self._size:
            self._values.popitem(last=False)
