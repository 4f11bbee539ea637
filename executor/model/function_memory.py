"""The memory of a Lambda function: what the visits of a batch hold together.

Problem: the threads of a batch share the memory of a function, which is small. A function that exceeds it is
killed, and all messages of its batch are lost with it.

Algorithm: admission control with a counter of the process (Source: admission control in operating systems).
Visits reserve the data that they hold, in characters of JSON. While others hold too much, a visit waits for
them. The limit is the memory that the code leaves, divided by the most that a character takes while it is
evaluated, encoded and compressed.

Cost: one more addition for each reservation.

Limits: `FunctionMemory.limit`. A visit that needs more fails with `PayloadTooLarge`, and so does one that
waits for too long. Values that a visit reads are not counted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from functools import cache

from noetl.executor.errors import ActionError
from noetl.executor.patience import end_of_retries

MEMORY_VARIABLE = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"
"""The variable in which Lambda says how much memory the function has, in MiB."""

CODE_BYTES = 96 * 1024 * 1024
"""The memory of the interpreter, the code and the clients."""

BYTES_OF_CHARACTER = 10
"""The memory of a character of JSON while it is evaluated, encoded and compressed: 8.4 were measured."""

MIN_LIMIT = 1024 * 1024
PATIENCE_SECONDS = 10.0
"""How long a visit waits that holds data itself, because others may wait for it."""


class FunctionMemory:
    """A counter of the characters of JSON that the visits of a process hold, up to `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0
        self._changed = threading.Condition()

    def reserve(self, size: int, held: int) -> None:
        """Reserve `size` characters for a visit that holds `held`. Wait until others have released as many.

        Raises:
            ActionError: `PayloadTooLarge`, if the visit alone exceeds the limit, or others hold too much.
        """
        if held + size > self.limit:
            raise self._error("the step holds", retryable=False)
        now = time.monotonic()
        ends_at = min(
            end_of_retries() or now + PATIENCE_SECONDS, now + PATIENCE_SECONDS if held else now + 60
        )
        with self._changed:
            if not self._changed.wait_for(
                lambda: self.reserved + size <= self.limit, max(ends_at - now, 0.0)
            ):
                raise self._error("the steps of this function hold", retryable=True)
            self.reserved += size

    def count(self, size: int) -> None:
        """Count characters that a visit holds in any case. A negative size releases them."""
        with self._changed:
            self.reserved += size
            self._changed.notify_all()

    def _error(self, subject: str, *, retryable: bool) -> ActionError:
        message = (
            f"{subject} more than {self.limit:,} characters of JSON, which the memory of the function allows"
        )
        return ActionError("PayloadTooLarge", f"{message} (StepMemory)", retryable=retryable)


@cache
def function_memory() -> FunctionMemory | None:
    """Return the counter of this process, or None outside of a Lambda function."""
    size = read_function_bytes(os.environ)
    return None if size is None else FunctionMemory(free_bytes(size) // BYTES_OF_CHARACTER)


def read_function_bytes(environ: Mapping[str, str]) -> int | None:
    """Return the memory of the Lambda function in bytes, or None outside of one."""
    text = environ.get(MEMORY_VARIABLE, "")
    return int(text) * 1024 * 1024 if text.isdecimal() else None


def free_bytes(size: int) -> int:
    """Return the memory that the code leaves of a function with `size` bytes.

    >>> free_bytes(256 * 1024 * 1024) // 1024 // 1024
    160
    """
    return max(size - CODE_BYTES, MIN_LIMIT * BYTES_OF_CHARACTER)
