"""Time limits of network operations: a deadline, a longest idle time, and the cancellation of the run.

Problem: a server can answer a little before each timeout for ever. The thread that waits for it does not see
that its run was cancelled.

Algorithm: one absolute deadline for all operations in a block (`time_limit`). An operation waits in slices of
`SLICE_SECONDS`, and before each slice the deadline and the cancellation are checked.

Cost: ten wake-ups a second for each thread that waits.

Limits: an operation that does not wait in slices, such as a resolver of the system, is only abandoned.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from noetl.executor.errors import CancelledError

Result = TypeVar("Result")

SLICE_SECONDS = 0.1
"""The longest time for which an operation waits without a check."""


@dataclass(frozen=True, slots=True)
class _TimeBounds:
    deadline: float
    max_idle_seconds: float
    cancelled: threading.Event = field(default_factory=threading.Event)


_bounds: ContextVar[_TimeBounds] = ContextVar("time_bounds")


@contextmanager
def time_limit(
    deadline: float, max_idle_seconds: float = math.inf, cancelled: threading.Event | None = None
) -> Iterator[None]:
    """Bound all network operations in this block.

    Together they end by `deadline` (on `time.monotonic`), or soon after `cancelled` is set. Each of them
    waits at most `max_idle_seconds`.
    """
    token = _bounds.set(_TimeBounds(deadline, max_idle_seconds, cancelled or threading.Event()))
    try:
        yield
    finally:
        _bounds.reset(token)


def check_time() -> None:
    """Check that the current block has time left.

    Raises:
        TimeoutError: its deadline has passed.
        CancelledError: its run was cancelled.
    """
    bounds = _bounds.get()
    if bounds.cancelled.is_set():
        raise CancelledError
    if time.monotonic() >= bounds.deadline:
        raise TimeoutError("the deadline has passed")


def wait_in_slices(attempt: Callable[[float], Result], limit: float = math.inf) -> Result:
    """Call attempt(seconds) until it returns. It raises TimeoutError if it must wait for longer.

    Raises:
        TimeoutError: it did not return within `limit` seconds, the idle time, or the deadline of the block.
        CancelledError: the run was cancelled.
    """
    bounds = _bounds.get()
    end = min(bounds.deadline, time.monotonic() + min(bounds.max_idle_seconds, limit))
    while True:
        check_time()
        seconds = end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the other side did not answer in time")
        try:
            # A timeout of zero would make a socket non-blocking.
            return attempt(max(min(seconds, SLICE_SECONDS), 0.001))
        except TimeoutError:
            continue
