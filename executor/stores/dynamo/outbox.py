"""The outbox of a DynamoDB store: what is done after runs have ended, or if they are late, and backfills.

Problem: several processes read the same due entries. An entry must be performed although the process that has
ended a run dies at once.

Algorithm: an item for each entry, which the transaction that ends or starts the run also writes. A change
requires the edition that was read (optimistic concurrency). An entry that is due some time has a place in the
index `due`, in a partition of its kind. Its place in the index `runs` is for lists.

Cost: an entry adds one item to a transaction, and each index writes it once. It is deleted after it was
performed, which is one write in each. A search for notifications reads the keys of all that are due, up to
its bound, and the items of those that it returns. The subscribers of an end are one read (`subscribers.py`).

Limits: a partition of the index `due` accepts 1,000 writes in a second, so 500 entries of a kind in a second.
A list is behind its changes for a moment. An entry that has expired is deleted within two days. Entries of a
deleted run stay until they are performed.

The item of an entry has `edition` and `record`, its JSON.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.events import Event
from noetl.executor.model.metrics import Fact
from noetl.executor.model.outbox import NotificationSearch, OutboxEntry, OutboxKind, Subscribers
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.due_items import find_due_items, find_due_places, read_due_items
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, Delete, Put, Write
from noetl.executor.stores.dynamo.run_items import appending_update
from noetl.executor.stores.dynamo.subscribers import read_subscribers
from noetl.executor.stores.dynamo.table import DynamoTable


class DynamoOutbox:
    """The outbox of a DynamoDB store."""

    def __init__(self, table: DynamoTable) -> None:
        self._table = table

    def add(self, entry: OutboxEntry) -> bool:
        put = _put(entry, ABSENT)
        try:
            self._table.write([put])
        except ConditionFailed as refusal:
            # The response to the own write may have been lost.
            current = refusal.items[0]
            is_same = current is not None and current["record"] == put.item["record"]
            return is_same and refusal.may_have_been_applied
        return True

    def subscribers(self, tenant: str, playbook: str) -> Subscribers:
        return read_subscribers(self._table, tenant, playbook)

    def due(
        self, kinds: Collection[OutboxKind], now: float, limit: int, passed_over: Collection[str] = ()
    ) -> list[OutboxEntry]:
        due = [
            (item["due"], _decode_entry(item))
            for kind in kinds
            for item in find_due_items(
                self._table, keys.outbox_kind(kind), now, limit, lambda place: place.sk in passed_over
            )
        ]
        return [entry for _, entry in sorted(due, key=lambda pair: float(pair[0]))[:limit]]

    def due_notifications(self, search: NotificationSearch) -> list[OutboxEntry]:
        def is_passed(place: keys.ItemKey) -> bool:
            return search.leaves_out(*_tenant_and_id(place))

        partition = keys.outbox_kind(OutboxKind.NOTIFICATION)
        places = find_due_places(self._table, partition, search.now, search.oldest, is_passed)
        found = [keys.outbox_entry(*pair) for pair in search.select(map(_tenant_and_id, places))]
        return [_decode_entry(item) for item in read_due_items(self._table, partition, search.now, found)]

    def get(self, tenant: str, id: str) -> OutboxEntry | None:
        item = self._table.get(keys.outbox_entry(tenant, id))
        return None if item is None else _decode_entry(item)

    def find(
        self, tenant: str, kind: OutboxKind, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[OutboxEntry], str | None]:
        before = keys.END_OF_TEXTS if cursor is None else str(read_key_cursor(cursor, str))
        request: dict[str, Any] = {
            "KeyConditionExpression": "tenant = :list AND created < :before",
            "ExpressionAttributeValues": encode_item(
                {":list": keys.outbox_list(tenant, kind), ":before": before}
            ),
            "ScanIndexForward": False,
            "Limit": limit + 1,
        }
        entries: list[OutboxEntry] = []
        while before and len(entries) <= limit:
            page = self._table.query_index("runs", **request)
            places = [keys.ItemKey(place["pk"], place["sk"]) for place in map(decode_item, page["Items"])]
            items = self._table.get_many(places)
            entries += [_decode_entry(items[place]) for place in places if place in items]
            if "LastEvaluatedKey" not in page:
                break
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]
        next_cursor = write_key_cursor(entries[limit - 1].position) if len(entries) > limit else None
        return entries[:limit], next_cursor

    def change(
        self,
        read: OutboxEntry,
        written: OutboxEntry | None,
        added: Sequence[OutboxEntry] = (),
        fact: Fact | None = None,
        event: Event | None = None,
    ) -> bool:
        key = keys.outbox_entry(read.tenant, read.id)
        unchanged: Condition = ("edition", "=", read.edition)
        change: Write = Delete(key, (unchanged,)) if written is None else _put(written, unchanged)
        writes = [change] if event is None else [change, appending_update(read.record["run_id"], event)]
        try:
            write_with_entries(self._table, writes, added)
        except ConditionFailed as refusal:
            if event is not None and not refusal.failed[0]:
                return self.change(read, written, added)  # The run was deleted.
            # A lost response to a deletion leaves no token behind.
            return written is None and refusal.items[0] is None and refusal.may_have_been_applied
        return True


def write_with_entries(table: DynamoTable, writes: Sequence[Write], entries: Iterable[OutboxEntry]) -> None:
    """Apply writes, and add entries in the same transaction. One that exists already is not changed.

    Raises:
        ConditionFailed: a condition of the writes did not hold.
    """
    added = [_put(entry, ABSENT) for entry in {entry.id: entry for entry in entries}.values()]
    while True:
        try:
            table.write([*writes, *added])
        except ConditionFailed as refusal:
            if any(refusal.failed[: len(writes)]):
                raise
            refused = refusal.failed[len(writes) :]
            added = [put for put, is_refused in zip(added, refused, strict=True) if not is_refused]
        else:
            return


def entry_writes(entries: Iterable[OutboxEntry]) -> list[Write]:
    """Return the writes of entries, in a transaction that creates their run."""
    return [_put(entry) for entry in entries]


def _put(entry: OutboxEntry, *when: Condition) -> Put:
    item: Item = {
        "edition": entry.edition,
        "record": encode_json(entry.to_json()),
        "tenant": keys.outbox_list(entry.tenant, entry.kind),
        "created": entry.position,
    }
    if entry.due_at is not None:
        item |= {"wakes": keys.outbox_kind(entry.kind), "due": entry.due_at}
    if entry.expires_at is not None:
        item["expires"] = int(entry.expires_at)
    return Put(keys.outbox_entry(entry.tenant, entry.id), item, when)


def _tenant_and_id(place: keys.ItemKey) -> tuple[str, str]:
    """Return the tenant and the id of the entry with this key."""
    return place.sk, place.pk.removeprefix(keys.OUTBOX_PREFIX)


def _decode_entry(item: Item) -> OutboxEntry:
    return OutboxEntry.from_json(json.loads(item["record"]))
