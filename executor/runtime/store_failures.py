"""The failures of the store that the threads of a worker meet.

Problem: a store may refuse some operations for minutes, and others succeed meanwhile. A failure must be in
the log, once and not at each try. Its first reason may be a cut connection, and a later one the cause, such
as a server that only allows reads. A command that waits for its run must end with an error after a while.

Algorithm: each thread has at most one failure for each kind of operation. It has its start, its latest error,
and the reasons that are in the log. It ends when the store answers the same thread.

Cost: a look-up in a dictionary for each operation that succeeds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from noetl.executor.errors import StoreError
from noetl.executor.runtime.persistent_store import PAUSE_SECONDS

CLAIM, EXECUTE = "claim", "execute"
"""The kinds of operations: claims, and all that belong to the execution of a claimed visit."""

MAX_REASONS = 5
"""How many different reasons of a failure are logged."""

logger = logging.getLogger("noetl.executor")


class FailureReasons:
    """The reasons of a failure that are in the log, at most MAX_REASONS. `consequence` says what follows."""

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._logged: set[str] = set()

    def log(self, error: StoreError) -> None:
        """Log the reason, unless it is in the log."""
        reason = str(error)
        if reason not in self._logged and len(self._logged) < MAX_REASONS:
            self._logged.add(reason)
            logger.warning("the store failed; %s: %s", self._consequence, reason)

    def clear(self) -> None:
        """Remove the reasons: the failure has ended."""
        self._logged.clear()


def repeat_until(
    stopping: threading.Event,
    perform: Callable[[], float],
    *,
    pause_seconds: float,
    consequence: str,
    crash: str,
) -> None:
    """Call `perform` until `stopping` is set. It returns after how many seconds it is called again.

    After a failure it is called again after `pause_seconds`. One of the store is logged with `consequence`,
    once for each reason. Any other is a bug, and is logged as `crash` with its traceback.
    """
    failures = FailureReasons(consequence)
    pause = 0.0
    while not stopping.wait(pause):
        try:
            pause = perform()
            failures.clear()
        except StoreError as error:
            pause = pause_seconds
            # The store of a process that stops may be closed.
            if not stopping.is_set():
                failures.log(error)
        except Exception:
            pause = pause_seconds
            logger.exception(crash)


class StoreFailure:
    """A failure: since when (monotonic), its latest error, and its reasons."""

    def __init__(self, error: StoreError) -> None:
        self.since = time.monotonic()
        self.error = error
        self.reasons = FailureReasons("trying again")


class StoreFailures:
    """The failures of a store that threads meet until `stopping` is set. It is the policy of their retries.

    The store of a worker that is stopping may be closed, so failures are ignored then.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._failures: dict[tuple[str, int], StoreFailure] = {}

    def record(self, kind: str, error: StoreError) -> None:
        """Record that an operation of this thread has failed. Log its reason when it is a new one."""
        if not self._stopping.is_set():
            failure = self._failures.setdefault((kind, threading.get_ident()), StoreFailure(error))
            failure.error = error
            failure.reasons.log(error)

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
        for (failed, _), failure in list(self._failures.items()):
            if failed == kind and time.monotonic() - failure.since > seconds:
                raise failure.error
