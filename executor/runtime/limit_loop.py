"""The loop of a process that grants free units of limits which a process that died has left.

Problem: the process that gives units back grants them to the next in the queue, in a transaction of its own.
If it dies in between, the units are free and the queue waits.

Algorithm: polling of an index that has only gates with free units and a queue.

Cost: one query in each POLL_SECONDS. On DynamoDB, eight in each TABLE_POLL_SECONDS.

Limits: what waits after such a death waits for POLL_SECONDS longer.
"""

from __future__ import annotations

import threading

from noetl.executor.engine.slots import grant_stalled
from noetl.executor.runtime.store_failures import repeat_until
from noetl.executor.stores.interface import Store

POLL_SECONDS = 1.0
"""How often a process looks for such gates."""

TABLE_POLL_SECONDS = 5.0
"""The same for a store that bills each request."""


class LimitLoop:
    """A loop that grants free units until `stopping` is set. Every worker has one."""

    def __init__(self, store: Store, stopping: threading.Event) -> None:
        self._store = store
        self._stopping = stopping
        self._poll_seconds = POLL_SECONDS if store.queue.claims_in_turn else TABLE_POLL_SECONDS

    def run(self) -> None:
        """Grant free units, until the process stops."""
        if self._stopping.wait(self._poll_seconds):
            return
        repeat_until(
            self._stopping,
            self._grant,
            pause_seconds=self._poll_seconds,
            consequence="limits are read again",
            crash="limits could not be read; they are read again",
        )

    def _grant(self) -> float:
        grant_stalled(self._store)
        return self._poll_seconds
