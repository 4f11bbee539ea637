"""The write-ahead log of a SQLite file, which is cut as soon as no process needs its older pages.

Problem: the commit that makes the log long writes it back, and other commits wait for it, some 20 ms. And
SQLite cannot start its log again while a process reads an older state of the file. A backup or a forgotten
shell reads one for hours, and the log grows meanwhile. No process can end that of another user. After its
end, SQLite writes all pages of the log back within the next commit. A gigabyte takes seconds, and a lease may
end in the meantime.

Algorithm: checkpoints next to the commits. Source: SQLite documentation, "Write-Ahead Logging", "Avoiding
Excessively Large WAL Files". Several times a second, workers write a long log back by a passive checkpoint,
which no commit waits for. If few pages are left, a restarting one writes these, and the log starts again. It
waits RESTART_SECONDS at most for statements that read. Every few seconds, workers check whether the log is
far too long. While it is, no commit of this process writes it back. A truncating checkpoint cuts it to
nothing, and waits CUT_SECONDS at most. If pages are kept for a reader at two checks, a warning names the
reader.

Cost: a read of the length of a file several times a second.

Limits: the log grows as long as the reader stays. Only processes with workers write back next to commits.
"""

from __future__ import annotations

import logging
import os
import time
from threading import Lock

from noetl.executor.stores.sqlite.file import FRAME_BYTES, CheckpointMode, SqliteFile
from noetl.executor.stores.sqlite.log_readers import LogReader, describe_readers, find_log_readers

CHECK_SECONDS = 1.0
"""How long after a check of a log that is too long the next one is made."""

RESTART_SECONDS = 0.005
"""How long commits wait for statements that read the log, so that it starts again, or at the next call."""

LATE_FACTOR = 4
"""How many times its usual length the log may have before a commit writes it back next to workers."""

MEGABYTE = 1_000_000

logger = logging.getLogger("noetl.executor")


class WriteAheadLog:
    """The log of a file. Safe to call from any thread."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._checking = Lock()
        self._next_at = 0.0
        self._readers: frozenset[LogReader] | None = None
        self._is_reported = False
        self._usual_pages: int | None = None
        """The length of the log at which commits write it back, as in `SqliteFile.commit_log_pages`."""

    def size(self) -> int:
        """Return the length of the log in bytes."""
        try:
            return os.stat(f"{self._file.path}-wal").st_size  # noqa: PTH116  A `Path` takes longer.
        except OSError:
            return 0

    def maintain(self) -> None:
        """Cut the log if it is too long, and report a reader that prevents it.

        Raises:
            StoreError: the log could not be written back.
        """
        if not self._checking.acquire(blocking=False):
            return
        try:
            size = self.size()
            if size <= self._file.max_log_bytes:
                self._end_deferral(size)
            elif time.monotonic() >= self._next_at:
                self._file.commit_log_pages = 0
                if self._write_back():
                    self._readers = None
                    self._end_deferral(self.size())
                else:
                    self._report_readers(size)
                self._next_at = time.monotonic() + CHECK_SECONDS
        finally:
            self._checking.release()

    def write_back(self) -> None:
        """Write the log back if it is longer than usual, and let it start again.

        Commits wait for the pages of the latest ones only. From the first call on, a commit itself writes the
        log back if it is LATE_FACTOR times as long, as calls may have stopped.

        Raises:
            StoreError: the log could not be written back.
        """
        if self._usual_pages is None:
            self._usual_pages = LATE_FACTOR * self._file.log_pages
            self._file.commit_log_pages = self._usual_pages
        is_long = self.size() > self._file.log_pages * FRAME_BYTES
        if self._file.commit_log_pages == 0 or not is_long or not self._checking.acquire(blocking=False):
            return
        try:
            pages = self._file.write_back(CheckpointMode.PASSIVE)
            if pages is not None and pages.unwritten <= self._file.log_pages:
                self._file.write_back(CheckpointMode.RESTART, RESTART_SECONDS)
        finally:
            self._checking.release()

    def problem(self) -> str | None:
        """Return what keeps the log too long and what to do, or None if the log is short."""
        size = self.size()
        if size <= self._file.max_log_bytes:
            return None
        # Statements of workers are short, so a reader that is found twice may be the long one.
        first = find_log_readers(self._file.path)
        time.sleep(CHECK_SECONDS / 10)
        return self._describe(size, first & find_log_readers(self._file.path))

    def _describe(self, size: int, readers: frozenset[LogReader]) -> str:
        return (
            f"the write-ahead log of {self._file.path} has {size / MEGABYTE:,.0f} MB; end the process that"
            f" reads an old state of the store: {describe_readers(readers)}"
        )

    def _end_deferral(self, size: int) -> None:
        """Let commits write the log back again, if it is short."""
        if self._file.commit_log_pages == 0 and size <= self._file.max_log_bytes:
            self._file.commit_log_pages = self._usual_pages
            self._readers = None
            if self._is_reported:
                self._is_reported = False
                logger.warning("the write-ahead log of %s was cut to %d bytes", self._file.path, size)

    def _write_back(self) -> bool:
        """Write the log back, and cut it. Return False if older pages are kept for a reader."""
        written = -1
        while True:
            pages = self._file.write_back(CheckpointMode.PASSIVE)
            if pages is None:
                return True  # another process writes back
            if pages.unwritten <= self._file.log_pages:
                break
            if pages.written <= written:
                return False
            written = pages.written
        self._file.write_back(CheckpointMode.TRUNCATE)
        return True

    def _report_readers(self, size: int) -> None:
        """Log the readers that were found at this check and the one before, once."""
        found = find_log_readers(self._file.path)
        if self._readers is None:
            self._readers = found
            return
        self._readers &= found
        if not self._is_reported:
            self._is_reported = True
            logger.warning("%s", self._describe(size, self._readers))
