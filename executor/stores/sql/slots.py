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

from collections import Counter
from itertools import groupby
from typing import Any

from noetl.executor.model.flows import Flow, leave_flow
from noetl.executor.model.gates import Gate, GateKey, LimitKind, Slot, SlotOwner, give_back
from noetl.executor.model.rates import RateLog
from noetl.executor.model.run import Visit
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.rows import Row, decode_json, encode_json


def take_slots(db: Writer, query: str, **values: Any) -> None:
    """Delete slots. The transaction gives their units back when it ends."""
    db.returned_slots.append(db.execute(query, **values))


def give_back_slots(db: Writer) -> None:
    """Give the units of all slots back that the transaction has deleted."""
    rows = [row for result in db.returned_slots for row in result.fetchall()]
    db.returned_slots.clear()
    slots = sorted((_slot_of(row, "", None) for row in rows), key=_gate_of)
    for key, returned in groupby(slots, _gate_of):
        gate = lock_gate(db, key)
        if gate is not None:
            counts = Counter[str]()
            for slot in returned:
                gate = give_back(gate, slot)
                counts[slot.flow] += not slot.is_held
            write_gate(db, gate)
            for name, count in sorted(counts.items()):
                flow = find_flow(db, key, name) if count else None
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


def _gate_of(slot: Slot) -> GateKey:
    return slot.gate


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
