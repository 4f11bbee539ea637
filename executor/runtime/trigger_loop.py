"""The loop of a process that fires triggers when they are due.

Problem: many triggers may be due at once, and their templates are evaluated one after the other. A tenant
with thousands of them must not delay those of another tenant.

Algorithm: turns. A tenant performs its due triggers for TURN_SECONDS. Then it is passed over, until no other
tenant has a trigger that is due.

Cost: one query of the store in each POLL_SECONDS, and one for each MAX_DUE firings.

Limits: turns are those of one process. A tenant waits for one turn of each other tenant with due triggers,
and for the end of one firing.
"""

from __future__ import annotations

import logging
import random
import threading
import time

from noetl.executor.engine.schedule_firing import perform_due
from noetl.executor.errors import StoreError
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.runtime.store_failures import FailureReasons
from noetl.executor.stores.interface import QueuedStore, Store
from noetl.executor.stores.sqs.trigger_message import LOOKAHEAD_SECONDS, TriggerMessage

POLL_SECONDS = 1.0
"""How often a process reads which triggers are due. It reads those until the next time, too."""

TABLE_POLL_SECONDS = 5.0
"""The same for a store that bills each request."""

CONFLICT_SECONDS = 0.02
"""The pause after a round in which another process has performed the first trigger."""

TURN_SECONDS = 0.25
"""How long one tenant performs its due triggers before those of other tenants follow."""

MAX_PASSED_OVER = 1000
"""How many tenants are passed over at most. The turns then begin again."""

MAX_DUE = 100
"""Number of due triggers that are read at once."""

MAX_MESSAGES = 10_000
"""Number of trigger messages that a sweep sends."""

logger = logging.getLogger("noetl.executor")


class TriggerLoop:
    """A loop that performs due firings until `stopping` is set.

    Every process of a service has one. They perform the due triggers in random orders, so that they rarely
    meet at the same one.
    """

    def __init__(self, store: Store, stopping: threading.Event) -> None:
        self._store = store
        self._stopping = stopping
        self._failures = FailureReasons("triggers are tried again")
        self._passed_over: set[str] = set()
        self._poll_seconds = POLL_SECONDS if store.queue.claims_in_turn else TABLE_POLL_SECONDS

    def run(self) -> None:
        """Perform firings when they are due, until the process stops."""
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                pause = self.perform_all()
                self._failures.clear()
            except StoreError as error:
                pause = self._poll_seconds
                if not self._stopping.is_set():
                    self._failures.log(error)
            except Exception:
                pause = self._poll_seconds
                logger.exception("a trigger could not be performed; it is tried again")

    def perform_all(self) -> float:
        """Perform the firings that are due. Return after how many seconds others are.

        Raises:
            StoreError: the store cannot be reached.
        """
        store, now = self._store, self._store.clock()
        found = store.triggers.due(now + self._poll_seconds, MAX_DUE, self._passed_over)
        due: dict[str, list[LiveTrigger]] = {}
        for trigger in found:
            if trigger.due_at is not None and trigger.due_at <= now:
                due.setdefault(trigger.tenant, []).append(trigger)
        if not due and self._passed_over:
            self._passed_over.clear()
            return 0.0
        if due:
            counts = [self._perform_turn(tenant, triggers) for tenant, triggers in due.items()]
            return 0.0 if any(counts) else CONFLICT_SECONDS
        following = min((t.due_at for t in found if t.due_at is not None), default=now + self._poll_seconds)
        return max(following - store.clock(), 0.001)

    def _perform_turn(self, tenant: str, due: list[LiveTrigger]) -> int:
        """Perform due triggers of a tenant, up to the end of its turn. Return the number of firings."""
        store, ends_at, count = self._store, time.monotonic() + TURN_SECONDS, 0
        random.shuffle(due)
        for trigger in due:
            # After the first conflict the others have probably been performed, too, so they are read again.
            if self._stopping.is_set() or perform_due(store, trigger, store.clock()) is None:
                break
            count += 1
            if time.monotonic() >= ends_at:
                break
        if len(self._passed_over) >= MAX_PASSED_OVER:
            self._passed_over.clear()
        self._passed_over.add(tenant)
        return count


def send_trigger_messages(store: QueuedStore, now: float) -> int:
    """Send messages about the triggers that are due soon, and return their number."""
    if store.message_queue is None:
        return 0
    due = store.triggers.due(now + LOOKAHEAD_SECONDS, MAX_MESSAGES)
    messages = [
        TriggerMessage(trigger.tenant, trigger.playbook, trigger.name, trigger.due_at)
        for trigger in due
        if trigger.due_at is not None
    ]
    store.message_queue.send(messages, now)
    return len(messages)


def perform_message(store: QueuedStore, message: TriggerMessage) -> bool:
    """Perform the firings of a trigger that are due, and send a message about the next if that is due soon.

    Return whether a firing was performed.
    """
    trigger = store.triggers.get(message.tenant, message.playbook, message.name)
    if trigger is None or trigger.due_at is None or trigger.due_at > message.due_at:
        return False
    is_performed = False
    while trigger.due_at is not None and trigger.due_at <= store.clock():
        advance = perform_due(store, trigger, store.clock())
        if advance is None:
            return is_performed
        is_performed, trigger = True, advance.written
    now = store.clock()
    if store.message_queue is not None and trigger.due_at is not None:
        if trigger.due_at <= now + LOOKAHEAD_SECONDS:
            following = TriggerMessage(trigger.tenant, trigger.playbook, trigger.name, trigger.due_at)
            store.message_queue.send([following], now)
    return is_performed
