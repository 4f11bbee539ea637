"""The outbox of a SQL store: what is done after runs have ended, or if they are late, and backfills.

Problem: several processes read the same due entries. An entry must be performed although the process that has
ended a run dies at once.

Algorithm: the transaction that ends or starts a run also inserts its entries. A write names the edition that
was read, and changes nothing if the row has another (optimistic concurrency).

Cost: one row for each entry. A partial index of each kind has the entries that are due some time. A search
for notifications sorts the keys of those that are due longest, and also reads the keys that it leaves out.
The subscribers of an end are one statement, which two indexes answer.

Limits: the entries that are due first are read by every process, and one of them changes each entry. Entries
of a deleted run stay until they are performed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from noetl.executor.model.events import Event
from noetl.executor.model.metrics import Fact
from noetl.executor.model.outbox import NotificationSearch, OutboxEntry, OutboxKind, Subscribers
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.facts import add_fact
from noetl.executor.stores.sql.history import append_to_history

MAX_DELETED_ENTRIES = 500
"""Number of expired entries that one transaction deletes at most."""


class SqlOutbox:
    """The outbox of a SQL store."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context

    def add(self, entry: OutboxEntry) -> bool:
        with self._context.database.transaction() as db:
            return db.execute("outbox.add", **_new_values(entry)).rowcount == 1

    def subscribers(self, tenant: str, playbook: str) -> Subscribers:
        rows = self._context.database.fetch_all("outbox.find_subscribers", tenant=tenant, playbook=playbook)
        events = {row["name"]: tuple(json.loads(row["events"])) for row in rows if row["name"] is not None}
        return Subscribers(has_triggers=len(events) < len(rows), channels=events)

    def due(
        self, kinds: Collection[OutboxKind], now: float, limit: int, passed_over: Collection[str] = ()
    ) -> list[OutboxEntry]:
        database = self._context.database
        passed = {"ids": database.encode_list(sorted(passed_over))} if passed_over else {}
        entries = [
            _decode_entry(row)
            for kind in kinds
            for row in database.fetch_all("outbox.find_due", kind=kind, now=now, limit=limit, **passed)
        ]
        return sorted(entries, key=lambda entry: entry.due_at or now)[:limit]

    def due_notifications(self, search: NotificationSearch) -> list[OutboxEntry]:
        database, left_out = self._context.database, dict[str, Any]()
        if search.tenants:
            left_out["ids"] = database.encode_list(sorted(search.tenants))
        if search.lanes:
            left_out["lanes"] = database.encode_list(sorted(lane + tenant for tenant, lane in search.lanes))
        rows = database.fetch_all(
            "outbox.find_due_notifications",
            kind=OutboxKind.NOTIFICATION,
            now=search.now,
            limit=search.limit,
            of_channel=search.of_channel,
            oldest=search.oldest,
            **left_out,
        )
        return [_decode_entry(row) for row in rows]

    def get(self, tenant: str, id: str) -> OutboxEntry | None:
        rows = self._context.database.fetch_all("outbox.get", tenant=tenant, id=id)
        return _decode_entry(rows[0]) if rows else None

    def find(
        self, tenant: str, kind: OutboxKind, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[OutboxEntry], str | None]:
        before = {} if cursor is None else {"before": read_key_cursor(cursor, str)}
        rows = self._context.database.fetch_all(
            "outbox.find", tenant=tenant, kind=kind, limit=limit + 1, **before
        )
        page = [_decode_entry(row) for row in rows[:limit]]
        return page, write_key_cursor(page[-1].position) if len(rows) > limit else None

    def change(
        self,
        read: OutboxEntry,
        written: OutboxEntry | None,
        added: Sequence[OutboxEntry] = (),
        fact: Fact | None = None,
        event: Event | None = None,
    ) -> bool:
        key = {"tenant": read.tenant, "id": read.id, "edition_before": read.edition}
        with self._context.database.transaction() as db:
            if written is None:
                changed = db.execute("outbox.remove", **key)
            else:
                changed = db.execute("outbox.change", **key, **_changed_values(written))
            if changed.rowcount == 0:
                return False
            add_entries(db, added)
            if fact is not None:
                add_fact(db, read.record["run_id"], fact)
            if event is not None:
                append_to_history(db, read.record["run_id"], event)
        return True


def add_entries(db: Writer, entries: Iterable[OutboxEntry]) -> None:
    """Add entries. One that exists already is not changed."""
    # Two transactions that add the same entries lock them in one order.
    rows = [_new_values(entry) for entry in sorted(entries, key=lambda entry: entry.id)]
    db.executemany("outbox.add", rows)


def delete_expired_entries(context: SqlContext, now: float) -> None:
    """Delete some entries that have expired."""
    if context.database.fetch_all("outbox.find_expired", now=now):
        with context.database.transaction() as db:
            db.execute("outbox.delete_expired", now=now, limit=MAX_DELETED_ENTRIES)


def _new_values(entry: OutboxEntry) -> dict[str, Any]:
    """Return the values of the columns of a new row."""
    return {
        "tenant": entry.tenant,
        "id": entry.id,
        "kind": entry.kind,
        "position": entry.position,
        **_changed_values(entry),
    }


def _changed_values(entry: OutboxEntry) -> dict[str, Any]:
    """Return the values of the columns that a change writes."""
    return {
        "due_at": entry.due_at,
        "expires_at": entry.expires_at,
        "edition": entry.edition,
        "record": encode_json(entry.to_json()),
    }


def _decode_entry(row: Any) -> OutboxEntry:
    return OutboxEntry.from_json(json.loads(row["record"]))
