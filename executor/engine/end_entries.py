"""The entries of the outbox that follow from the end of a run."""

from __future__ import annotations

from noetl.executor.model.notifications import notification_entries
from noetl.executor.model.outbox import OutboxEntry
from noetl.executor.model.run import SERVICE_QUEUE, Run, RunEnding
from noetl.executor.model.run_entries import ended_entry
from noetl.executor.stores.interface import Store


def find_entries(store: Store, run: Run, ending: RunEnding, now: float) -> list[OutboxEntry]:
    """Return the entries of the outbox that the end of a run writes. A local run writes none."""
    if run.queue != SERVICE_QUEUE:
        return []
    subscribers = store.outbox.subscribers(run.tenant, run.playbook)
    notify = store.plans.header(run.plan_hash).notify
    ended = [ended_entry(run, ending.status, now)] if subscribers.has_triggers else []
    return [*ended, *notification_entries(run, ending, notify, subscribers, now)]
