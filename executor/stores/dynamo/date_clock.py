"""The clock of DynamoDB, by the header `Date` of its answers.

Problem: workers compare times that other workers have written: ends of leases, due times, expiries of
callbacks. A worker whose own clock is ahead would take claims that are valid.

Algorithm: each answer has the time of the server, in whole seconds. The server has read it between the
request and the answer. So the difference between its time and a timer of this process has two bounds. The
bounds of successive answers are intersected (Marzullo and Owicki 1983). The time of the local clock is
moved into the bounds, so a clock that is right stays as it is.

Cost: no request, since every answer has the header. If the local clock has moved against the timer, because
it was set or the machine was frozen, one item is read.

Limits: the bounds are up to a second apart. They grow by MAX_DRIFT of the time since the last answer. An
answer that contradicts the bounds replaces them, since the clock of the server or the timer has jumped.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from noetl.executor.errors import StoreError
from noetl.executor.stores.store_clock import read_timer

MAX_DRIFT = 0.001
"""Largest difference between the rates of two clocks."""

MAX_JUMP_SECONDS = 1.0
"""How far the local clock may move against the timer before the time of the server is read."""


class DateClock:
    """The clock of a server whose answers have a header `Date`. Call it for the seconds since the epoch.

    `read` makes a request whose response `observe` receives. Before the first answer, the local clock counts.
    """

    def __init__(
        self,
        read: Callable[[], object],
        local: Callable[[], float] | None = None,
        timer: Callable[[], float] = read_timer,
    ) -> None:
        self._read = read
        self._local = local or time.time
        self._timer = timer
        self._bounds = (-math.inf, math.inf)
        self._observed_at = timer()
        self._ahead = self._local() - self._observed_at
        self._lock = threading.Lock()

    def __call__(self) -> float:
        if abs(self._local() - self._timer() - self._ahead) > MAX_JUMP_SECONDS:
            with suppress(StoreError):
                self._read()
        timer, (low, high) = self._timer(), self._bounds
        return min(max(self._local(), timer + low), timer + high)

    def observe(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Make a call, learn the time of the server from its response, and return the response."""
        before = self._timer()
        response = call()
        after = self._timer()
        date = _read_date(response)
        if date is not None:
            self._narrow(date - after, date + 1.0 - before, after)
        return response

    def _narrow(self, low: float, high: float, now: float) -> None:
        """Narrow the bounds of the difference between the time of the server and the timer."""
        with self._lock:
            drift = max(now - self._observed_at, 0.0) * MAX_DRIFT
            narrowed = (max(self._bounds[0] - drift, low), min(self._bounds[1] + drift, high))
            self._bounds = narrowed if narrowed[0] <= narrowed[1] else (low, high)
            self._observed_at = now
            self._ahead = self._local() - now


def _read_date(response: Mapping[str, Any]) -> float | None:
    """Return the time of the header `Date` of a response of botocore, or None if it has none.

    >>> _read_date({"ResponseMetadata": {"HTTPHeaders": {"date": "Thu, 01 Jan 1970 00:01:00 GMT"}}})
    60.0
    """
    text = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
