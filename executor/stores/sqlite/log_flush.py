"""Flushes of the write-ahead log to the disk, each of which serves all commits before it.

Problem: a commit must be on the disk before its caller goes on, and a disk needs milliseconds for that. If
SQLite waits for the disk itself (`synchronous = full`), it holds its lock for writers meanwhile. So the
commits of many threads follow each other at the pace of the disk.

Algorithm: group commit (DeWitt et al., "Implementation techniques for main memory database systems", 1984).
SQLite writes a commit into the log and releases its lock (`synchronous = normal`). Then the thread waits
until a flush that began after its commit has ended. One flush runs at a time. Threads that come meanwhile
share the next one.

Cost: one flush for a commit that is alone. A commit next to others waits for two flushes at most.

Limits: other threads may read a commit before it is on the disk. What they write upon it comes later in the
log, so no power failure keeps that without the commit. A flush that fails leaves it open whether the commit
would survive a power failure. Other processes flush their commits themselves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

flush_file: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class LogFlush:
    """The flushes of one log. Safe to use from any thread."""

    def __init__(self) -> None:
        self._log: int | None = None
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._commits = 0
        self._flushed = 0

    def open(self, path: str) -> None:
        """Open the log at a path, unless one is open.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            if self._log is None:
                self._log = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Close the log after the flush that runs, if any."""
        with self._flushing, self._lock:
            log, self._log = self._log, None
        if log is not None:
            os.close(log)

    def wait(self) -> None:
        """Return when all commits before this call are on the disk. Without a log, return at once.

        Raises:
            OSError: the disk has failed.
        """
        with self._lock:
            self._commits += 1
            number = self._commits
        with self._flushing:
            if self._flushed >= number or self._log is None:
                return
            latest = self._commits
            flush_file(self._log)
            self._flushed = latest
