"""The due floor: a time before which no active visit of a queue is due, as far as this process knows.

Problem: a claim begins at the head of the index of due times. In Postgres a session that holds a snapshot
keeps the entries of all visits that were claimed since. Most of these dead entries are at the head. Each
claim would read them again: after minutes, claims take longer than steps.

Algorithm: a low-water mark. A claim reports the first due time that it has seen, and the next claim begins
there, but at least MARGIN_SECONDS before the present. Visits may become due in the past: a transaction takes
time until it is visible, and an outcome may wait for its store. So one claim in FULL_SCAN_SECONDS begins at
the head of the index, and lowers the mark if it has to.

Cost: a few numbers for each queue. A full scan takes at most a twentieth of the time.

Limits: a visit that becomes due more than MARGIN_SECONDS in the past is found by the next full scan. A caller
whose time is not that of the store has no floor.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MARGIN_SECONDS = 2.0
"""How far the floor stays behind the present."""

FULL_SCAN_SECONDS = 10.0
"""Time between two claims that begin at the head of the index."""

FULL_SCAN_SHARE = 20
"""The pause after a full scan is at least this many times as long as the scan."""

NO_FLOOR = -1e15
"""The floor of a claim that begins at the head of the index, in seconds since the epoch: before any time."""


@dataclass(slots=True)
class _QueueFloor:
    """The floor of a queue, and when the next full scan is due (on the timer)."""

    since: float = NO_FLOOR
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
        """Return where a claim begins: at the floor of its queue, or at the head if it takes a full scan."""
        since = self.known(queue, now)
        if since == NO_FLOOR:
            return since
        with self._lock:
            floor = self._floors[queue]
            if self._timer() < floor.full_scan_at:
                return since
            # The other claims begin at the floor meanwhile.
            floor.full_scan_at = self._timer() + FULL_SCAN_SECONDS
        return NO_FLOOR

    def learn(self, queue: str, since: float, first_due: float | None, now: float, seconds: float) -> None:
        """Set the floor after a claim that began at `since`, and took some seconds.

        It has seen that no visit is due before `first_due`, or before now if that is None.
        """
        if not self._is_present(now):
            return
        seen = min(now - MARGIN_SECONDS, math.inf if first_due is None else first_due)
        with self._lock:
            floor = self._floors.setdefault(queue, _QueueFloor())
            if since == NO_FLOOR:
                floor.since = seen
                pause = max(FULL_SCAN_SECONDS, FULL_SCAN_SHARE * seconds)
                floor.full_scan_at = self._timer() + pause
            elif seen > floor.since:
                floor.since = seen

    def _is_present(self, now: float) -> bool:
        return abs(now - self._clock()) < MARGIN_SECONDS
