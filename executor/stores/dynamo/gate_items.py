"""Gates and slots as items.

A gate is an item in the partition of its tenant. A slot is an item in the first partition of its run, so one
query finds all slots of a run. A slot that waits has a ticket in the partition of the queue of its gate. The
sort key of the ticket is its flow and its place. This partition also has an item for each flow. All are
written and removed in one transaction with the gate. A flow in which no slot waits any more has no item.

A gate with a queue is in the index `due`, since `due` if units are free, else at NEVER. A slot that is held
is there, too, in a partition of its gate, since it was held. That is for lists only.

The gate of a playbook's or a step's own rate expires `KEPT_SECONDS` after its units have left the window.

Attributes of a gate, a flow and a slot are named as in `Gate`, `Flow` and `Slot`. `at` are the id and the
tenant of the gate of a slot. `since` is its `queued_at`, and `held` its `held_at`. `only` is set if it was
the only slot at its gate. `sleepers` counts the visits that were suspended until the slot of their run is
held. `rate` of a gate is JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from noetl.executor.model.flows import Flow
from noetl.executor.model.gates import Gate, GateKey, LimitKind, Slot, SlotOwner
from noetl.executor.model.rates import RateLog
from noetl.executor.model.run import NEVER
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.expressions import PRESENT, Condition, Delete, Put, Update, Write
from noetl.executor.stores.retention import DAY_SECONDS

KEPT_SECONDS = 31 * DAY_SECONDS
"""How long the gate of an own rate is kept when it is idle. A run that holds a slot may take that long."""

IS_WAITING: tuple[Condition, ...] = (PRESENT, ("held", "absent", None))
"""The condition that a slot still waits."""


def decode_gate(item: Item) -> Gate:
    """Return the gate of an item."""
    kind = item.get("kind")
    return Gate(
        GateKey(item["sk"], item["pk"][2:]),
        item["limit"],
        item["units"],
        item.get("value"),
        None if kind is None else LimitKind(kind),
        item["held"],
        item["waiting"],
        max(item["units"], item["held"]),
        item["edition"],
        RateLog.from_text(item["rate"]) if "rate" in item else None,
        item.get("clock", 0),
    )


def gate_write(read: Gate | None, written: Gate, now: float) -> Write:
    """Return the write of a gate that was read as `read`, or did not exist."""
    state: Item = {
        "limit": written.limit,
        "value": written.value,
        "kind": None if written.kind is None else written.kind.value,
        "units": written.units,
        "held": written.held,
        "waiting": written.waiting,
        "edition": written.edition,
        "rate": None if written.rate is None else written.rate.to_text(),
        "expires": None if written.idle_at is None else int(written.idle_at + KEPT_SECONDS),
        "clock": written.clock or None,
        **_index_place(written, now),
    }
    key = keys.gate(written.key)
    return Put(key, state) if read is None else Update(key, state, when=is_same_gate(read))


def blocked_gate(gate: Gate) -> Update:
    """Return the write by which `stalled` leaves out a gate, until it changes."""
    place: Item = {"due": NEVER} if gate.waiting > 0 else {"wakes": None, "due": None}
    return Update(keys.gate(gate.key), place, when=is_same_gate(gate))


def is_same_gate(gate: Gate) -> tuple[Condition, ...]:
    """Return the condition that a gate is as it was read. One made again may have the same edition."""
    names = ("edition", "units", "held", "waiting")
    return tuple((name, "=", getattr(gate, name)) for name in names)


def decode_flow(item: Item, gate: GateKey) -> Flow:
    """Return the flow of an item of a gate."""
    return Flow(gate, item["sk"][2:], item["tag"], item["waiting"])


def flow_write(read: Flow | None, written: Flow) -> Write:
    """Return the write of a flow that was read as `read`, or did not exist.

    The gate changes in the same transaction, which requires that it is as it was read.
    """
    key = keys.flow(written.gate, written.name)
    state: Item = {"tag": written.tag, "waiting": written.waiting}
    if read is None:
        return Put(key, state)
    unchanged: tuple[Condition, ...] = (("tag", "=", read.tag), ("waiting", "=", read.waiting))
    return Update(key, state, when=unchanged) if written.waiting > 0 else Delete(key, when=unchanged)


def leaving_write(flow: Flow, count: int) -> Write:
    """Return the write of a flow in which fewer slots wait, whatever the state of its gate is."""
    key = keys.flow(flow.gate, flow.name)
    if flow.waiting <= count:
        return Delete(key, when=(("waiting", "=", flow.waiting),))
    return Update(key, add={"waiting": -count}, when=(("waiting", ">", count),))


def _index_place(gate: Gate, now: float) -> Item:
    """Return the attributes by which `stalled` finds a gate that has a queue."""
    if gate.waiting <= 0:
        return {"wakes": None, "due": None}
    return {"wakes": keys.gate_shard(gate.key), "due": now if gate.may_grant else NEVER}


def decode_slot(item: Item, run_id: str) -> Slot:
    """Return the slot of an item."""
    _, visit_id, _ = item["sk"].split("#", 2)
    held_at = item.get("held")
    return Slot(
        GateKey(*item["at"]),
        SlotOwner(run_id, visit_id),
        item["limit"],
        item["units"],
        float(item["since"]),
        item.get("value"),
        float(item.get("rank", 0.0)),
        None if held_at is None else float(held_at),
        flow=item.get("flow", ""),
    )


def slot_writes(slot: Slot, gate: Gate) -> list[Write]:
    """Return the writes of a new slot; `gate` is the gate after it."""
    item: Item = {
        "at": list(slot.gate),
        "limit": slot.limit,
        "units": slot.units,
        "since": slot.queued_at,
        "rank": slot.rank or None,
        "flow": slot.flow or None,
        "value": slot.value,
        **_held_attributes(slot, gate),
    }
    put = Put(keys.slot(slot.gate, slot.owner), item)
    if slot.is_held:
        return [put]
    run_id, visit_id = slot.owner
    return [put, Put(ticket_key(slot), {"run": run_id, "visit": visit_id})]


def granting_writes(slot: Slot, gate: Gate, sleepers: int | None) -> list[Write]:
    """Return the writes by which a slot that waited is held, and leaves the queue.

    `gate` is the gate after it. `sleepers` is their number as it was read.
    """
    sets: Item = {"units": slot.units, "sleepers": None, **_held_attributes(slot, gate)}
    update = Update(keys.slot(slot.gate, slot.owner), sets, when=_waits_with(sleepers))
    return [update, Delete(ticket_key(slot))]


def revoking_writes(slot: Slot, sleepers: int | None) -> list[Write]:
    """Return the writes by which a slot that waited is removed by a grant, without its gate.

    `sleepers` is their number as it was read.
    """
    return [Delete(keys.slot(slot.gate, slot.owner), when=_waits_with(sleepers)), Delete(ticket_key(slot))]


def _waits_with(sleepers: int | None) -> tuple[Condition, ...]:
    """Return the conditions of a slot that waits, for which as many visits are suspended as were read."""
    unchanged: Condition = ("sleepers", "absent", None) if sleepers is None else ("sleepers", "=", sleepers)
    return (*IS_WAITING, unchanged)


def _held_attributes(slot: Slot, gate: Gate) -> Item:
    """Return the attributes of a slot that is held; `gate` is the gate after it."""
    if slot.held_at is None:
        return {}
    is_only = gate.kind is None and gate.waiting == 0 and gate.held == slot.units and gate.rate is None
    place = {"held": slot.held_at, "wakes": keys.held_slots(slot.gate), "due": slot.held_at}
    return place | ({"only": True} if is_only else {})


def removing_writes(slot: Slot) -> list[Write]:
    """Return the writes that remove a slot, unless it was granted since it was read, without its gate."""
    key = keys.slot(slot.gate, slot.owner)
    if slot.is_held:
        return [Delete(key, when=(("held", "=", slot.held_at),))]
    return [Delete(key, when=IS_WAITING), Delete(ticket_key(slot))]


def returning_update(key: GateKey, slots: Sequence[Slot], now: float) -> Update:
    """Return the write of a gate to which slots are given back, whatever its state is."""
    held = sum(slot.units for slot in slots if slot.is_held)
    waiting = sum(not slot.is_held for slot in slots)
    changes = {"held": -held, "waiting": -waiting}
    added: dict[str, Any] = {name: change for name, change in changes.items() if change}
    return Update(keys.gate(key), {"due": now}, {**added, "edition": 1}, when=(PRESENT,))


def removing_gate(slot: Slot) -> Delete:
    """Return the write that removes the gate of a slot, if it is the only one there."""
    when: tuple[Condition, ...] = (("held", "=", slot.units), ("waiting", "=", 0), ("kind", "absent", None))
    return Delete(keys.gate(slot.gate), when=when)


def ticket_key(slot: Slot) -> keys.ItemKey:
    """Return the key of the place of a slot in its flow."""
    return keys.ticket(slot.gate, slot.flow, queue_place(slot.rank, slot.queued_at, slot.owner))


def queue_place(rank: float, queued_at: float, owner: SlotOwner) -> str:
    """Return a place in a flow as text that sorts by rank, time, run and visit.

    >>> places = [queue_place(rank, 5.0, SlotOwner("r")) for rank in (-20.0, -3.5, 0.0, 4.0, 1e9)]
    >>> places == sorted(places)
    True
    """
    return f"{_sortable(rank)}{_sortable(queued_at)}#{owner.run_id}#{owner.visit_id}"


def _sortable(number: float) -> str:
    """Return a number as sixteen hexadecimal digits, in the order of the numbers."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))
    return f"{bits ^ (0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 1 << 63):016x}"
