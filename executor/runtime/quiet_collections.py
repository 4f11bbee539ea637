"""Full collections of garbage, at moments without requests.

Problem: a full collection examines all objects of the process, and no other thread runs meanwhile. While
large runs are shown, it takes 130 ms, and the interpreter begins one every second.

Algorithm: the interpreter collects young objects only. A thread checks twice a second whether objects were
created since the last full collection. If so, and if no request has come for a while, it begins one. After
MAX_WAIT_SECONDS, or if the process has grown by MAX_GROWTH_BYTES, it begins one also while requests come.

Cost: cycles of old objects stay for some seconds longer. All other objects are freed at once, as before.

Limits: the growth is not known without `/proc`. The collector of Python 3.14 works in increments anyway.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from noetl.executor.precedence import OPERATIONS

PERIOD_SECONDS = 0.5
MAX_WAIT_SECONDS = 30.0
MAX_GROWTH_BYTES = 128 * 1024 * 1024

MIN_COLLECTIONS = 100
"""After how many collections of young objects a full one may have something to do."""

PAUSE_FACTOR = 20
"""How many times the duration of a full collection the next one waits for."""

MIDDLE = 1
"""A threshold of the interpreter: each second collection also examines what survived the one before.

With a greater number, more survivors are examined at once, so the pause is longer. Objects that survive this
examination wait for a full collection.
"""

NEVER = 1_000_000
"""A threshold of the interpreter that it does not reach."""


def resident_bytes() -> int:
    """Return the memory of this process, or 0 on systems without `/proc`."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def young_collections() -> int:
    """Return how often the interpreter has collected young objects."""
    return sum(generation["collections"] for generation in gc.get_stats()[:-1])


class QuietCollections:
    """The full collections of a process. `collect_if_due` is called again and again."""

    def __init__(
        self,
        has_requests: Callable[[], bool] = lambda: OPERATIONS.has_requests,
        clock: Callable[[], float] = time.monotonic,
        measure: Callable[[], int] = resident_bytes,
    ) -> None:
        self._has_requests = has_requests
        self._clock = clock
        self._measure = measure
        self._duration = 0.0
        self._remember()

    def start(self) -> None:
        """Begin to collect on a thread, which ends with the process."""
        gc.set_threshold(gc.get_threshold()[0], MIDDLE, NEVER)
        threading.Thread(target=self._run, name="noetl-garbage", daemon=True).start()

    def collect_if_due(self) -> bool:
        """Collect if it is time for it, and return whether it was."""
        seconds = self._clock() - self._collected_at
        if young_collections() - self._young < MIN_COLLECTIONS or seconds < PAUSE_FACTOR * self._duration:
            return False
        is_late = seconds > MAX_WAIT_SECONDS
        if not is_late and self._has_requests() and self._measure() - self._memory <= MAX_GROWTH_BYTES:
            return False
        began = self._clock()
        gc.collect()
        self._remember()
        self._duration = self._collected_at - began
        return True

    def _remember(self) -> None:
        self._young, self._memory, self._collected_at = young_collections(), self._measure(), self._clock()

    def _run(self) -> None:
        while True:
            time.sleep(PERIOD_SECONDS)
            self.collect_if_due()
