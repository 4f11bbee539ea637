"""Lists of gates, of their flows, and of the slots at a gate.

Cost: a page of gates is a query. A page of slots is a query of the index `due` for those that are held, and a
query of the queue. The items that both name are read, too. The flows of a gate are one query for each
megabyte, about 5,000 flows. The places of several slots take one query for each flow in which they wait.

Limits: slots that are held are listed a moment after they were granted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Any

from noetl.executor.model.flows import Flow, count_before
from noetl.executor.model.gates import NAMED_PREFIX, OWN_PREFIX, Gate, GateKey, Slot, SlotOwner
from noetl.executor.stores.cursors import (
    SlotPlace,
    place_of_slot,
    read_key_cursor,
    read_slot_cursor,
    write_key_cursor,
    write_slot_cursor,
)
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import decode_item, encode_item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.gate_items import (
    decode_flow,
    decode_gate,
    decode_slot,
    queue_place,
    ticket_key,
)
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.planner.frozen import replace

MAX_AHEAD = 10_000
"""The greatest number of slots of a flow before another that is counted."""

_LAST_PLACE = keys.END_OF_TEXTS


def list_gates(
    table: DynamoTable, tenant: str, *, named: bool, limit: int, cursor: str | None
) -> tuple[list[Gate], str | None]:
    """Return a page of the gates of a tenant, and the cursor of the next page."""
    after = None if cursor is None else str(read_key_cursor(cursor, str))
    prefix = NAMED_PREFIX if named else OWN_PREFIX
    pk = keys.gate(GateKey("", tenant)).pk
    found: list[Gate] = []
    now = table.clock()
    first = prefix if after is None else max(f"{after}\x00", prefix)
    while len(found) <= limit and first < f"{prefix}{_LAST_PLACE}":
        bounds = (first, f"{prefix}{_LAST_PLACE}")
        items, is_complete = table.query_range(pk, bounds, limit=limit + 1)
        gates = map(decode_gate, items)
        found += [gate for gate in gates if not gate.is_unused and not gate.is_idle(now)]
        if is_complete:
            break
        first = f"{items[-1]['sk']}\x00"
    page = found[:limit]
    return page, write_key_cursor(page[-1].key.id) if len(found) > limit else None


def list_slots(
    table: DynamoTable, key: GateKey, *, limit: int, cursor: str | None
) -> tuple[list[Slot], str | None]:
    """Return a page of the slots at a gate, and the cursor of the next page."""
    after = None if cursor is None else read_slot_cursor(cursor)
    found: list[Slot] = []
    if after is None or not after.waits:
        found = _list_held(table, key, limit + 1, after)
    if len(found) <= limit:
        in_queue = after if after is not None and after.waits else None
        found += _list_queue(table, key, limit + 1 - len(found), in_queue)
    page = found[:limit]
    return page, write_slot_cursor(place_of_slot(page[-1])) if len(found) > limit else None


def list_flows(table: DynamoTable, key: GateKey) -> list[Flow]:
    """Return the flows of a gate in which slots wait."""
    return [decode_flow(item, key) for item in table.query(keys.queue(key), "F#")]


def count_ahead(table: DynamoTable, slot: Slot, flows: Collection[Flow] | None = None) -> Slot:
    """Return a slot that waits with the number of slots before it. Others are not changed.

    `flows` are those of its gate, if they were read.
    """
    if slot.is_held:
        return slot
    flows = list_flows(table, slot.gate) if flows is None else flows
    tickets = _list_tickets(table, slot, flows)
    return _with_place(slot, flows, tickets)


def count_all_ahead(context: DynamoContext, slots: Sequence[Slot]) -> list[Slot]:
    """Return slots as `count_ahead` does. The flows of a gate and the tickets of a flow are read once."""
    table = context.table
    waiting = sorted((slot for slot in slots if not slot.is_held), key=ticket_key)
    gates = sorted({slot.gate for slot in waiting})
    flows_of = dict(zip(gates, context.in_parallel(lambda gate: list_flows(table, gate), gates), strict=True))
    last_of = {(slot.gate, slot.flow): slot for slot in waiting}
    read = context.in_parallel(
        lambda slot: _list_tickets(table, slot, flows_of[slot.gate]), list(last_of.values())
    )
    tickets_of = dict(zip(last_of, read, strict=True))
    return [
        slot if slot.is_held else _with_place(slot, flows_of[slot.gate], tickets_of[slot.gate, slot.flow])
        for slot in slots
    ]


def _list_tickets(table: DynamoTable, slot: Slot, flows: Collection[Flow]) -> list[str]:
    """Return the sort keys of the tickets of a flow up to that of a slot, at most MAX_AHEAD, in order."""
    waiting = next((flow.waiting for flow in flows if flow.name == slot.flow), 0)
    if waiting <= 1:
        return []
    pk, place = ticket_key(slot)
    bounds = (keys.ticket(slot.gate, slot.flow, "").sk, place)
    tickets, _ = table.query_range(pk, bounds, limit=MAX_AHEAD, attributes=("sk",))
    return [ticket["sk"] for ticket in tickets]


def _with_place(slot: Slot, flows: Collection[Flow], tickets: Sequence[str]) -> Slot:
    """Return a slot with the number of slots before it, from the sort keys of the tickets of its flow."""
    before = bisect_left(tickets, ticket_key(slot).sk)
    return replace(slot, queued_before=count_before(flows, slot.flow, before))


def _list_queue(table: DynamoTable, key: GateKey, count: int, after: SlotPlace | None) -> list[Slot]:
    pk, first = keys.queue(key), "T#"
    if after is not None:
        place = queue_place(after.rank, after.since, SlotOwner(after.run_id, after.visit_id))
        first = f"{keys.ticket(key, after.flow, place).sk}\x00"
    slots: list[Slot] = []
    while len(slots) < count:
        tickets, is_complete = table.query_range(pk, (first, _LAST_PLACE), limit=count)
        owners = [SlotOwner(ticket["run"], ticket["visit"]) for ticket in tickets]
        items = table.get_many([keys.slot(key, owner) for owner in owners])
        read = [items.get(keys.slot(key, owner)) for owner in owners]
        slots += [
            decode_slot(item, owner.run_id)
            for item, owner in zip(read, owners, strict=True)
            if item is not None and "held" not in item
        ]
        if is_complete:
            break
        first = f"{tickets[-1]['sk']}\x00"
    return slots[:count]


def _list_held(table: DynamoTable, key: GateKey, count: int, after: SlotPlace | None) -> list[Slot]:
    """Return slots that are held after a place. Those that are held since its time are read, and compared."""
    since = 0.0 if after is None else after.since
    request: dict[str, Any] = {
        "KeyConditionExpression": "wakes = :gate AND due >= :since",
        "ExpressionAttributeValues": encode_item({":gate": keys.held_slots(key), ":since": since}),
        "Limit": count + 1,
    }
    slots: list[Slot] = []
    while True:
        page = table.query_index("due", **request)
        places = [keys.ItemKey(place["pk"], place["sk"]) for place in map(decode_item, page["Items"])]
        items = table.get_many(places)
        read = [decode_slot(items[place], place.pk[2:]) for place in places if "held" in items.get(place, {})]
        slots += [slot for slot in read if after is None or place_of_slot(slot) > after]
        is_complete = len(slots) > count and slots[count].held_at != slots[count - 1].held_at
        if "LastEvaluatedKey" not in page or is_complete:
            return sorted(slots, key=place_of_slot)[:count]
        request["ExclusiveStartKey"] = page["LastEvaluatedKey"]
