"""The wait of other threads of a process while one of them works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PAUSE_SECONDS = 0.0005


def measure_wait(work: Callable[[], object]) -> tuple[float, float]:
    """Return the processor time of `work` in seconds, and how long another thread waits at most."""
    has_ended = threading.Event()
    waits: list[float] = []

    def wait() -> None:
        before = time.perf_counter()
        while not has_ended.is_set():
            time.sleep(PAUSE_SECONDS)
            now = time.perf_counter()
            waits.append(now - before - PAUSE_SECONDS)
            before = now

    thread = threading.Thread(target=wait)
    thread.start()
    began = time.thread_time()
    result = work()
    seconds = time.thread_time() - began
    has_ended.set()
    thread.join()
    del result  # To free a large value takes time, too.
    return seconds, max(waits)
