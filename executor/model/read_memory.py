"""The values that a visit reads from its store, in the memory of a Lambda function.

Problem: a step may read many values that earlier steps have saved. Each fits, but all of them, or those of
ten visits of a batch, may exceed the memory of the function.

Algorithm: admission control, as for the data that visits hold (`function_memory`). The store announces the
size of a value before it is received or decompressed. A context variable holds the memory of the message
whose visits the thread executes, so that a store need not know of visits.

Cost: nothing outside of a Lambda function. In one, a compressed value is decompressed twice.

Limits: `FunctionMemory.limit`. In a block `strict_reads`, values that do not fit are an error. Values that
fit only while nothing else is held wait until then. Elsewhere a value is counted after a while in any case,
because a visit cannot be claimed without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from noetl.executor.errors import ActionError
from noetl.executor.model.function_memory import (
    BYTES_OF_CHARACTER,
    SMALL_SIZE,
    FunctionMemory,
    function_memory,
)
from noetl.executor.model.memory_budget import json_size

BYTES_OF_KEPT = 2
"""The memory of a character that was read, and is kept."""

BYTES_OF_READ = 4
"""The memory of a character that is received and decoded."""

BYTES_OF_RESULT = BYTES_OF_CHARACTER
"""The memory of a character that is read, and then stored as a part of a result."""


class ReadMemory:
    """The values that the visits of one message have read, in the memory `shared`."""

    def __init__(self, shared: FunctionMemory) -> None:
        self._shared = shared
        self._characters = 0
        self.reserved = 0

    def read(self, characters: int, bytes_of_character: int, *, is_strict: bool) -> None:
        """Reserve memory for a value of some characters that is about to be read.

        Raises:
            ActionError: `PayloadTooLarge`, if it does not fit. Unless it is strict, it is counted then.
        """
        total = self._characters + characters
        if is_strict:
            self._shared.check(total * BYTES_OF_KEPT // BYTES_OF_CHARACTER)
        size = characters * bytes_of_character // BYTES_OF_CHARACTER
        self.reserve(min(size, max(self._shared.limit - self.reserved, 0)), is_strict=is_strict)
        self._characters = total

    def reserve(self, size: int, *, is_strict: bool) -> None:
        """Reserve `size` characters as those of `shared`.

        A small value that must be read is counted at once: the visit that it waits for may be its own.

        Raises:
            ActionError: as `read`.
        """
        if size <= SMALL_SIZE and not is_strict:
            self._count(self.reserved + size)
            return
        try:
            self._shared.reserve(size, self.reserved)
        except ActionError:
            if is_strict:
                raise
            self._shared.count(size)
        self.reserved += size

    def mark(self) -> tuple[int, int]:
        """Return a state to which `undo` returns."""
        return self._characters, self.reserved

    def undo(self, mark: tuple[int, int]) -> None:
        """Release what was read since a mark, because it was dropped."""
        self._characters, size = mark
        self._count(size)

    def keep(self) -> None:
        """Release what was needed to receive and to decode the values."""
        size = self._characters * BYTES_OF_KEPT // BYTES_OF_CHARACTER
        self._count(min(size, self.reserved))

    def carry(self, characters: int) -> None:
        """Release all that was read, and count a value of some characters instead, which was read already."""
        self._characters = characters
        self._count(characters * BYTES_OF_KEPT // BYTES_OF_CHARACTER)

    def _count(self, size: int) -> None:
        self._shared.count(size - self.reserved)
        self.reserved = size


_READER: ContextVar[ReadMemory | None] = ContextVar("reader", default=None)
_STRICT_BYTES: ContextVar[int] = ContextVar("strict_bytes", default=0)


@contextmanager
def counting_reads() -> Iterator[None]:
    """Count the values that this block reads, in a Lambda function. They are released at its end."""
    shared = function_memory()
    if shared is None:
        yield
        return
    reader = ReadMemory(shared)
    token = _READER.set(reader)
    try:
        yield
    finally:
        _READER.reset(token)
        reader.carry(0)


@contextmanager
def strict_reads(bytes_of_character: int = BYTES_OF_READ) -> Iterator[None]:
    """Let values that do not fit into the memory be errors in this block. After one, all are released."""
    token = _STRICT_BYTES.set(bytes_of_character)
    try:
        with dropped_on_error():
            yield
    finally:
        _STRICT_BYTES.reset(token)


@contextmanager
def dropped_on_error() -> Iterator[None]:
    """Release what this block has read if it ends with an error, because it has dropped it."""
    reader = _READER.get()
    if reader is None:
        yield
        return
    mark = reader.mark()
    try:
        yield
    except BaseException:
        reader.undo(mark)
        raise


def keep_reads() -> None:
    """Release the memory that was needed to receive and to decode what was read."""
    reader = _READER.get()
    if reader is not None:
        reader.keep()


def is_counting_reads() -> bool:
    """Return whether values that are read are counted."""
    return _READER.get() is not None


def reserve_read(characters: int) -> None:
    """Reserve memory for a value that is about to be read, as JSON of some characters.

    Raises:
        ActionError: `PayloadTooLarge`, in a block `strict_reads`.
    """
    reader = _READER.get()
    if reader is not None:
        strict_bytes = _STRICT_BYTES.get()
        reader.read(characters, strict_bytes or BYTES_OF_READ, is_strict=bool(strict_bytes))


def reserve_result(value: Any) -> None:
    """Reserve memory for a result that is about to be stored, in addition to what it was made of.

    Raises:
        ActionError: `PayloadTooLarge`, if it does not fit.
    """
    reader = _READER.get()
    if reader is not None:
        reader.reserve(max(json_size(value) - reader.reserved, 0), is_strict=True)


def carry_reads(*values: Any) -> None:
    """Count only these values from now on, which the visit that follows gets."""
    reader = _READER.get()
    if reader is not None:
        reader.carry(sum(map(json_size, values)))
