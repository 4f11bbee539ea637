"""The failures of the store that the threads of a worker meet.

Problem: a store may refuse some operations for minutes, and others succeed meanwhile. A failure must be in
the log, once and not at each try. A command that waits for its run must end with an error after a while.

Algorithm: each thread has at most one failure for each kind of operation: since when, and its first error. It
ends when the store answers the same thread.

Cost: a look-up in a dictionary for each operation that succeeds.
"""

from __future__ import annotations

import logging
import threading
import time

from noetl.executor.errors import StoreError
from noetl.executor.runtime.persistent_store import PAUSE_SECONDS

CLAIM, EXECUTE = "claim", "execute"
"""The kinds of operations: claims, and all that belong to the execution of a claimed visit."""

logger = logging.getLogger("noetl.executor")


class StoreFailures:
    """The failures of a store that threads meet until `stopping` is set. It is the policy of their retries.

    The store of a worker that is stopping may be closed, so failures are ignored then.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._failures: dict[tuple[str, int], tuple[float, StoreError]] = {}

    def record(self, kind: str, error: StoreError) -> None:
        """Record that an operation of this thread has failed. Log its first failure."""
        key = (kind, threading.get_ident())
        if key not in self._failures and not self._stopping.is_set():
            self._failures[key] = (time.monotonic(), error)
            logger.warning("the store failed; trying again: %s", error)

    def clear(self, kind: str) -> None:
        """Record that an operation of this thread has succeeded."""
        if self._failures and self._failures.pop((kind, threading.get_ident()), None) is not None:
            logger.warning("the store works again")

    def may_retry(self, error: StoreError) -> bool:
        """Record a failure during the execution of a visit, wait, and return whether the worker continues."""
        self.record(EXECUTE, error)
        return not self._stopping.wait(PAUSE_SECONDS)

    def record_answer(self) -> None:
        """Record that the store has answered an operation that had failed."""
        self.clear(EXECUTE)

    def raise_after(self, kind: str, seconds: float) -> None:
        """Raise the error of an operation that has failed for longer than `seconds`."""
        for (failed, _), (since, error) in list(self._failures.items()):
            if failed == kind and time.monotonic() - since > seconds:
                raise error
