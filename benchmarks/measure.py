"""Measurement of times: the median of several repetitions."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from noetl.planner.gc_control import gc_paused


def median_seconds(
    work: Callable[[], object], repetitions: int, *, prepare: Callable[[], object] = lambda: None
) -> float:
    """Return the median time of `work`. `prepare` and a garbage collection run before each repetition."""
    times = []
    for _ in range(repetitions):
        prepare()
        gc.collect()
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)


def work_seconds(processes: Iterable[int]) -> float:
    """Return the processor time of processes so far, or 0 on systems without `/proc`."""
    ticks = 0
    for process in processes:
        stat = Path(f"/proc/{process}/stat")
        if stat.exists():
            ticks += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def median_seconds_without_gc(work: Callable[[], object], repetitions: int) -> float:
    """Return the median time of `work` while the cyclic garbage collector is paused."""
    with gc_paused():
        return median_seconds(work, repetitions)
