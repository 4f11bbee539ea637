"""The time that operations of a store take, as the requests of this process see it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from uuid import uuid4

from noetl.planner.frozen import frozen

LATENCY_BUCKET_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the buckets of durations."""


@frozen
class Latency:
    """The durations of some operations: how many are in each bucket, and their sum in seconds."""

    counts: tuple[int, ...]
    seconds: float


class StoreLatency:
    """The durations of the operations on each part of a store. Safe to share between threads.

    `process` identifies this process among those behind one address.
    """

    def __init__(self) -> None:
        self.process = uuid4().hex[:8]
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def record(self, part: str, seconds: float) -> None:
        """Record an operation on a part, whether it has failed or not."""
        with self._lock:
            counts = self._counts.setdefault(part, [0] * (len(LATENCY_BUCKET_SECONDS) + 1))
            counts[bisect_left(LATENCY_BUCKET_SECONDS, seconds)] += 1
            self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    def read(self) -> Mapping[str, Latency]:
        """Return the durations so far, by part.

        >>> latency = StoreLatency()
        >>> latency.record("runs", 0.5)
        >>> latency.read()
        {'runs': Latency(counts=(0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0), seconds=0.5)}
        """
        with self._lock:
            return {
                part: Latency(tuple(counts), self._seconds[part])
                for part, counts in sorted(self._counts.items())
            }
