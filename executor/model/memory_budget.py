"""The memory budget of an attempt: a bound on the data that its work holds at once.

Problem: a store refuses data that is too large, but only when the work is done. By then, a loop may have
built more than the machine has memory for.

Algorithm: admission control with one shared counter (Source: admission control in operating systems). Work
reserves the size of the names it saves, of the items of its loops, and of their results so far. It releases
the size when it drops the data. Sizes are the lengths of compact JSON, estimated from below, so that nothing
is refused which a store would accept.

Cost: one traversal of each value that is reserved.

Limits: `MAX_RESERVED` for one attempt; past it, the action fails with `PayloadTooLarge`. The real size of a
Python object is a small multiple of the size of its JSON. In a Lambda function, the attempts of a batch also
share `FunctionMemory`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from noetl.executor.errors import ActionError, PayloadTooLargeError
from noetl.executor.model.function_memory import FunctionMemory, function_memory

MAX_RESERVED = 256 * 1024 * 1024
"""The most that the work of an attempt may hold, in characters of JSON."""

MAX_LOOP_RESULT = 64 * 1024 * 1024
"""The largest result of a loop with batches, in characters of JSON. The last batch reads all of it at once.
"""


class MemoryBudget:
    """A counter of the data that work holds, shared by all threads of the work.

    In a Lambda function, `shared` is what all work of the process holds.
    """

    def __init__(self, limit: int = MAX_RESERVED, shared: FunctionMemory | None = None) -> None:
        self._limit = limit
        self._shared = shared or function_memory()
        self._reserved = 0
        self._lock = threading.Lock()

    def reserve(self, size: int) -> None:
        """Reserve `size` characters.

        Raises:
            ActionError: `PayloadTooLarge`, if the budget would be exceeded.
        """
        with self._lock:
            if size > 0 and self._reserved + size > self._limit:
                message = f"the work of the step holds more than {self._limit:,} characters of JSON"
                raise ActionError("PayloadTooLarge", message, retryable=False)
            self._reserved += size
            held = self._reserved - size
        self._reserve_shared(size, held)

    def reserve_commit(self, size: int) -> None:
        """Reserve what a commit writes, in `size` characters, unless as many are reserved already.

        Only a Lambda function needs this: elsewhere, the limits of the store suffice.

        Raises:
            PayloadTooLargeError: the budget would be exceeded.
        """
        if self._shared is not None and size > self._reserved:
            try:
                self.reserve(size - self._reserved)
            except ActionError as problem:
                raise PayloadTooLargeError(problem.message) from None

    def close(self) -> None:
        """Release all that is reserved, at the end of the work."""
        self.count(-self._reserved)

    def _reserve_shared(self, size: int, held: int) -> None:
        if self._shared is None:
            return
        if size <= 0:
            self._shared.count(size)
            return
        try:
            self._shared.reserve(size, held)
        except ActionError:
            with self._lock:
                self._reserved -= size
            raise

    def count(self, size: int) -> None:
        """Count `size` characters that the work holds in any case, also past the limit."""
        with self._lock:
            self._reserved += size
        if self._shared is not None:
            self._shared.count(size)

    def release(self, size: int) -> None:
        """Release `size` reserved characters."""
        self.count(-size)

    @contextmanager
    def reserved(self, value: Any) -> Iterator[None]:
        """Reserve the size of a value during this block.

        Raises:
            ActionError: `PayloadTooLarge`, if the budget would be exceeded.
        """
        size = json_size(value)
        self.reserve(size)
        try:
            yield
        finally:
            self.release(size)


def json_size(value: Any) -> int:
    """Return the length of a value as compact JSON, or slightly less.

    >>> json_size({"name": ["a", "b"]})
    18
    """
    size = 0
    pending = [value]
    while pending:
        match pending.pop():
            case str() as text:
                size += len(text) + 2
            case dict() as entries:
                size += 1
                for key, item in entries.items():
                    size += len(key) + 4 if isinstance(key, str) else 4
                    pending.append(item)
            case list() | tuple() as items:
                size += len(items) + 1
                pending.extend(items)
            case bool() | None:
                size += 4
            case int() as number:
                size += max(number.bit_length() - 1, 0) * 3 // 10 + 1
            case _:
                size += 3
    return size
