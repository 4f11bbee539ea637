"""Messages about triggers and entries of the outbox that are due: a sweep sends them, and invocations perform
them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from noetl.executor.engine.outbox import ALL_KINDS, perform_entry
from noetl.executor.engine.schedule_firing import perform_due
from noetl.executor.model.outbox import PERFORM_SECONDS, OutboxEntry
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.stores.interface import QueuedStore
from noetl.executor.stores.sqs.outbox_message import OutboxMessage
from noetl.executor.stores.sqs.trigger_message import LOOKAHEAD_SECONDS, TriggerMessage

MAX_MESSAGES = 10_000
"""Number of messages about triggers, and about entries, that a sweep sends."""


def send_due_messages(store: QueuedStore, now: float) -> int:
    """Send messages about triggers and entries of the outbox that are due soon. Return their number."""
    if store.queue.message_queue is None:
        return 0
    until = now + LOOKAHEAD_SECONDS
    triggers = store.triggers.due(until, MAX_MESSAGES)
    entries = store.outbox.due(ALL_KINDS, until, MAX_MESSAGES)
    return send_messages_about(store, [*triggers, *entries])


def perform_message(store: QueuedStore, message: TriggerMessage | OutboxMessage) -> bool:
    """Perform what a message names, and send a message about its next time if that is soon.

    Return whether anything was performed.
    """
    if isinstance(message, OutboxMessage):
        return _perform_entry(store, message)
    return _perform_trigger(store, message)


def _perform_trigger(store: QueuedStore, message: TriggerMessage) -> bool:
    """Perform the firings of a trigger that are due.

    After PERFORM_SECONDS another message performs the rest. A trigger may catch up on a thousand firings, and
    the invocation has other messages.
    """
    trigger = store.triggers.get(message.tenant, message.playbook, message.name)
    if trigger is None or trigger.due_at is None or trigger.due_at > message.due_at:
        return False
    is_performed, ends_at = False, time.monotonic() + PERFORM_SECONDS
    while trigger.due_at is not None and trigger.due_at <= store.clock():
        advance = perform_due(store, trigger, store.clock())
        if advance is None:
            return is_performed
        is_performed, trigger = True, advance.written
        if time.monotonic() >= ends_at:
            break
    send_messages_about(store, [trigger])
    return is_performed


def _perform_entry(store: QueuedStore, message: OutboxMessage) -> bool:
    entry = store.outbox.get(message.tenant, message.id)
    now = store.clock()
    if entry is None or entry.due_at is None or entry.due_at > min(message.due_at, now):
        return False
    is_performed = perform_entry(store, entry, now)
    moved = store.outbox.get(message.tenant, message.id)
    if moved is not None:
        send_messages_about(store, [moved])
    return is_performed


def send_messages_about(store: QueuedStore, work: Sequence[LiveTrigger | OutboxEntry]) -> int:
    """Send messages about triggers and entries that are due before the next sweep. Return their number."""
    queue, now = store.queue.message_queue, store.clock()
    if queue is None:
        return 0
    messages: list[TriggerMessage | OutboxMessage] = []
    for item in work:
        if item.due_at is None or item.due_at > now + LOOKAHEAD_SECONDS:
            continue
        if isinstance(item, OutboxEntry):
            messages.append(OutboxMessage(item.tenant, item.id, item.due_at))
        else:
            messages.append(TriggerMessage(item.tenant, item.playbook, item.name, item.due_at))
    queue.send(messages, now)
    return len(messages)
