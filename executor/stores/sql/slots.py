"""Rows of gates and slots in a SQL store, and the return of slots at the end of a transaction.

Problem: a transaction that parks or ends visits gives their slots back. It may go on and lock child runs, and
others lock gates after their runs.

Algorithm: runs are locked first, and then gates in the order of their keys, which excludes deadlocks
(Havender 1968). Statements delete slots at once, under the lock of their run, and `give_back_slots` changes
the gates when the transaction ends.

A commit with one slot before and one after gives the row of the slot another owner (`move_slot`).

Cost: nothing for a transaction that has deleted no slot. Otherwise one or two statements for each gate, and
two for each flow in which a deleted slot waited. A moved slot costs a statement and those of its two gates.

Limits: a gate is a row that all its owners change, so they wait for each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

from noetl.executor.model.claim_requests import ClaimRequests
from noetl.executor.model.flows import Flow, leave_flow
from noetl.executor.model.gates import (
    Gate,
    GateKey,
    LimitKind,
    Slot,
    SlotOwner,
    SlotRequest,
    give_back,
    held_slot,
    is_own_rate,
    is_removable,
    new_gate,
)
from noetl.executor.model.rate_gates import reserve_now
from noetl.executor.model.rates import RateLog
from noetl.executor.model.run import Commit
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.sql.database import Result, Writer
from noetl.executor.stores.sql.rows import Row, decode_json, encode_json_or_null
from noetl.planner.frozen import replace


def take_slots(db: Writer, query: str, **values: Any) -> None:
    """Delete slots. The transaction gives their units back when it ends."""
    db.returned_slots.append(db.execute(query, **values))


def give_back_slots(db: Writer) -> tuple[GateKey, ...]:
    """Give the units of all slots back that the transaction has deleted.

    Return the gates at which others wait for them.
    """
    if not db.returned_slots:
        return ()
    returned = _read_returned(db)
    return tuple(key for key in sorted(returned) if _give_back_at(db, key, returned[key]))


class SlotExchange(NamedTuple):
    """The slots that an owner has got, and the gates at which others wait for what was given back."""

    slots: tuple[Slot, ...] = ()
    freed: tuple[GateKey, ...] = ()


def exchange_slots(db: Writer, owner: SlotOwner, requests: Sequence[SlotRequest], now: float) -> SlotExchange:
    """Give back what `give_back_slots` does, and let an owner take what it requests, without waiting.

    It takes nothing behind the first gate that refuses it, so all gates are locked in one order.
    """
    returned = _read_returned(db)
    wanted = {request.gate: request for request in requests}
    slots, freed, is_refused = list[Slot](), list[GateKey](), False
    for key in sorted({*returned, *wanted}):
        if key in returned and _give_back_at(db, key, returned[key]):
            freed.append(key)
        if key in wanted and not is_refused:
            slot = _hold(db, owner, wanted[key], now)
            is_refused = slot is None
            slots += [] if slot is None else [slot]
    return SlotExchange(tuple(slots), tuple(freed))


def take_with_claim(db: Writer, wanted: ClaimRequests, now: float) -> Sequence[Slot]:
    """Let an owner take what is requested with the claim of a visit, without waiting. Return its slots.

    A run that has slots already takes none. Those are returned that it holds and requests.
    """
    if not wanted.owner.visit_id:
        rows = db.execute("gates.find_owned", **wanted.owner._asdict()).fetchall()
        if rows:
            requested = {request.gate for request in wanted.requests}
            owned = (slot for slot in map(slot_from_row, rows) if slot.gate in requested)
            return tuple(slot for slot in owned if slot.is_held_by(now))
    return exchange_slots(db, wanted.owner, wanted.requests, now).slots


def may_move_slot(commit: Commit) -> bool:
    """Return whether the row of the only slot of a commit may get another owner.

    The commit requests one slot, or it ends a branch and may claim a visit of another one.
    """
    if len(commit.held_slots) != 1 or not commit.gives_back:
        return False
    return len(commit.requests) == 1 or (commit.visit.finished_at is not None and not commit.branches)


def move_slot(
    db: Writer, commit: Commit, owner: SlotOwner, request: SlotRequest, now: float
) -> SlotExchange | None:
    """Return the exchange of a commit with one slot and one request, which changes one row of slots.

    Return None if the visit has no such slot, or if it must be given back first. Nothing is changed then.
    """
    (held,) = commit.held_slots
    slot = held_slot(request, owner, now)
    row = {**slot_values(slot), "visit_id": commit.visit.id, "next_visit_id": owner.visit_id}
    del row["queued_at"]
    if held.gate == request.gate and not request.is_rate:
        passed = db.execute("gates.pass_on", **row, size=request.size).rowcount
        return SlotExchange((slot,)) if passed else None
    before = {"held_id": held.gate.id, "held_tenant": held.gate.tenant, "held_units": held.units}
    if not db.execute("gates.move", **row, **before).rowcount:
        return None
    taken, freed = None, False
    for key in sorted({held.gate, request.gate}):
        if key == held.gate:
            freed = _give_back_at(db, key, [held])
        if key == request.gate:
            taken = _take_units(db, slot, request)
    if taken is None:
        db.execute("gates.take", **slot_key(slot))
    elif taken.units != slot.units:
        db.execute("gates.hold", units=taken.units, held_at=now, **slot_key(slot))
    return SlotExchange(() if taken is None else (taken,), (held.gate,) if freed else ())


def _read_returned(db: Writer) -> Mapping[GateKey, list[Slot]]:
    """Return the slots by gate that the transaction has deleted, and forget them."""
    returned = defaultdict[GateKey, list[Slot]](list)
    for result in db.returned_slots:
        for row in result.fetchall():
            slot = _slot_of(row, "", None)
            returned[slot.gate].append(slot)
    db.returned_slots.clear()
    return returned


def _give_back_at(db: Writer, key: GateKey, slots: Sequence[Slot]) -> bool:
    """Give slots back at their gate. Return whether others wait there for what is free."""
    if all(slot.is_held for slot in slots):
        gate_key = {"id": key.id, "tenant": key.tenant}
        units = sum(slot.units for slot in slots)
        if is_own_rate(key):  # No slot waits there, so no result is needed, which SQLite would store first.
            db.execute("gates.give_units_of_rate", **gate_key, units=units)
            return False
        if is_removable(key) and db.execute("gates.give_last", **gate_key, units=units).rowcount:
            return False
        row = db.execute("gates.give_units", **gate_key, units=units).fetchone()
        if row is not None and row["is_unused"]:
            # Another transaction has given the other units back since the first statement.
            db.execute("gates.remove", **gate_key)
        return row is not None and bool(row["may_grant"])
    before = lock_gate(db, key)
    if before is None:
        return False
    gate = reduce(give_back, slots, before)
    write_gate(db, gate)
    _leave_flows(db, key, slots)
    return gate.may_grant


def _hold(db: Writer, owner: SlotOwner, request: SlotRequest, now: float) -> Slot | None:
    """Let an owner hold units of a gate, and return its slot, or None if it would have to wait."""
    slot = _take_units(db, held_slot(request, owner, now), request)
    if slot is not None:
        db.execute("gates.add_slot", **slot_values(slot))
    return slot


def _take_units(db: Writer, slot: Slot, request: SlotRequest) -> Slot | None:
    """Take the units of a slot at its gate. Return the slot, or None if its owner would have to wait."""
    key = {"id": slot.gate.id, "tenant": slot.gate.tenant}
    if request.is_rate:
        return _reserve_now(db, slot, request)
    if request.size is None:
        row = db.execute("gates.hold_named", **key, units=request.units).fetchone()
        if row is None or row["units"] >= slot.units:
            return None if row is None else slot
        return replace(slot, units=row["units"])
    gate = {"name": request.limit, "value": encode_json_or_null(request.value), "size": request.size}
    held = db.execute("gates.hold_own", **key, **gate, units=slot.units)
    return slot if held.rowcount else None


def _reserve_now(db: Writer, slot: Slot, request: SlotRequest) -> Slot | None:
    """Take the units of a slot at the gate of a rate, or return None if its owner would have to wait."""
    assert slot.held_at is not None
    if request.size is None:
        row = db.execute("gates.lock_shown", id=slot.gate.id, tenant=slot.gate.tenant).fetchone()
    else:
        # Most gates exist, and an insertion that finds its gate costs more than a read.
        row = send_lock(db, slot.gate).fetchone() or send_add_or_lock(db, new_gate(request)).fetchone()
    reserved = None if row is None else reserve_now(gate_from_row(row), slot.owner, request, slot.held_at)
    if reserved is None:
        return None
    gate, slot = reserved
    write_gate(db, gate)
    return slot


def _leave_flows(db: Writer, key: GateKey, returned: Iterable[Slot]) -> None:
    """Change the flows of a locked gate in which slots have waited that were returned."""
    counts = Counter(slot.flow for slot in returned if not slot.is_held)
    for name, count in sorted(counts.items()):
        flow = find_flow(db, key, name)
        if flow is not None:
            put_flow(db, leave_flow(flow, count))


def is_queued(db: Writer, commit: Commit) -> bool:
    """Return whether a visit waits for a slot, or for one of its run, and its run goes on.

    The finally step waits for its own slots only, also if its run stops.
    """
    visit, is_finally = commit.visit, commit.is_finally
    owners = {"visit_id": visit.id, "run_owner": visit.id if is_finally else ""}
    found = db.execute("gates.is_queued", run_id=visit.run_id, is_finally=is_finally, **owners)
    return found.fetchone() is not None


def lock_gate(db: Writer, key: GateKey) -> Gate | None:
    """Lock a gate until the end of the transaction and return it, or None if it does not exist."""
    row = send_lock(db, key).fetchone()
    return None if row is None else gate_from_row(row)


def send_lock(db: Writer, key: GateKey) -> Result:
    """Lock a gate until the end of the transaction, and return the result, which has its row."""
    return db.execute("gates.lock", id=key.id, tenant=key.tenant)


def add_or_lock_gate(db: Writer, gate: Gate) -> Gate:
    """Lock a gate and return it. If it does not exist, add it."""
    return gate_from_row(send_add_or_lock(db, gate).fetchone())


def send_add_or_lock(db: Writer, gate: Gate) -> Result:
    """Lock a gate, or add it if it does not exist, and return the result, which has its row."""
    values = {"name": gate.limit, "value": None if gate.value is None else encode_json(gate.value)}
    return db.execute("gates.add_or_lock", **values, **_numbers_of(gate))


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


def slot_key(slot: Slot) -> dict[str, Any]:
    """Return the key of the row of a slot."""
    return {
        "gate_id": slot.gate.id,
        "gate_tenant": slot.gate.tenant,
        "run_id": slot.owner.run_id,
        "visit_id": slot.owner.visit_id,
    }


def slot_values(slot: Slot) -> dict[str, Any]:
    """Return the columns of a slot."""
    return {
        **slot_key(slot),
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
