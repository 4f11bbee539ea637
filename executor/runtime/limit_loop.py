"""The loop of a process that grants free units of limits which a process that died has left.

Problem: the process that gives units back grants them to the next in the queue, in a transaction of its own.
If it dies in between, the units are free and the queue waits.

Algorithm: polling of an index that has only gates with free units and a queue.

Cost: one query in each POLL_SECONDS. On DynamoDB, eight in each TABLE_POLL_SECONDS.

Limits: what waits after such a death waits for POLL_SECONDS longer.
"""

from __future__ import annotations

import logging
import threading

from noetl.executor.engine.slots import grant_stalled
from noetl.executor.errors import StoreError
from noetl.executor.runtime.store_failures import FailureReasons
from noetl.executor.stores.interface import Store

POLL_SECONDS = 1.0
"""How often a process looks for such gates."""

TABLE_POLL_SECONDS = 5.0
"""The same for a store that bills each request."""

logger = logging.getLogger("noetl.executor")


class LimitLoop:
    """A loop that grants free units until `stopping` is set. Every worker has one."""

    def __init__(self, store: Store, stopping: threading.Event) -> None:
        self._store = store
        self._stopping = stopping
        self._failures = FailureReasons("limits are read again")
        self._poll_seconds = POLL_SECONDS if store.queue.claims_in_turn else TABLE_POLL_SECONDS

    def run(self) -> None:
        """Grant free units, until the process stops."""
        while not self._stopping.wait(self._poll_seconds):
            try:
                grant_stalled(self._store)
                self._failures.clear()
            except StoreError as error:
                if not self._stopping.is_set():
                    self._failures.log(error)
            except Exception:
                logger.exception("limits could not be read; they are read again")
