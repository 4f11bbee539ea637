"""A limit on how often a log repeats the same fault.

Problem: a fault that lasts, such as a process that may open no more files, is met thousands of times a
second. Its log fills the disk, which is often that of the store.

Algorithm: a fixed window for each fault. A fault is a logger, a level and the first line of a message. In a
window, MAX_RECORDS records pass. The first record of the next window says how many were left out.

Cost: a look-up in a dictionary for each warning or error.

Limits: a message with a number or an id of its own is another fault. At most MAX_FAULTS are counted, the
latest ones. Lines that playbooks log have limits of their own, and all pass. So do those about runs.
"""

from __future__ import annotations

import logging
import threading

from noetl.executor.engine.run_log import RUN_LOGGER

MAX_RECORDS = 5
WINDOW_SECONDS = 60.0
MAX_FAULTS = 1000
MAX_KEY_LENGTH = 500

PLAYBOOK_LOGGER = "noetl.playbook"

_UNLIMITED = (PLAYBOOK_LOGGER, RUN_LOGGER)

_Fault = tuple[str, int, str]


class RepeatLimit(logging.Filter):
    """A filter of a handler that lets the same fault pass a few times a minute.

    The attribute `left_out` of a record is how many records of the same fault did not pass before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._windows: dict[_Fault, tuple[float, int]] = {}
        """For each fault when its window began, and its records since then. The latest window is the last."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record passes."""
        if record.levelno < logging.WARNING or record.name in _UNLIMITED:
            return True
        head = record.getMessage().partition("\n")[0][:MAX_KEY_LENGTH]
        fault = (record.name, record.levelno, head)
        with self._lock:
            began_at, count = self._windows.get(fault, (record.created, 0))
            # Other threads may bring records with times a little before that of the first one.
            if abs(record.created - began_at) < WINDOW_SECONDS:
                self._windows[fault] = (began_at, count + 1)
                self._forget_oldest()
                return count < MAX_RECORDS
            del self._windows[fault]
            self._windows[fault] = (record.created, 1)
        record.left_out = max(count - MAX_RECORDS, 0)
        return True

    def _forget_oldest(self) -> None:
        if len(self._windows) > MAX_FAULTS:
            del self._windows[next(iter(self._windows))]
