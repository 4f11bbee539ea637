"""The due floor: a time before which no active visit of a queue is due, as far as this process knows.

Problem: a claim begins at the head of the index of due times. In Postgres a session that holds a snapshot
keeps the entries of all visits that were claimed since. Most of these dead entries are at the head. Each
claim would read them again: after minutes, claims take longer than steps.

Algorithm: a low-water mark. A claim reports the first due time that it has seen, and the next claim begins
there, but at least MARGIN_SECONDS before the present. Visits may become due in the past: a transaction takes
time until it is visible, and an outcome may wait for its store. So some claims begin at a second mark, which
stays WIDE_MARGIN_SECONDS behind, and one in FULL_SCAN_SECONDS begins at the head of the index. Both lower the
marks if they have to. The count of the active visits of a tenant has marks for the tenant.

Cost: a few numbers for each queue and tenant. The wide scans take at most a twentieth of the time, and so do
the full scans.

Limits: a visit that becomes due more than WIDE_MARGIN_SECONDS in the past is found by the next full scan. A
caller whose time is not that of the store has no floor.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MARGIN_SECONDS = 0.1
"""How far the floor stays behind the present."""

WIDE_MARGIN_SECONDS = 2.0
"""How far the floor of wide scans stays behind the present."""

MAX_WIDE_PAUSE_SECONDS = 1.0
"""Time until the next wide scan if the last one reports nothing."""

FULL_SCAN_SECONDS = 10.0
"""Time between two claims that begin at the head of the index."""

SCAN_SHARE = 20
"""The pause after a wide or a full scan is at least this many times as long as the scan."""

NO_FLOOR = -1e15
"""The floor of a claim that begins at the head of the index, in seconds since the epoch: before any time."""


@dataclass(slots=True)
class _QueueFloor:
    """The floor of a queue, that of its wide scans, and when the next scans are due (on the timer)."""

    since: float = NO_FLOOR
    wide: float = NO_FLOOR
    wide_scan_at: float = -math.inf
    full_scan_at: float = -math.inf


class DueFloor:
    """The floors of all queues of a store. `clock` is that of the store."""

    def __init__(self, clock: Callable[[], float], timer: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._timer = timer
        self._floors: dict[str, _QueueFloor] = {}
        self._lock = threading.Lock()

    def known(self, queue: str, now: float) -> float:
        """Return the floor of a queue at a time of the store, or NO_FLOOR."""
        floor = self._floors.get(queue)
        return (
            NO_FLOOR if floor is None or not floor.since <= now or not self._is_present(now) else floor.since
        )

    def begin(self, queue: str, now: float) -> float:
        """Return where a claim begins: at the floor of its queue, or before it for a wide or a full scan."""
        since = self.known(queue, now)
        if since == NO_FLOOR:
            return since
        with self._lock:
            floor, seconds = self._floors[queue], self._timer()
            # The other claims begin at the floor meanwhile.
            if seconds >= floor.full_scan_at:
                floor.full_scan_at = seconds + FULL_SCAN_SECONDS
                return NO_FLOOR
            if seconds >= floor.wide_scan_at:
                floor.wide_scan_at = seconds + MAX_WIDE_PAUSE_SECONDS
                return floor.wide
            return floor.since

    def learn(self, queue: str, since: float, first_due: float | None, now: float, seconds: float) -> None:
        """Set the floors after a claim that began at `since`, and took some seconds.

        It has seen that no visit is due before `first_due`, or before now if that is None.
        """
        if not self._is_present(now):
            return
        first = math.inf if first_due is None else first_due
        with self._lock:
            floor = self._floors.setdefault(queue, _QueueFloor())
            seen = min(now - MARGIN_SECONDS, first)
            if since <= floor.wide:
                floor.since = seen
                floor.wide = min(now - WIDE_MARGIN_SECONDS, first)
                floor.wide_scan_at = self._timer() + SCAN_SHARE * seconds
            elif floor.since >= since and seen > floor.since:
                # A claim that began above the floor has not seen what a wide scan found meanwhile.
                floor.since = seen
            if since == NO_FLOOR:
                floor.full_scan_at = self._timer() + max(FULL_SCAN_SECONDS, SCAN_SHARE * seconds)

    def _is_present(self, now: float) -> bool:
        return abs(now - self._clock()) < WIDE_MARGIN_SECONDS
