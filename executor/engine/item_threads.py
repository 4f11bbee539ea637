"""Threads for parallel items and items of loops: counted in each attempt and in the process.

Problem: items may be parallel as well, so ten items of ten items of ten items could take 1,110 threads. A
fixed pool would deadlock, because an item waits for its own items.

Algorithm: work sharing. The thread that has items performs them itself, one by one. It takes helpers from
two counters while there are any, for the attempt and for the process. A helper performs items from the same
queue and ends when the queue is empty. So work proceeds also without a helper, and no thread waits for a
counter. Source: Blumofe and Leiserson 1999 (work sharing; a thread blocks only for work that runs).

Cost: one thread for each helper.

Limits: `NOETL_ITEM_THREADS` helpers in the process, by default `DEFAULT_THREADS`. An attempt has half of
them. Items beyond that wait for a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import cache

from noetl.executor.errors import SettingError
from noetl.executor.precedence import end_slice

THREADS_SETTING = "NOETL_ITEM_THREADS"
DEFAULT_THREADS = 128


class HelperCount:
    """A counter of helpers with a limit. Those of `parent` count as well."""

    def __init__(self, limit: int, parent: HelperCount | None = None) -> None:
        self._free = threading.BoundedSemaphore(limit) if limit else None
        self._parent = parent
        self.limit = limit

    def take(self) -> bool:
        """Take a helper, and return whether one was free. Never wait."""
        if self._free is None or not self._free.acquire(blocking=False):
            return False
        if self._parent is not None and not self._parent.take():
            self._free.release()
            return False
        return True

    def give_back(self) -> None:
        """Give a helper back."""
        assert self._free is not None
        self._free.release()
        if self._parent is not None:
            self._parent.give_back()


@cache
def process_helpers() -> HelperCount:
    """Return the counter of this process."""
    return HelperCount(read_item_threads())


def attempt_helpers() -> HelperCount:
    """Return a new counter for an attempt, which has half of the helpers of the process."""
    process = process_helpers()
    return HelperCount((process.limit + 1) // 2, process)


def read_item_threads(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many threads perform parallel items, in addition to those of the workers.

    Raises:
        SettingError: NOETL_ITEM_THREADS is not a whole number from 0 to 10,000.
    """
    text = environ.get(THREADS_SETTING, "").strip() or str(DEFAULT_THREADS)
    if not text.isdecimal() or len(text) > 5 or int(text) > 10_000:
        raise SettingError(f"{THREADS_SETTING} is {text!r}; it must be a whole number from 0 to 10000.")
    return int(text)


class ItemCrew:
    """The threads that perform the items of one list: the thread that calls `run`, and its helpers.

    `perform_next()` performs an item and returns whether it did; False means that no item is left. At most
    `size` threads call it at once.
    """

    def __init__(self, perform_next: Callable[[], bool], size: int, helpers: HelperCount) -> None:
        self._perform_next = perform_next
        self._size = size
        self._helpers = helpers
        self._threads: list[threading.Thread] = []
        self._active = 0
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._is_drained = False

    def run(self) -> None:
        """Perform all items.

        Raises:
            BaseException: what `perform_next` raises first. Items that have started end before.
        """
        try:
            while not self._is_drained and self._error is None:
                self._recruit()
                self._is_drained |= not self._perform_next()
        finally:
            self._is_drained = True
            end_slice()
            for thread in self._threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def _recruit(self) -> None:
        """Start helpers while the crew is too small and some are free."""
        while self._active + 1 < self._size and not self._is_drained and self._helpers.take():
            with self._lock:
                self._active += 1
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            # A helper has the context of its crew, such as the fields of its log lines.
            helper = threading.Thread(target=copy_context().run, args=(self._help,), name="noetl-item")
            self._threads.append(helper)
            helper.start()

    def _help(self) -> None:
        try:
            while self._error is None and self._perform_next():
                pass
            self._is_drained = True
        except BaseException as error:  # noqa: BLE001  The thread that calls `run` raises it.
            self._error = self._error or error
        finally:
            end_slice()
            with self._lock:
                self._active -= 1
            self._helpers.give_back()
