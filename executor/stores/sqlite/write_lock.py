"""The lock of writers of a SQLite file: that of the process, and then that of the file.

Problem: another process may hold the lock of the file for as long as it likes. If requests waited for it as
workers do, one after the other, all of their threads would be held. Those that only read would wait, too.

Algorithm: the thread that holds the lock of the process tries that of the file. The lock knows since when it
was tried in vain. From then on, an operation with limited patience (`noetl.executor.patience`) waits as long
as its patience, and later not at all. One that comes while no other thread tries the lock of the file tries
it once. Its success lets all others write again.

Cost: two looks at an attribute for each transaction.

Limits: a long transaction of this process is waited for.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from types import TracebackType

from noetl.executor.errors import StoreLockedError
from noetl.executor.patience import patience_seconds
from noetl.executor.precedence import PrecedenceLock

BUSY_SECONDS = 10.0
"""How long an operation without limited patience waits for the lock of the file."""

PRIMARY_CODE = 0xFF
"""The part of an error code of SQLite that all codes of one kind share."""


def is_locked(error: BaseException) -> bool:
    """Return whether an error says that another process or connection has locked a file."""
    return getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE == sqlite3.SQLITE_BUSY


class WriteLock:
    """The lock of the process for its writers. Use it as `with lock:`, and begin a transaction in the block.

    `message` is that of the error if another process has locked the file.
    """

    def __init__(self, message: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.message = message
        self._clock = clock
        self._process_lock = PrecedenceLock()
        self._tried_since: float | None = None
        """Since when the lock of the file was tried and not acquired."""

    def __enter__(self) -> None:
        patience = patience_seconds()
        if patience is None:
            self._process_lock.__enter__()
            return
        while not self._process_lock.acquire(timeout=self._seconds_left(patience)):
            if self._tried_since is not None and not self._seconds_left(patience):
                raise StoreLockedError(self.message)

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process_lock.__exit__(type, error, traceback)

    def begin(self, begin: Callable[[float], object]) -> None:
        """Begin a transaction by a function, which takes the seconds to wait for the lock of the file.

        The thread holds the lock of the process.
        """
        if self._tried_since is None:
            self._tried_since = self._clock()
        try:
            begin(self._busy_seconds())
        except sqlite3.Error as error:
            if not is_locked(error):
                self._tried_since = None
            raise
        self._tried_since = None

    def _busy_seconds(self) -> float:
        """Return how long SQLite may wait. It is one of few lengths, because a change is a statement."""
        patience = patience_seconds()
        if patience is None:
            return BUSY_SECONDS
        return patience if self._seconds_left(patience) else 0.0

    def _seconds_left(self, patience: float) -> float:
        tried_since = self._tried_since
        if tried_since is None:
            return patience
        return max(tried_since + patience - self._clock(), 0.0)
