"""The outbox of the store in memory: what is done after runs have ended, or if they are late, and backfills.

The author of a store decides how due entries are found, and how one read finds the subscribers of an end.
Here the lock orders all writes, and all entries are examined.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence

from noetl.executor.model.events import Event
from noetl.executor.model.metrics import Fact
from noetl.executor.model.outbox import NotificationSearch, OutboxEntry, OutboxKind, Subscribers
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.memory.facts import add_fact
from noetl.executor.stores.memory.state import MemoryState


class MemoryOutbox:
    """The outbox of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def add(self, entry: OutboxEntry) -> bool:
        with self._state.lock:
            return self._state.outbox.setdefault((entry.tenant, entry.id), entry) is entry

    def subscribers(self, tenant: str, playbook: str) -> Subscribers:
        with self._state.lock:
            triggers = list(self._state.triggers.values())
            channels = [channel for channel in self._state.channels.values() if channel.tenant == tenant]
        return Subscribers(
            has_triggers=any((trigger.tenant, trigger.awaits) == (tenant, playbook) for trigger in triggers),
            channels={channel.name: channel.events for channel in channels if channel.events},
        )

    def due(
        self, kinds: Collection[OutboxKind], now: float, limit: int, passed_over: Collection[str] = ()
    ) -> list[OutboxEntry]:
        with self._state.lock:
            entries = list(self._state.outbox.values())
        timed = [
            (entry.due_at, entry)
            for entry in entries
            if entry.due_at is not None and entry.kind in kinds and entry.tenant not in passed_over
        ]
        due = [(due_at, entry) for due_at, entry in timed if due_at <= now]
        return [entry for _, entry in sorted(due, key=lambda pair: pair[0])[:limit]]

    def due_notifications(self, search: NotificationSearch) -> list[OutboxEntry]:
        due = self.due([OutboxKind.NOTIFICATION], search.now, sys.maxsize, search.tenants)
        entries = {(entry.tenant, entry.id): entry for entry in due}
        return [entries[key] for key in search.select(entries)]

    def get(self, tenant: str, id: str) -> OutboxEntry | None:
        with self._state.lock:
            return self._state.outbox.get((tenant, id))

    def find(
        self, tenant: str, kind: OutboxKind, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[OutboxEntry], str | None]:
        before = None if cursor is None else str(read_key_cursor(cursor, str))
        with self._state.lock:
            entries = [e for e in self._state.outbox.values() if (e.tenant, e.kind) == (tenant, kind)]
        ordered = sorted(entries, key=lambda entry: entry.position, reverse=True)
        found = [entry for entry in ordered if before is None or entry.position < before]
        page = found[:limit]
        return page, write_key_cursor(page[-1].position) if len(found) > limit else None

    def change(
        self,
        read: OutboxEntry,
        written: OutboxEntry | None,
        added: Sequence[OutboxEntry] = (),
        fact: Fact | None = None,
        event: Event | None = None,
    ) -> bool:
        with self._state.lock:
            current = self._state.outbox.get((read.tenant, read.id))
            if current is None or current.edition != read.edition:
                return False
            if written is None:
                del self._state.outbox[read.tenant, read.id]
            else:
                self._state.outbox[read.tenant, read.id] = written
            add_entries(self._state, added)
            record = self._state.runs.get(read.record.get("run_id", ""))
            if record is not None and fact is not None:
                add_fact(self._state, record.run, fact)
            if record is not None and event is not None:
                record.append([event])
            return True


def add_entries(state: MemoryState, entries: Iterable[OutboxEntry]) -> None:
    """Add entries. One that exists already is not changed."""
    for entry in entries:
        state.outbox.setdefault((entry.tenant, entry.id), entry)


def delete_expired_entries(state: MemoryState, now: float) -> None:
    """Delete the entries that have expired."""
    expired = [key for key, e in state.outbox.items() if e.expires_at is not None and e.expires_at <= now]
    for key in expired:
        del state.outbox[key]
