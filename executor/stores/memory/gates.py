"""Gates and slots in the store in memory: owners get units, wait in queues, and give units back.

The author of a store decides how a gate, its slots and the due times of their visits change in one write. In
memory the lock orders all writes. A store with row locks locks the run first, and then gates in the order of
their keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from noetl.executor.model.flows import (
    Flow,
    count_before,
    first_flow,
    join_flow,
    leave_flow,
    serve_flow,
)
from noetl.executor.model.gates import (
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
    give_back,
    grant,
    is_released_by_switch,
    named_gate,
    new_gate,
)
from noetl.executor.model.rate_gates import reserve, reserve_now
from noetl.executor.model.run import Claim, Commit, Visit, VisitStatus
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.visit_states import may_hold
from noetl.executor.model.visit_transition import claim_lost, is_requested_for, wake
from noetl.executor.stores.cursors import (
    place_of_slot,
    read_key_cursor,
    read_slot_cursor,
    write_key_cursor,
    write_slot_cursor,
)
from noetl.executor.stores.memory.state import MemoryState, RunRecord
from noetl.planner.frozen import replace


class MemoryGates:
    """The gates of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def acquire(
        self, claim: Claim, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
    ) -> list[Slot]:
        state, slots = self._state, list[Slot]()
        with state.lock:
            if state.find_held(claim.run.id, claim.visit.id, claim.visit.fence) is None:
                raise claim_lost(claim.visit)
            for request in self._find_reached(owner, requests, now):
                check_request(state.gates.get(request.gate), request)
            for request in requests:
                if request.is_rate:
                    continue
                slot = self._ask(owner, request, now)
                if slot is not None:
                    slots.append(slot)
                if slot is None or not slot.is_held:
                    return slots
            return slots + self._reserve(owner, [request for request in requests if request.is_rate], now)

    def _find_reached(
        self, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
    ) -> Sequence[SlotRequest]:
        """Return the requests of an owner without those behind the first gate that is full."""
        reached = list[SlotRequest]()
        for request in requests:
            if not request.is_rate:
                reached.append(request)
                gate, slot = find_gate(self._state, request), self._state.slots.get((request.gate, owner))
                if slot is None and gate is not None:
                    _, slot = admit(gate, owner, request, now)
                if slot is None or not slot.is_held:
                    return reached
        return requests

    def _reserve(self, owner: SlotOwner, requests: Sequence[SlotRequest], now: float) -> list[Slot]:
        """Return the slots that an owner has or gets at rates."""
        state = self._state
        slots = [slot for r in requests if (slot := state.slots.get((r.gate, owner))) is not None]
        new = [request for request in requests if (request.gate, owner) not in state.slots]
        gates = [state.gates.get(request.gate) or new_gate(request) for request in new]
        for gate, slot in zip(*reserve(gates, owner, new, now), strict=True):
            if slot.units:
                put_gate(state, gate)
                state.slots[slot.gate, owner] = slot
            slots.append(slot)
        return slots

    def _ask(self, owner: SlotOwner, request: SlotRequest, now: float) -> Slot | None:
        """Return the slot that an owner has or gets at a gate, or None if it gets none."""
        state = self._state
        earlier = state.slots.get((request.gate, owner))
        if earlier is not None:
            return self._read(earlier)
        gate = find_gate(state, request)
        assert gate is not None  # checked before
        gate, slot = admit(gate, owner, request, now)
        put_gate(state, gate)
        if slot is None:
            return None
        state.slots[request.gate, owner] = slot
        if not slot.is_held:
            put_flow(state, join_flow(gate, state.flows.get((gate.key, slot.flow)), slot))
        return self._read(slot)

    def grant(self, key: GateKey, now: float) -> int:
        granted = 0
        with self._state.change_runs():
            while (head := self._head(key)) is not None and self._state.gates[key].may_grant:
                record = self._state.runs.get(head.owner.run_id)
                visit = None if record is None else record.visits.get(head.owner.visit_id)
                is_open = record is not None and record.run.finished_at is None and not record.run.is_paused
                if not is_open or (head.owner.visit_id and not may_hold(visit)):
                    give_back_slots(self._state, [head])
                    _wake(record, [] if visit is None else [visit], now)
                    continue
                decided = serve_flow(self._state.gates[key], self._state.flows[key, head.flow], head, now)
                if decided is None:
                    break
                self._state.gates[key], flow, self._state.slots[key, head.owner] = decided
                put_flow(self._state, flow)
                granted += 1
                _wake(record, _waiting_visits(record) if visit is None else [visit], now)
        return granted

    def stalled(self, limit: int) -> list[GateKey]:
        with self._state.lock:
            heads = [(gate, self._head(key)) for key, gate in sorted(self._state.gates.items())]
            granted = [gate.key for gate, head in heads if head is not None and grant(gate, head, 0.0)]
            return granted[:limit]

    def slots_of(self, run_id: str, visit_id: str | None = None) -> list[Slot]:
        with self._state.lock:
            slots = find_slots(self._state, run_id, visit_id)
            return [self._read(slot) for slot in sorted(slots, key=lambda slot: (slot.gate, slot.owner))]

    def queued_slots(self, run_ids: Sequence[str], now: float) -> dict[str, list[Slot]]:
        found = {run_id: self.slots_of(run_id) for run_id in run_ids}
        return {
            run_id: [slot for slot in slots if not slot.is_held_by(now)] for run_id, slots in found.items()
        }

    def gate(self, key: GateKey) -> Gate | None:
        with self._state.lock:
            return self._state.gates.get(key)

    def find_named(self, tenant: str, name: str) -> GateKey:
        shared = named_gate(SHARED_TENANT, name)
        return named_gate(tenant, name) if self.gate(shared) is None else shared

    def assume_named(self, tenant: str, name: str) -> GateKey:
        return self.find_named(tenant, name)

    def slots_at(
        self, key: GateKey, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Slot], str | None]:
        after = None if cursor is None else read_slot_cursor(cursor)
        with self._state.lock:
            slots = sorted(
                (slot for slot in self._state.slots.values() if slot.gate == key), key=place_of_slot
            )
        rest = [slot for slot in slots if after is None or place_of_slot(slot) > after]
        page = rest[:limit]
        return page, write_slot_cursor(place_of_slot(page[-1])) if len(rest) > limit else None

    def find(
        self, tenant: str, *, named: bool, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Gate], str | None]:
        after = "" if cursor is None else read_key_cursor(cursor, str)
        with self._state.lock:
            gates = sorted(self._state.gates.items())
        rest = [
            gate
            for key, gate in gates
            if key.tenant == tenant and (gate.kind is not None) is named and key.id > str(after)
        ]
        page = rest[:limit]
        return page, write_key_cursor(page[-1].key.id) if len(rest) > limit else None

    def set_limit(self, key: GateKey, kind: LimitKind, units: int, per: float | None = None) -> Gate:
        with self._state.lock:
            gate = self._state.gates[key] = change_limit(self._state.gates.get(key), key, kind, units, per)
            return gate

    def remove_limit(self, key: GateKey) -> bool:
        with self._state.lock:
            gate = self._state.gates.get(key)
            if gate is None:
                return False
            check_removable(gate)
            del self._state.gates[key]
            return True

    def _head(self, key: GateKey) -> Slot | None:
        """Return the first slot of the flow of a gate that is served next."""
        flow = first_flow(self._flows(key))
        return None if flow is None else min(self._queue(key, flow.name), key=place_of_slot, default=None)

    def _flows(self, key: GateKey) -> list[Flow]:
        return [flow for flow in self._state.flows.values() if flow.gate == key]

    def _queue(self, key: GateKey, flow: str) -> list[Slot]:
        slots = self._state.slots.values()
        return [slot for slot in slots if slot.gate == key and slot.flow == flow and not slot.is_held]

    def _read(self, slot: Slot) -> Slot:
        """Return a slot with the number of those that are before it in the queue."""
        if slot.is_held:
            return slot
        place = sum(
            place_of_slot(queued) < place_of_slot(slot) for queued in self._queue(slot.gate, slot.flow)
        )
        return replace(slot, queued_before=count_before(self._flows(slot.gate), slot.flow, place))


def find_gate(state: MemoryState, request: SlotRequest) -> Gate | None:
    """Return the gate of a request, or None if no operator has made it. That of an own limit may be new."""
    return state.gates.get(request.gate) or (None if request.size is None else new_gate(request))


def put_gate(state: MemoryState, gate: Gate) -> None:
    """Write a gate, or remove it if it is not used any more."""
    if gate.is_unused:
        state.gates.pop(gate.key, None)
    else:
        state.gates[gate.key] = gate


def delete_idle_gates(state: MemoryState, now: float) -> None:
    """Delete the gates of playbooks' and steps' own rates whose units have all left the window."""
    for key, gate in list(state.gates.items()):
        if gate.is_idle(now):
            del state.gates[key]


def put_flow(state: MemoryState, flow: Flow) -> None:
    """Write a flow, or remove it if none of its slots waits any more."""
    if flow.waiting > 0:
        state.flows[flow.gate, flow.name] = flow
    else:
        state.flows.pop((flow.gate, flow.name), None)


def find_slots(state: MemoryState, run_id: str, visit_id: str | None = None) -> list[Slot]:
    """Return the slots of a run and its visits, or of one visit. A store needs an index of them."""
    slots = [slot for slot in state.slots.values() if slot.owner.run_id == run_id]
    return [slot for slot in slots if visit_id in (None, slot.owner.visit_id)]


def has_waiting_slot(state: MemoryState, run_id: str, *owners: str) -> bool:
    """Return whether one of the visits of a run waits for a slot. The run itself is the empty owner."""
    return any(not slot.is_held for owner in owners for slot in find_slots(state, run_id, owner))


def give_back_slots(state: MemoryState, slots: Iterable[Slot]) -> None:
    """Remove slots, and give their units back."""
    for slot in slots:
        del state.slots[slot.gate, slot.owner]
        put_gate(state, give_back(state.gates[slot.gate], slot))
        flow = None if slot.is_held else state.flows.get((slot.gate, slot.flow))
        if flow is not None:
            put_flow(state, leave_flow(flow))


def find_freed(state: MemoryState, returned: Iterable[Slot]) -> tuple[GateKey, ...]:
    """Return the gates at which others wait for the units of slots that were given back."""
    gates = [state.gates.get(key) for key in sorted({slot.gate for slot in returned})]
    return tuple(gate.key for gate in gates if gate is not None and gate.may_grant)


def take_requested(state: MemoryState, commit: Commit, claimed: Visit | None, now: float) -> tuple[Slot, ...]:
    """Let the visit that a commit has claimed take what is requested for it, up to the first full gate."""
    slots = list[Slot]()
    if claimed is None or not is_requested_for(commit, claimed):
        return ()
    for request in commit.requests:
        gate = find_gate(state, request)
        slot = None
        is_hidden = request.size is None and _has_shared(state, request.gate)
        owner = SlotOwner(claimed.run_id, claimed.id)
        if gate is None or is_hidden:
            break
        if request.is_rate:
            reserved = reserve_now(gate, owner, request, now)
            if reserved is not None:
                gate, slot = reserved
        elif gate.rate is None:
            gate, slot = admit(gate, owner, request, now)
        if slot is None:
            break
        put_gate(state, gate)
        state.slots[slot.gate, slot.owner] = slot
        slots.append(slot)
    return tuple(slots)


def _has_shared(state: MemoryState, key: GateKey) -> bool:
    """Return whether a limit of all tenants hides that of a tenant."""
    return key.tenant != SHARED_TENANT and key._replace(tenant=SHARED_TENANT) in state.gates


def give_back_parked(state: MemoryState, record: RunRecord, parked: Sequence[Visit], now: float) -> None:
    """Give back the slots of parked visits, which ask again when their run continues.

    They are due at once then. So are those that wait for a slot of their run.
    """
    slots = find_slots(state, record.run.id)
    ids = {visit.id for visit in record.visits.values() if visit.status is VisitStatus.PARKED}
    returned = [slot for slot in slots if slot.owner.visit_id in ids]
    owners = {slot.owner.visit_id for slot in returned}
    run_waits = any(not slot.is_held and not slot.owner.visit_id for slot in slots)
    give_back_slots(state, returned)
    _wake(record, [visit for visit in parked if run_waits or visit.id in owners], now)


def give_back_switched(state: MemoryState, record: RunRecord, now: float) -> None:
    """Give back slots of a run that has another plan now. Its visits ask again."""
    running = {visit.id for visit in record.visits.values() if visit.status is VisitStatus.RUNNING}
    slots = find_slots(state, record.run.id)
    returned = [slot for slot in slots if is_released_by_switch(slot, running)]
    owners = {slot.owner.visit_id for slot in returned}
    give_back_slots(state, returned)
    _wake(record, [v for v in _waiting_visits(record) if v.id in owners or "" in owners], now)


def _waiting_visits(record: RunRecord | None) -> list[Visit]:
    visits = [] if record is None else list(record.visits.values())
    return [v for v in visits if v.status is VisitStatus.WAITING and not is_pseudo_step(v.step)]


def _wake(record: RunRecord | None, visits: Sequence[Visit], now: float) -> None:
    if record is not None:
        record.put(*(wake(visit, now) for visit in visits))
