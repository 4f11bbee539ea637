"""The loop of a process that fires triggers when they are due, or when a run that they await has ended.

Problem: many triggers may be due at once, and their templates are evaluated one after the other. A tenant
with thousands of them must not delay those of another tenant.

Algorithm: turns. A tenant performs its due work for TURN_SECONDS: triggers that are due, and entries of the
outbox. Then it is passed over, until no other tenant has due work.

Cost: a query of the triggers and one of each kind of entry in each POLL_SECONDS, and as many for each MAX_DUE
firings.

Limits: turns are those of one process. A tenant waits for one turn of each other tenant with due triggers,
and for the end of one firing.
"""

from __future__ import annotations

import random
import threading
import time

from noetl.executor.engine.outbox import PERFORMED_KINDS, perform_entry
from noetl.executor.engine.schedule_firing import perform_due
from noetl.executor.model.outbox import OutboxEntry
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.runtime.store_failures import repeat_until
from noetl.executor.stores.interface import Store

POLL_SECONDS = 1.0
"""How often a process reads what is due. It reads those until the next time, too."""

TABLE_POLL_SECONDS = 5.0
"""The same for a store that bills each request."""

CONFLICT_SECONDS = 0.02
"""The pause after a round in which another process has performed the first trigger."""

TURN_SECONDS = 0.25
"""How long one tenant performs its due triggers before those of other tenants follow."""

MAX_PASSED_OVER = 1000
"""How many tenants are passed over at most. The turns then begin again."""

MAX_DUE = 100
"""Number of due triggers, and of entries of the outbox, that are read at once."""

DueWork = LiveTrigger | OutboxEntry


class TriggerLoop:
    """A loop that performs due firings until `stopping` is set.

    Every process of a service has one. They perform the same list of due triggers, but begin at random
    positions in it. So a process meets what another one has performed when it reaches the position of the
    other, not before.
    """

    def __init__(self, store: Store, stopping: threading.Event) -> None:
        self._store = store
        self._stopping = stopping
        self._passed_over: set[str] = set()
        self._poll_seconds = POLL_SECONDS if store.queue.claims_in_turn else TABLE_POLL_SECONDS

    def run(self) -> None:
        """Perform firings when they are due, until the process stops."""
        repeat_until(
            self._stopping,
            self.perform_all,
            pause_seconds=self._poll_seconds,
            consequence="triggers are tried again",
            crash="a trigger could not be performed; it is tried again",
        )

    def perform_all(self) -> float:
        """Perform the work that is due. Return after how many seconds other work is.

        Raises:
            StoreError: the store cannot be reached.
        """
        store, now = self._store, self._store.clock()
        until = now + self._poll_seconds
        found: list[DueWork] = [
            *store.outbox.due(PERFORMED_KINDS, until, MAX_DUE, self._passed_over),
            *store.triggers.due(until, MAX_DUE, self._passed_over),
        ]
        due: dict[str, list[DueWork]] = {}
        for work in found:
            if work.due_at is not None and work.due_at <= now:
                due.setdefault(work.tenant, []).append(work)
        if not due and self._passed_over:
            self._passed_over.clear()
            return 0.0
        if due:
            counts = [self._perform_turn(tenant, listed) for tenant, listed in due.items()]
            return 0.0 if any(counts) else CONFLICT_SECONDS
        following = min((work.due_at for work in found if work.due_at is not None), default=until)
        return max(following - store.clock(), 0.001)

    def _perform_turn(self, tenant: str, due: list[DueWork]) -> int:
        """Perform due work of a tenant, up to the end of its turn. Return how much was performed."""
        store, ends_at, count = self._store, time.monotonic() + TURN_SECONDS, 0
        first = random.randrange(len(due))
        for work in (*due[first:], *due[:first]):
            # After the first conflict the next ones have probably been performed, too. Others are read.
            if self._stopping.is_set() or not _perform(store, work):
                break
            count += 1
            if time.monotonic() >= ends_at:
                break
        if len(self._passed_over) >= MAX_PASSED_OVER:
            self._passed_over.clear()
        self._passed_over.add(tenant)
        return count


def _perform(store: Store, work: DueWork) -> bool:
    """Perform due work, and return whether this process has done it."""
    if isinstance(work, OutboxEntry):
        return perform_entry(store, work, store.clock())
    return perform_due(store, work, store.clock()) is not None
