"""The identity of the file of a store and of its write-ahead log: are they still those that were opened?

Problem: a person may delete or replace either file under a service. What is written then is lost, or two
threads write to different files. SQLite does not notice.

Algorithm: the device and the number of a file are compared with those of its path. A write does so if the
time of the folder has changed: an entry was created, deleted or renamed since the last check. Within a tick
of the clock the time stays as it is, so a time of just now counts as changed. At least every CHECK_SECONDS
the paths are looked up anyway, because the folder itself may have been renamed.

Cost: a read of the time of an open folder for each write, which takes half as long as the look-up of a path.

Limits: a renamed folder, or one of a file system whose times are coarse, is noticed after CHECK_SECONDS.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from noetl.executor.errors import StoreError

CHECK_SECONDS = 0.05
"""How long reads rely on a check, and how long writes do while the folder has not changed."""

TICK_SECONDS = 0.02
"""How long the time of a folder may stay as it is although an entry has changed. A tick is 10 ms at most."""

Identity = tuple[int, int]
"""The device and the number of a file."""


class FileIdentity:
    """The file at a path and its log, as they are now. Safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._log_path = f"{path}-wal"
        self._file = read_identity(self._path)
        self._log: Identity | None = None
        self._folder: int | None = None
        self._folder_time: int | None = None
        self._checked_until = 0.0
        # Without the right to read the folder, each write looks up the path.
        with suppress(OSError):
            self._folder = os.open(path.parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))

    def close(self) -> None:
        """Close the folder."""
        folder, self._folder = self._folder, None
        if folder is not None:
            os.close(folder)

    def remember_log(self) -> None:
        """Remember the log as it is now, unless one is remembered. A connection must be open."""
        if self._log is None:
            with suppress(OSError):
                self._log = read_identity(self._log_path)

    def forget_log(self) -> None:
        """Drop the log: no connection is open, and the next one may find another log."""
        self._log = None

    def check_for_read(self) -> None:
        """Raise StoreError if a file was found to be gone. Of many calls only some look at the files."""
        if time.monotonic() >= self._checked_until:
            self.check()

    def check_for_write(self) -> None:
        """Raise StoreError if the file or its log was deleted or replaced."""
        if (
            self._folder_time is None
            or self._read_folder_time() != self._folder_time
            or time.monotonic() >= self._checked_until
        ):
            self.check()

    def check(self) -> None:
        """Compare both files with those of their paths. Raise StoreError if one was deleted or replaced."""
        self._checked_until = 0.0
        now, folder_time = time.monotonic(), self._read_folder_time()
        if not _is_same(self._path, self._file):
            raise StoreError(
                f"The store at {self._path} is gone: its file was deleted or replaced. Put it back, or"
                " start again with the new file."
            )
        if self._log is not None and not _is_same(self._log_path, self._log):
            # A connection that opens the new log would not find what the others have written to the old one.
            raise StoreError(
                f"The store at {self._path} has lost its write-ahead log: {self._log_path} was deleted or"
                " replaced. End all processes of the store, which write their log back, and start again."
            )
        is_old = folder_time is not None and time.time_ns() - folder_time > TICK_SECONDS * 1e9
        self._folder_time = folder_time if is_old else None
        self._checked_until = now + CHECK_SECONDS

    def _read_folder_time(self) -> int | None:
        """Return when an entry of the folder was created, deleted or renamed last, or None if not known."""
        folder = self._folder
        if folder is None:
            return None
        try:
            return os.fstat(folder).st_mtime_ns
        except OSError:  # Another thread has closed the store since.
            return None


def read_identity(path: str) -> Identity:
    """Return the identity of the file that has a path now.

    Raises:
        OSError: there is none.
    """
    status = os.stat(path)  # noqa: PTH116  A `Path` takes longer.
    return status.st_dev, status.st_ino


def _is_same(path: str, identity: Identity) -> bool:
    try:
        return read_identity(path) == identity
    except OSError:
        return False
