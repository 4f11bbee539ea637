"""Taking times: always several, always the median, always next to what they are compared with."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from noetl.planner.gc_control import gc_paused


def seconds(
    act: Callable[[], object], repetitions: int, *, prepare: Callable[[], object] = lambda: None
) -> float:
    """The median time of `act`, each time after `prepare` and after a collection of garbage, which do not count."""
    times = []
    for _ in range(repetitions):
        prepare()
        gc.collect()
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return median(times)


def work_seconds(processes: Iterable[int]) -> float:
    """How long processes have worked so far, however long they had to wait for a core; 0 where the system does not tell."""
    ticks = 0
    for process in processes:
        stat = Path(f"/proc/{process}/stat")
        if stat.exists():
            ticks += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def seconds_without_collection(act: Callable[[], object], repetitions: int) -> float:
    """As `seconds`, with the cyclic garbage collector paused."""
    with gc_paused():
        return seconds(act, repetitions)
