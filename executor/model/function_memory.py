"""The memory of a Lambda function: what the visits of a batch hold together.

Problem: the threads of a batch share the memory of a function, which is small. A function that exceeds it is
killed, and all messages of its batch are lost with it.

Algorithm: admission control with a counter of the process (Source: admission control in operating systems).
Visits reserve the data that they hold, in characters of JSON, and the answers of their actions before these
arrive. While others hold too much, a visit waits for them. The limit is the memory that the code leaves,
divided by the most that a character takes while it is evaluated, encoded and compressed.

Cost: one more addition for each reservation.

Limits: `FunctionMemory.limit`. A visit that needs more fails with `PayloadTooLarge`, and so does one that
waits for too long. The size of an answer is an estimate, so an answer waits until it fits or is alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
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

SMALL_SIZE = 64 * 1024
"""The characters that a visit may hold while it waits for longer, because others need not wait for them.

What is no larger and must be read or written is counted without a wait.
"""

MAX_WAIT_SECONDS = 60.0
"""How long a visit waits that holds little data."""

ANSWER_MARGIN_SECONDS = 1.0
"""The time of an action that is left when its answer has waited for too long."""

_MIN_ANSWER_SHARE = 8
"""An answer reserves this part of the limit at least, if it is large, even if its visit holds all of it."""

_POLL_SECONDS = 0.5


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
        self.check(held + size)
        if size <= 0:
            return
        now = time.monotonic()
        seconds = (end_of_retries() or now + PATIENCE_SECONDS) - now
        self._wait_and_reserve(lambda: size, min(seconds, _patience(held)), lambda: None)

    def check(self, size: int) -> None:
        """Check that a visit may hold `size` characters if it is alone.

        Raises:
            ActionError: `PayloadTooLarge`.
        """
        if size > self.limit:
            raise self._error("the step holds", retryable=False)

    def reserve_answer(
        self, size: int, held: Callable[[], int], remaining_seconds: Callable[[], float]
    ) -> int:
        """Reserve up to `size` more characters for an answer, and return how many.

        They are fewer if the visit, which holds `held()`, alone would exceed the limit.
        `remaining_seconds()` returns the time of the action, or raises the error that ends it.

        Raises:
            ActionError: `PayloadTooLarge`, if others hold too much.
        """

        def find_size() -> int:
            return min(size, max(self.limit - held(), self.limit // _MIN_ANSWER_SHARE))

        seconds = remaining_seconds() - ANSWER_MARGIN_SECONDS
        return self._wait_and_reserve(find_size, min(seconds, _patience(held())), remaining_seconds)

    def _wait_and_reserve(
        self, find_size: Callable[[], int], seconds: float, check: Callable[[], object]
    ) -> int:
        """Reserve find_size() characters within some seconds. While it waits, `check` may raise an error."""
        ends_at = time.monotonic() + seconds
        with self._changed:
            while self.reserved + (size := find_size()) > self.limit:
                check()
                left = ends_at - time.monotonic()
                if left <= 0:
                    raise self._error("the steps of this function hold", retryable=True)
                self._changed.wait(min(left, _POLL_SECONDS))
            self.reserved += size
        return size

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


def _patience(held: int) -> float:
    """Return how many seconds a visit waits that holds `held` characters."""
    return PATIENCE_SECONDS if held > SMALL_SIZE else MAX_WAIT_SECONDS


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
