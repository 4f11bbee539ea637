"""Rows of gates and slots in a SQL store, and the return of slots at the end of a transaction.

Problem: a transaction that parks or ends visits gives their slots back. It may go on and lock child runs, and
others lock gates after their runs.

Algorithm: runs are locked first, and then gates in the order of their keys, which excludes deadlocks
(Havender 1968). Statements delete slots at once, under the lock of their run, and `give_back_slots` changes
the gates when the transaction ends.

Cost: nothing for a transaction that has deleted no slot. Otherwise two statements for each gate, and two for
each flow in which a deleted slot waited.

Limits: a gate is a row that all its owners change, so they wait for each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple

from noetl.executor.model.flows import Flow, leave_flow
from noetl.executor.model.gates import (
    Gate,
    GateKey,
    LimitKind,
    Slot,
    SlotOwner,
    SlotRequest,
    admit,
    give_back,
    new_gate,
)
from noetl.executor.model.rates import RateLog
from noetl.executor.model.run import Visit
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.rows import Row, decode_json, encode_json


def take_slots(db: Writer, query: str, **values: Any) -> None:
    """Delete slots. The transaction gives their units back when it ends."""
    db.returned_slots.append(db.execute(query, **values))


def give_back_slots(db: Writer) -> None:
    """Give the units of all slots back that the transaction has deleted."""
    if db.returned_slots:
        exchange_slots(db, SlotOwner(""), (), 0.0)


class SlotExchange(NamedTuple):
    """The slots that an owner has got, and the gates at which others wait for what was given back."""

    slots: tuple[Slot, ...]
    freed: tuple[GateKey, ...]


def exchange_slots(db: Writer, owner: SlotOwner, requests: Sequence[SlotRequest], now: float) -> SlotExchange:
    """Give back what `give_back_slots` does, and let an owner take what it requests, without waiting.

    It takes nothing behind the first gate that refuses it, so all gates are locked in one order.
    """
    returned = _read_returned(db)
    wanted = {request.gate: request for request in requests}
    slots, freed, is_refused = list[Slot](), list[GateKey](), False
    for key in sorted({*returned, *wanted}):
        request = None if is_refused else wanted.get(key)
        before = _lock_wanted(db, key, request)
        slot = None
        if before is not None:
            gate = reduce(give_back, returned[key], before)
            if request is not None and gate.rate is None:
                gate, slot = admit(gate, owner, request, now)
            if gate is not before or gate.is_unused:
                write_gate(db, gate)
            _leave_flows(db, key, returned[key])
            freed += [key] if gate.may_grant else []
        if slot is not None:
            db.execute("gates.add_slot", **slot_values(slot))
            slots.append(slot)
        is_refused = is_refused or (request is not None and slot is None)
    return SlotExchange(tuple(slots), tuple(freed))


def _read_returned(db: Writer) -> defaultdict[GateKey, list[Slot]]:
    """Return the slots by gate that the transaction has deleted, and forget them."""
    returned = defaultdict[GateKey, list[Slot]](list)
    for result in db.returned_slots:
        for row in result.fetchall():
            slot = _slot_of(row, "", None)
            returned[slot.gate].append(slot)
    db.returned_slots.clear()
    return returned


def _lock_wanted(db: Writer, key: GateKey, request: SlotRequest | None) -> Gate | None:
    """Lock a gate and return it. Add it if the request is for a step's own limit."""
    if request is None or request.size is None:
        return lock_gate(db, key)
    return add_or_lock_gate(db, new_gate(request))


def _leave_flows(db: Writer, key: GateKey, returned: Iterable[Slot]) -> None:
    """Change the flows of a locked gate in which slots have waited that were returned."""
    counts = Counter(slot.flow for slot in returned if not slot.is_held)
    for name, count in sorted(counts.items()):
        flow = find_flow(db, key, name)
        if flow is not None:
            put_flow(db, leave_flow(flow, count))


def is_queued(db: Writer, visit: Visit) -> bool:
    """Return whether a visit waits for a slot, or for one of its run, and its run goes on."""
    found = db.execute("gates.is_queued", run_id=visit.run_id, visit_id=visit.id)
    return found.fetchone() is not None


def lock_gate(db: Writer, key: GateKey) -> Gate | None:
    """Lock a gate until the end of the transaction and return it, or None if it does not exist."""
    row = db.execute("gates.lock", id=key.id, tenant=key.tenant).fetchone()
    return None if row is None else gate_from_row(row)


def add_or_lock_gate(db: Writer, gate: Gate) -> Gate:
    """Lock a gate and return it. If it does not exist, add it."""
    values = {"name": gate.limit, "value": None if gate.value is None else encode_json(gate.value)}
    row = db.execute("gates.add_or_lock", **values, **_numbers_of(gate)).fetchone()
    return gate_from_row(row)


def write_gate(db: Writer, gate: Gate) -> None:
    """Write a locked gate, or remove it if it is not used any more."""
    if gate.is_unused:
        db.execute("gates.remove", id=gate.key.id, tenant=gate.key.tenant)
    else:
        db.execute("gates.write", **_numbers_of(gate))


def find_flow(db: Writer, key: GateKey, name: str) -> Flow | None:
    """Return a flow of a locked gate, or None if none of its slots waits."""
    row = db.execute("gates.find_flow", id=key.id, tenant=key.tenant, flow=name).fetchone()
    return None if row is None else flow_from_row(row)


def put_flow(db: Writer, flow: Flow) -> None:
    """Write a flow of a locked gate, or remove it if none of its slots waits any more."""
    values: dict[str, Any] = {"id": flow.gate.id, "tenant": flow.gate.tenant, "flow": flow.name}
    if flow.waiting > 0:
        db.execute("gates.put_flow", **values, tag=flow.tag, waiting=flow.waiting)
    else:
        db.execute("gates.remove_flow", **values)


def flow_from_row(row: Row) -> Flow:
    """Return the flow of a row of `flows`."""
    return Flow(GateKey(row["gate_id"], row["gate_tenant"]), row["flow"], row["tag"], row["waiting"])


def gate_from_row(row: Row) -> Gate:
    """Return the gate of a row of `gates`."""
    return Gate(
        GateKey(row["id"], row["tenant"]),
        row["name"],
        row["units"],
        decode_json(row["value"]),
        None if row["kind"] is None else LimitKind(row["kind"]),
        row["held"],
        row["waiting"],
        row["ceiling"],
        row["edition"],
        None if row["rate"] is None else RateLog.from_text(row["rate"]),
        row["clock"],
    )


def slot_from_row(row: Row) -> Slot:
    """Return the slot of a row of `slots` with the name and the value of its gate."""
    return _slot_of(row, row["name"], decode_json(row["value"]))


def slot_values(slot: Slot) -> dict[str, Any]:
    """Return the columns of a slot."""
    return {
        "gate_id": slot.gate.id,
        "gate_tenant": slot.gate.tenant,
        "run_id": slot.owner.run_id,
        "visit_id": slot.owner.visit_id,
        "units": slot.units,
        "flow": slot.flow,
        "rank": slot.rank,
        "queued_at": slot.queued_at,
        "held_at": slot.held_at,
    }


def _slot_of(row: Row, limit: str, value: str | None) -> Slot:
    return Slot(
        GateKey(row["gate_id"], row["gate_tenant"]),
        SlotOwner(row["run_id"], row["visit_id"]),
        limit,
        row["units"],
        row["queued_at"],
        value,
        row["rank"],
        row["held_at"],
        flow=row["flow"],
    )


def _numbers_of(gate: Gate) -> dict[str, Any]:
    return {
        "id": gate.key.id,
        "tenant": gate.key.tenant,
        "kind": gate.kind,
        "units": gate.units,
        "held": gate.held,
        "waiting": gate.waiting,
        "ceiling": gate.ceiling,
        "edition": gate.edition,
        "rate": None if gate.rate is None else gate.rate.to_text(),
        "idle_at": gate.idle_at,
        "clock": gate.clock,
    }
