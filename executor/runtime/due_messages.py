"""Messages about triggers and entries of the outbox that are due: a sweep sends them, and invocations perform
them.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.engine.outbox import PERFORMED_KINDS, perform_entry
from noetl.executor.engine.schedule_firing import perform_due
from noetl.executor.model.outbox import OutboxEntry
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.stores.interface import QueuedStore
from noetl.executor.stores.sqs.outbox_message import OutboxMessage
from noetl.executor.stores.sqs.trigger_message import LOOKAHEAD_SECONDS, TriggerMessage

MAX_MESSAGES = 10_000
"""Number of messages about triggers, and about entries, that a sweep sends."""


def send_due_messages(store: QueuedStore, now: float) -> int:
    """Send messages about the triggers and the entries of the outbox that are due soon. Return their number."""
    if store.message_queue is None:
        return 0
    until = now + LOOKAHEAD_SECONDS
    messages = _messages_about(
        [*store.triggers.due(until, MAX_MESSAGES), *store.outbox.due(PERFORMED_KINDS, until, MAX_MESSAGES)]
    )
    store.message_queue.send(messages, now)
    return len(messages)


def perform_message(store: QueuedStore, message: TriggerMessage | OutboxMessage) -> bool:
    """Perform what a message names, and send a message about its next time if that is soon.

    Return whether anything was performed.
    """
    if isinstance(message, OutboxMessage):
        return _perform_entry(store, message)
    return _perform_trigger(store, message)


def _perform_trigger(store: QueuedStore, message: TriggerMessage) -> bool:
    """Perform the firings of a trigger that are due."""
    trigger = store.triggers.get(message.tenant, message.playbook, message.name)
    if trigger is None or trigger.due_at is None or trigger.due_at > message.due_at:
        return False
    is_performed = False
    while trigger.due_at is not None and trigger.due_at <= store.clock():
        advance = perform_due(store, trigger, store.clock())
        if advance is None:
            return is_performed
        is_performed, trigger = True, advance.written
    _send_next(store, trigger)
    return is_performed


def _perform_entry(store: QueuedStore, message: OutboxMessage) -> bool:
    entry = store.outbox.get(message.tenant, message.id)
    now = store.clock()
    if entry is None or entry.due_at is None or entry.due_at > min(message.due_at, now):
        return False
    is_performed = perform_entry(store, entry, now)
    moved = store.outbox.get(message.tenant, message.id)
    if moved is not None:
        _send_next(store, moved)
    return is_performed


def _send_next(store: QueuedStore, work: LiveTrigger | OutboxEntry) -> None:
    """Send a message about the next time of a trigger or an entry, unless a sweep is in time to do so."""
    now = store.clock()
    is_soon = work.due_at is not None and work.due_at <= now + LOOKAHEAD_SECONDS
    if store.message_queue is not None and is_soon:
        store.message_queue.send(_messages_about([work]), now)


def _messages_about(due: Sequence[LiveTrigger | OutboxEntry]) -> list[TriggerMessage | OutboxMessage]:
    messages: list[TriggerMessage | OutboxMessage] = []
    for work in due:
        if work.due_at is None:
            continue
        if isinstance(work, OutboxEntry):
            messages.append(OutboxMessage(work.tenant, work.id, work.due_at))
        else:
            messages.append(TriggerMessage(work.tenant, work.playbook, work.name, work.due_at))
    return messages
