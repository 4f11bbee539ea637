"""Gates of a DynamoDB store: how slots are acquired, granted and listed, and the limits of operators.

Problem: many workers ask one gate at the same time, and a worker that has lost its claim may ask late.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). What `noetl.executor.model.gates` decides
is written in one transaction, which requires that the gate is as it was read, and that the claim is held.
Slots are given back by the commit, the end or the pause that ends their use (`slot_returns.py`). The queue of
a gate is granted by `gate_grants.py`.

The first transaction for a run also marks its head, so that the end of a run without limits reads no slots.

Cost: an owner that needs not wait takes one read and one transaction. It writes the gate, the slot, and the
index `due`, and checks the visit. An owner that waits also reads the flows of the gate, and writes a ticket
and its flow. The mark is one write for each run.

Limits: a gate is one item, which accepts 1,000 write units in a second. Each transaction takes two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.flows import Flow, join_flow
from noetl.executor.model.gates import (
    NAMED_PREFIX,
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
from noetl.executor.model.run import NEVER, Claim
from noetl.executor.model.visit_transition import claim_lost
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.conflicts import repeat_on_conflict
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.due_items import find_due_items
from noetl.executor.stores.dynamo.expressions import ConditionCheck, Delete, Write
from noetl.executor.stores.dynamo.gate_grants import Grants
from noetl.executor.stores.dynamo.gate_items import (
    decode_gate,
    decode_slot,
    flow_write,
    gate_write,
    is_same_gate,
    slot_writes,
)
from noetl.executor.stores.dynamo.gate_lists import (
    count_ahead,
    count_all_ahead,
    list_flows,
    list_gates,
    list_slots,
)
from noetl.executor.stores.dynamo.slot_returns import has_slots, mark_slots, read_slot_items
from noetl.executor.stores.dynamo.visit_items import is_held
from noetl.executor.stores.dynamo.wakeups import Wakeups
from noetl.planner.frozen import frozen

_BEFORE_NEVER = NEVER - 1.0


@frozen
class _Acquisition:
    """The slots of an owner at the gates that it asks, and the writes of those that are new.

    `flows` are those of the gate at which a new slot waits.
    """

    slots: list[Slot]
    writes: list[Write]
    flows: list[Flow] | None = None

    def add(self, read: Gate | None, gate: Gate, slot: Slot | None, now: float) -> bool:
        """Add what an owner gets at a gate that was read as `read`. Return whether it has a slot there.

        A slot without units is not written.
        """
        if gate is not read and (slot is None or slot.units):
            self.writes.append(gate_write(read, gate, now))
        if slot is None:
            return False
        if slot.units:
            self.writes.extend(slot_writes(slot, gate))
        self.slots.append(slot)
        return True


class _RateRequest(NamedTuple):
    """A request of a rate, and its gate as it was read."""

    request: SlotRequest
    read: Gate | None


class DynamoGates:
    """The gates of a DynamoDB store."""

    def __init__(self, context: DynamoContext, wakeups: Wakeups) -> None:
        self._context = context
        self._grants = Grants(context, wakeups)

    def acquire(
        self, claim: Claim, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
    ) -> list[Slot]:
        acquisition = repeat_on_conflict(
            lambda: self._acquire(claim, owner, requests, now),
            f"Run {claim.visit.run_id} could not acquire its limits",
        )
        return [count_ahead(self._context.table, slot, acquisition.flows) for slot in acquisition.slots]

    def grant(self, key: GateKey, now: float) -> int:
        return self._grants.grant(key, now)

    def stalled(self, limit: int) -> list[GateKey]:
        table = self._context.table
        pages = self._context.in_parallel(
            lambda shard: find_due_items(table, shard, _BEFORE_NEVER, limit, lambda _: False),
            keys.gate_shards(),
        )
        items = sorted((item for page in pages for item in page), key=lambda item: float(item["due"]))
        now, stalled = table.clock(), list[GateKey]()
        for gate in map(decode_gate, items):
            if self._grants.is_stalled(gate, now):
                stalled.append(gate.key)
            if len(stalled) == limit:
                break
        return stalled

    def slots_of(self, run_id: str, visit_id: str | None = None) -> list[Slot]:
        table = self._context.table
        slots = [decode_slot(item, run_id) for item in read_slot_items(table, run_id, visit_id)]
        in_order = sorted(slots, key=lambda slot: (slot.gate, slot.owner))
        return [count_ahead(table, slot) for slot in in_order]

    def queued_slots(self, run_ids: Sequence[str], now: float) -> dict[str, list[Slot]]:
        """Return the slots that are not held. Each run takes a request, and each flow where slots wait."""
        table = self._context.table
        pages = self._context.in_parallel(lambda run_id: read_slot_items(table, run_id), run_ids)
        slots = [
            slot
            for run_id, items in zip(run_ids, pages, strict=True)
            for item in items
            if not (slot := decode_slot(item, run_id)).is_held_by(now)
        ]
        found = defaultdict[str, list[Slot]](list)
        for slot in sorted(count_all_ahead(self._context, slots), key=lambda slot: (slot.gate, slot.owner)):
            found[slot.owner.run_id].append(slot)
        return found

    def gate(self, key: GateKey) -> Gate | None:
        gate = self._read(key)
        return None if gate is None or gate.is_unused else gate

    def find_named(self, tenant: str, name: str) -> GateKey:
        shared = named_gate(SHARED_TENANT, name)
        return named_gate(tenant, name) if self.gate(shared) is None else shared

    def assume_named(self, tenant: str, name: str) -> GateKey:
        return self.find_named(tenant, name)

    def slots_at(
        self, key: GateKey, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Slot], str | None]:
        return list_slots(self._context.table, key, limit=limit, cursor=cursor)

    def find(
        self, tenant: str, *, named: bool, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Gate], str | None]:
        return list_gates(self._context.table, tenant, named=named, limit=limit, cursor=cursor)

    def set_limit(self, key: GateKey, kind: LimitKind, units: int, per: float | None = None) -> Gate:
        name = key.id.removeprefix(NAMED_PREFIX)

        def change() -> Gate:
            read = self._read(key)
            written = change_limit(read, key, kind, units, per)
            self._context.table.write([gate_write(read, written, self._context.table.clock())])
            return written

        return repeat_on_conflict(change, f"Limit `{name}` could not be changed")

    def remove_limit(self, key: GateKey) -> bool:
        name = key.id.removeprefix(NAMED_PREFIX)

        def remove() -> bool:
            gate = self._read(key)
            if gate is None or gate.kind is None:
                return False
            check_removable(gate)
            self._context.table.write([Delete(keys.gate(key), when=is_same_gate(gate))])
            return True

        return repeat_on_conflict(remove, f"Limit `{name}` could not be removed")

    def _read(self, key: GateKey) -> Gate | None:
        item = self._context.table.get(keys.gate(key))
        return None if item is None else decode_gate(item)

    def _acquire(
        self, claim: Claim, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
    ) -> _Acquisition:
        """Ask the gates as they are now, and write what the owner gets.

        Raises:
            ConditionFailed: a gate has changed since it was read.
            FencedError: the claim is lost.
            RejectedError: `unknown_limit`, `wrong_limit`.
        """
        acquisition = self._plan(claim, owner, requests, now)
        if not acquisition.writes:
            return acquisition
        visit = claim.visit
        visit_key = self._context.heads.visit_key(visit.run_id, visit.id)
        required: list[Write] = [ConditionCheck(visit_key, is_held(visit.fence))]
        if not self._is_marked(claim):
            required.append(mark_slots(visit.run_id))
        try:
            self._context.table.write([*required, *acquisition.writes])
        except ConditionFailed as refusal:
            if any(refusal.failed[: len(required)]):
                raise claim_lost(visit) from None
            raise
        self._context.heads.remember_slots(visit.run_id)
        return acquisition

    def _plan(
        self, claim: Claim, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
    ) -> _Acquisition:
        """Ask the gates as they are now, up to the first that is full.

        Raises:
            FencedError: the claim is lost.
            RejectedError: `unknown_limit`, `wrong_limit`.
        """
        visit_key = self._context.heads.visit_key(claim.visit.run_id, claim.visit.id)
        slot_keys = [keys.slot(request.gate, owner) for request in requests]
        gate_keys = [keys.gate(request.gate) for request in requests]
        items = self._context.table.get_many([visit_key, *slot_keys, *gate_keys])
        visit = items.get(visit_key, {})
        if any(visit.get(name) != value for name, _, value in is_held(claim.visit.fence)):
            raise claim_lost(claim.visit)
        acquisition = _Acquisition([], [])
        rates: list[_RateRequest] = []
        for request, slot_key, gate_key in zip(requests, slot_keys, gate_keys, strict=True):
            read = decode_gate(items[gate_key]) if gate_key in items else None
            if slot_key in items:
                acquisition.slots.append(decode_slot(items[slot_key], owner.run_id))
            elif request.is_rate:
                rates.append(_RateRequest(request, read))
                continue
            else:
                gate, slot = admit(_gate_for(request, read), owner, request, now)
                if not acquisition.add(read, gate, slot, now):
                    return acquisition
                if slot is not None and not slot.is_held:
                    return self._join(acquisition, gate, slot)
            if not acquisition.slots[-1].is_held:
                return acquisition
        gates = [_gate_for(request, read) for request, read in rates]
        reserved = reserve(gates, owner, [request for request, _ in rates], now)
        for (_, read), gate, slot in zip(rates, *reserved, strict=True):
            acquisition.add(read, gate, slot, now)
        return acquisition

    def _join(self, acquisition: _Acquisition, gate: Gate, slot: Slot) -> _Acquisition:
        """Return an acquisition with the flows of the gate at which its last slot waits, and their write."""
        flows = list_flows(self._context.table, gate.key)
        read = next((flow for flow in flows if flow.name == slot.flow), None)
        joined = join_flow(gate, read, slot)
        flows = [*(flow for flow in flows if flow is not read), joined]
        return _Acquisition(acquisition.slots, [*acquisition.writes, flow_write(read, joined)], flows)

    def _is_marked(self, claim: Claim) -> bool:
        """Return whether the head of a run says that it has slots."""
        run_id = claim.visit.run_id
        if self._context.heads.has_slots(run_id):
            return True
        cached = self._context.claims.get(claim.visit)
        head = self._context.table.get(keys.head(run_id)) if cached is None else cached.head
        return head is not None and has_slots(head)


def _gate_for(request: SlotRequest, read: Gate | None) -> Gate:
    """Return the gate of a request as it was read, or a new one.

    Raises:
        RejectedError: `unknown_limit`, `wrong_limit`.
    """
    check_request(read, request)
    return new_gate(request) if read is None else read
