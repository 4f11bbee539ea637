"""Taking times: always several, always the median, always next to what they are compared with."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median

from planner.garbage import collection_paused


def seconds(act: Callable[[], object], repetitions: int, *, prepare: Callable[[], object] = lambda: None) -> float:
    """The median time of `act`, each time after `prepare` and after a collection of garbage, which do not count."""
    times = []
    for _ in range(repetitions):
        prepare()
        gc.collect()
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return median(times)


def seconds_without_collection(act: Callable[[], object], repetitions: int) -> float:
    """As `seconds`, with the cyclic garbage collector paused."""
    with collection_paused():
        return seconds(act, repetitions)
