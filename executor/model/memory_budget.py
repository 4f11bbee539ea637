"""How much the work of an attempt may hold at once: what it saves, what its loops go over and have given so far.

The store refuses what is too large when the work is done. That is too late where a loop, say, makes more than the machine
has room for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from noetl.executor.errors import ActionError

MAX_RESERVED = 256 * 1024 * 1024
"""As JSON, in characters."""

MAX_LOOP_RESULT = 64 * 1024 * 1024
"""What the batches of a loop may give together, likewise. They are held at once when the last one is done."""


class MemoryBudget:
    """What is held by work that goes on in any number of threads."""

    def __init__(self, most: int = MAX_RESERVED) -> None:
        self._most = most
        self._held = 0
        self._lock = threading.Lock()

    def reserve(self, size: int) -> None:
        """Hold so much more, or less where it is negative.

        Raises:
            ActionError: `PayloadTooLarge`; there is no room for it.
        """
        with self._lock:
            if size > 0 and self._held + size > self._most:
                message = f"the work of the step holds more than {self._most:,} characters as JSON"
                raise ActionError("PayloadTooLarge", message, retryable=False)
            self._held += size

    @contextmanager
    def reserved(self, value: Any) -> Iterator[None]:
        """Hold a value meanwhile.

        Raises:
            ActionError: `PayloadTooLarge`; there is no room for it.
        """
        size = json_size(value)
        self.reserve(size)
        try:
            yield
        finally:
            self.reserve(-size)


def json_size(value: Any) -> int:
    """How long a value is as compact JSON, or somewhat less: nothing is refused that a store would take."""
    size = 0
    rest = [value]
    while rest:
        match rest.pop():
            case str() as text:
                size += len(text) + 2
            case dict() as found:
                size += 1
                for key, inside in found.items():
                    size += len(key) + 4 if isinstance(key, str) else 4
                    rest.append(inside)
            case list() | tuple() as found:
                size += len(found) + 1
                rest.extend(found)
            case bool() | None:
                size += 4
            case int() as number:
                size += max(number.bit_length() - 1, 0) * 3 // 10 + 1
            case _:
                size += 3
    return size
