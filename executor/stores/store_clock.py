"""The clock of a server that stores runs.

Problem: workers compare times that other workers have written: ends of leases, due times, expiries of
callbacks. A worker whose own clock is ahead would take claims that are valid, and perform their steps again.

Algorithm: the clock of the server is the only one that counts. The server reads it between a request and the
answer. So the difference between its time and a timer of this process is known up to half of the time between
them. A server that was slow would make it wrong by so much. So a difference that agrees with a new answer is
kept. The timer cannot be set, so a change of the local clock has no effect. Source: Cristian 1989,
"Probabilistic clock synchronization".

Cost: one request every MAX_AGE_SECONDS, by the thread that notices that the measurement is old.

Limits: the clock of a server that jumps is noticed at the next measurement. While the server does not answer,
the last measurement counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from noetl.executor.errors import StoreError

MAX_AGE_SECONDS = 10.0
"""Age of a measurement at which the next one is made."""


def read_timer() -> float:
    """Return the seconds since an arbitrary moment, with the time for which the machine was suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class StoreClock:
    """The clock of a server, whose time `read` returns. Call it for the time, in seconds since the epoch.

    Raises:
        StoreError: the constructor, if the server does not answer.
    """

    def __init__(self, read: Callable[[], float], timer: Callable[[], float] = read_timer) -> None:
        self._read = read
        self._timer = timer
        self._measuring = threading.Lock()
        self._measured_at, low, high = self._measure()
        self._difference = (low + high) / 2

    def __call__(self) -> float:
        if self._timer() - self._measured_at > MAX_AGE_SECONDS and self._measuring.acquire(blocking=False):
            try:
                self._measured_at, low, high = self._measure()
                if not low <= self._difference <= high:
                    self._difference = (low + high) / 2
            except StoreError:
                # A server that is away is not asked at each call.
                self._measured_at = self._timer()
            finally:
                self._measuring.release()
        return self._timer() + self._difference

    def _measure(self) -> tuple[float, float, float]:
        """Return when the server has answered, and bounds of the difference of its time and the timer."""
        before = self._timer()
        server_time = self._read()
        after = self._timer()
        return after, server_time - after, server_time - before
