"""Gates and slots in a SQL store: owners get units, wait in queues, and give units back.

Problem: many workers ask for units of one limit, give them back, and grant them to the next in the queue. No
more may be held than the limit has.

Algorithm: two-phase locking (Eswaran et al. 1976). Each transaction locks the run of an owner first, and then
gates in the order of their keys. Slots of a run are written under the lock of the run, and the numbers of a
gate under that of the gate. `grant` reads the first slot of a queue without a lock, locks its run and the
gate, and reads the slot again. Flows of a gate change under its lock, too.

Cost: one transaction for all requests of an owner, and one for each slot that is granted. The first flow and
its first slot are read from indexes. The slots of a page of runs are two statements. Each counts a part of a
queue once, however many of the runs wait there.

Limits: transactions of one gate wait for each other. `queued_before` reads all flows of the gate, and counts
the slots before another in an index.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any

from noetl.executor.model.flows import Flow, count_before, join_flow, serve_flow
from noetl.executor.model.gates import (
    NAMED_PREFIX,
    OWN_PREFIX,
    SHARED_TENANT,
    Gate,
    GateKey,
    LimitKind,
    Slot,
    SlotOwner,
    SlotRequest,
    admit,
    change_limit,
    check_removable,
    check_request,
    named_gate,
    new_gate,
)
from noetl.executor.model.rate_gates import reserve
from noetl.executor.model.run import Claim
from noetl.executor.model.visit_states import may_hold
from noetl.executor.model.visit_transition import claim_lost
from noetl.executor.stores.cursors import (
    SlotPlace,
    place_of_slot,
    read_key_cursor,
    read_slot_cursor,
    write_key_cursor,
    write_slot_cursor,
)
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Result, Writer
from noetl.executor.stores.sql.rows import Row, visit_from_row
from noetl.executor.stores.sql.slots import (
    add_or_lock_gate,
    find_flow,
    flow_from_row,
    gate_from_row,
    lock_gate,
    put_flow,
    send_add_or_lock,
    send_lock,
    slot_from_row,
    slot_key,
    slot_values,
    take_slots,
    write_gate,
)
from noetl.planner.frozen import replace


class _GrantResult(Enum):
    """The result of a try to grant units to the first slot of a queue."""

    GRANTED = auto()
    PASSED = auto()
    """It was removed, or another slot is the first now."""

    FULL = auto()


class SqlGates:
    """The gates of a SQL store."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context

    def acquire(
        self, claim: Claim, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
    ) -> list[Slot]:
        slots: list[Slot] = []
        visit = claim.visit
        limits = [request for request in requests if not request.is_rate]
        rates = [request for request in requests if request.is_rate]
        with self._context.database.transaction() as db:
            db.lock_run(visit.run_id)
            held = db.execute("gates.is_held", run_id=visit.run_id, visit_id=visit.id, fence=visit.fence)
            found = db.execute("gates.find_owned", run_id=owner.run_id, visit_id=owner.visit_id)
            # At a first claim, an owner rarely has slots. So rates are locked before a result is read.
            locks_early = visit.fence == 1 and not limits
            sent_locks = [_send_lock(db, request) for request in rates] if locks_early else []
            is_lost = held.fetchone() is None
            earlier = {slot.gate: slot for slot in map(slot_from_row, found.fetchall())}
            locked = [sent.fetchone() for sent in sent_locks]
            if is_lost:
                raise claim_lost(visit)
            new_rates = [request for request in rates if request.gate not in earlier]
            if limits and new_rates:
                # Rates are asked last, but gates are always locked in the order of their keys.
                for request in requests:
                    lock_gate(db, request.gate)
            for request in limits:
                slot = earlier.get(request.gate) or _ask(db, owner, request, now)
                if slot is not None:
                    slots.append(_with_place(slot, partial(_fetch_all, db)))
                if slot is None or not slot.is_held:
                    return slots
            slots += [earlier[request.gate] for request in rates if request.gate in earlier]
            if len(locked) != len(new_rates):
                locked = [_send_lock(db, request).fetchone() for request in new_rates]
            return slots + _reserve(db, owner, new_rates, locked, now)

    def grant(self, key: GateKey, now: float) -> int:
        granted, result = 0, _GrantResult.PASSED
        while result is not _GrantResult.FULL:
            rows = self._context.database.fetch_all("gates.find_head", id=key.id, tenant=key.tenant)
            if not rows:
                break
            result = self._grant_first(key, rows[0]["run_id"], now)
            granted += result is _GrantResult.GRANTED
        if granted:
            self._context.announce_due()
        return granted

    def _grant_first(self, key: GateKey, run_id: str, now: float) -> _GrantResult:
        """Grant units to the first slot of a queue, if it is one of a run.

        Remove it if its owner has ended, or is paused and asks again.
        """
        with self._context.transaction() as db:
            db.lock_run(run_id)
            gate = lock_gate(db, key)
            row = db.execute("gates.find_head", id=key.id, tenant=key.tenant).fetchone()
            if gate is None or row is None:
                return _GrantResult.FULL
            head = slot_from_row(row)
            if head.owner.run_id != run_id:
                return _GrantResult.PASSED
            if not _may_hold(db, head.owner):
                take_slots(db, "gates.take", **slot_key(head))
                db.execute("waits.make_due", run_id=run_id, visit_id=head.owner.visit_id, now=now)
                return _GrantResult.PASSED
            flow = find_flow(db, key, head.flow)
            assert flow is not None
            decided = serve_flow(gate, flow, head, now)
            if decided is None:
                return _GrantResult.FULL
            changed, flow, slot = decided
            write_gate(db, changed)
            put_flow(db, flow)
            db.execute("gates.hold", units=slot.units, held_at=now, **slot_key(head))
            if head.owner.visit_id:
                db.execute("waits.make_due", run_id=run_id, visit_id=head.owner.visit_id, now=now)
            else:
                db.execute("gates.wake_visits", run_id=run_id, now=now)
            return _GrantResult.GRANTED

    def stalled(self, limit: int) -> list[GateKey]:
        rows = self._context.database.fetch_all("gates.find_stalled", limit=limit)
        return [GateKey(row["id"], row["tenant"]) for row in rows]

    def slots_of(self, run_id: str, visit_id: str | None = None) -> list[Slot]:
        owner = {} if visit_id is None else {"visit_id": visit_id}
        rows = self._context.database.fetch_all("gates.find_owned", run_id=run_id, **owner)
        slots = sorted(map(slot_from_row, rows), key=lambda slot: (slot.gate, slot.owner))
        return [_with_place(slot, self._context.database.fetch_all) for slot in slots]

    def queued_slots(self, run_ids: Sequence[str], now: float) -> dict[str, list[Slot]]:
        database = self._context.database
        ids = database.encode_list(run_ids)
        rows = database.fetch_all("gates.find_queued", ids=ids, now=now) if run_ids else []
        is_waiting = any(row["held_at"] is None for row in rows)
        flows = database.fetch_all("gates.find_flows_of_runs", ids=ids) if is_waiting else []
        found = defaultdict[str, list[Slot]](list)
        for slot in _with_places(rows, map(flow_from_row, flows)):
            found[slot.owner.run_id].append(slot)
        return {id: sorted(slots, key=lambda slot: (slot.gate, slot.owner)) for id, slots in found.items()}

    def gate(self, key: GateKey) -> Gate | None:
        rows = self._context.database.fetch_all("gates.get", id=key.id, tenant=key.tenant)
        return gate_from_row(rows[0]) if rows else None

    def find_named(self, tenant: str, name: str) -> GateKey:
        shared = named_gate(SHARED_TENANT, name)
        is_shared = self.gate(shared) is not None
        self._context.remember_shared(name, is_shared=is_shared)
        return shared if is_shared else named_gate(tenant, name)

    def assume_named(self, tenant: str, name: str) -> GateKey:
        return self._context.assume_named(tenant, name)

    def slots_at(
        self, key: GateKey, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Slot], str | None]:
        after = None if cursor is None else read_slot_cursor(cursor)
        slots: list[Slot] = []
        if after is None or not after.waits:
            slots = self._list_slots("gates.find_held", key, limit + 1, _after_owner(after))
        if len(slots) <= limit:
            in_queue: dict[str, Any] = {}
            if after is not None and after.waits:
                in_queue = {"flow": after.flow, "rank": after.rank, **_after_owner(after)}
            slots += self._list_slots("gates.find_queue", key, limit + 1 - len(slots), in_queue)
        page = slots[:limit]
        return page, write_slot_cursor(place_of_slot(page[-1])) if len(slots) > limit else None

    def _list_slots(self, query: str, key: GateKey, count: int, after: Mapping[str, Any]) -> list[Slot]:
        rows = self._context.database.fetch_all(query, id=key.id, tenant=key.tenant, limit=count, **after)
        return list(map(slot_from_row, rows))

    def find(
        self, tenant: str, *, named: bool, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Gate], str | None]:
        prefix = NAMED_PREFIX if named else OWN_PREFIX
        after = prefix if cursor is None else max(prefix, str(read_key_cursor(cursor, str)))
        until = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        bounds = {"after": after, "until": until, "limit": limit + 1}
        rows = self._context.database.fetch_all("gates.find", tenant=tenant, **bounds)
        page = [gate_from_row(row) for row in rows[:limit]]
        return page, write_key_cursor(page[-1].key.id) if len(rows) > limit else None

    def set_limit(self, key: GateKey, kind: LimitKind, units: int, per: float | None = None) -> Gate:
        with self._context.database.transaction() as db:
            gate = add_or_lock_gate(db, change_limit(None, key, kind, units, per))
            changed = change_limit(gate, key, kind, units, per)
            write_gate(db, changed)
        return changed

    def remove_limit(self, key: GateKey) -> bool:
        with self._context.database.transaction() as db:
            gate = lock_gate(db, key)
            if gate is None:
                return False
            check_removable(gate)
            db.execute("gates.remove", id=key.id, tenant=key.tenant)
        return True


def _ask(db: Writer, owner: SlotOwner, request: SlotRequest, now: float) -> Slot | None:
    """Return the slot that an owner gets at a gate, or None if it gets none.

    Raises:
        RejectedError: `unknown_limit`, `wrong_limit`.
    """
    before = _read_locked(_send_lock(db, request).fetchone(), request)
    gate, slot = admit(before, owner, request, now)
    if gate is not before or gate.is_unused:
        write_gate(db, gate)
    if slot is not None:
        db.execute("gates.add_slot", **slot_values(slot))
        if not slot.is_held:
            put_flow(db, join_flow(gate, find_flow(db, gate.key, slot.flow), slot))
    return slot


def _reserve(
    db: Writer, owner: SlotOwner, requests: Sequence[SlotRequest], locked: Sequence[Row | None], now: float
) -> list[Slot]:
    """Return the slots that an owner gets at rates. `locked` has the rows of their gates, which are locked.

    Raises:
        RejectedError: `unknown_limit`, `wrong_limit`.
    """
    before = [_read_locked(row, request) for row, request in zip(locked, requests, strict=True)]
    gates, slots = reserve(before, owner, requests, now)
    for gate, slot in zip(gates, slots, strict=True):
        if slot.units:
            write_gate(db, gate)
            db.execute("gates.add_slot", **slot_values(slot))
    return slots


def _send_lock(db: Writer, request: SlotRequest) -> Result:
    """Lock the gate of a request, and add an own one that does not exist. Return the result."""
    if request.size is None:
        return send_lock(db, request.gate)
    return send_add_or_lock(db, new_gate(request))


def _read_locked(row: Row | None, request: SlotRequest) -> Gate:
    """Return the gate of a request from its row."""
    gate = None if row is None else gate_from_row(row)
    check_request(gate, request)
    assert gate is not None
    return gate


def _may_hold(db: Writer, owner: SlotOwner) -> bool:
    """Return whether the run of an owner has not ended and is not paused, and its visit is active."""
    run = db.execute("gates.may_hold", run_id=owner.run_id)
    visit = db.execute("gates.read_visit", run_id=owner.run_id, visit_id=owner.visit_id)
    if run.fetchone() is None:
        return False
    row = visit.fetchone()
    return not owner.visit_id or may_hold(None if row is None else visit_from_row(row))


def _with_place(slot: Slot, fetch: Callable[..., list[Any]]) -> Slot:
    """Return a slot that waits with the number of slots before it. Others are not changed."""
    if slot.is_held:
        return slot
    gate = {"id": slot.gate.id, "tenant": slot.gate.tenant}
    place = {"rank": slot.rank, "queued_at": slot.queued_at, **slot.owner._asdict()}
    flows = [flow_from_row(row) for row in fetch("gates.find_flows", **gate)]
    (counted,) = fetch("gates.count_in_flow", **gate, flow=slot.flow, **place)
    return replace(slot, queued_before=count_before(flows, slot.flow, counted["place"]))


def _with_places(rows: Iterable[Row], flows: Iterable[Flow]) -> Iterator[Slot]:
    """Yield slots with the numbers of slots before them, from rows in the order of their flows.

    Each row has the number of slots between the row before it in its flow and itself.
    """
    flows_of = defaultdict[GateKey, list[Flow]](list)
    for flow in flows:
        flows_of[flow.gate].append(flow)
    places = Counter[tuple[GateKey, str]]()
    for row in rows:
        slot = slot_from_row(row)
        if not slot.is_held:
            places[slot.gate, slot.flow] += row["added"]
            place = places[slot.gate, slot.flow]
            slot = replace(slot, queued_before=count_before(flows_of[slot.gate], slot.flow, place))
        yield slot


def _after_owner(place: SlotPlace | None) -> dict[str, Any]:
    """Return the values of a query for slots after a time and an owner, or none for all slots."""
    if place is None:
        return {}
    return {"since": place.since, "after_run": place.run_id, "after_visit": place.visit_id}


def _fetch_all(db: Writer, query: str, **values: Any) -> list[Any]:
    return list(db.execute(query, **values).fetchall())
