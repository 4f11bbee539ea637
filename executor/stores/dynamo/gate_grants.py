"""Grants: the first slots of the queue of a gate get the units that are free.

Problem: while a slot is granted, its owner may be suspended, parked or ended, other owners give units back,
and others come. A process may die between any two requests.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). One transaction writes the gate, the slot,
its ticket, its flow, and the visit that becomes due. It requires all of them as they were read. A visit that
is running is checked only. Its suspension requires that the slot still waits, so one of both is refused. A
suspension for the slot of a run counts itself at the slot. A grant reads this count before the visits, and
requires it.

Cost: a read of the gate, of its flows, of the first ticket of a flow, and of three items. Then a transaction
of five items. This is for each grant. A run's slot also reads the visits of the run.

Limits: the message about a visit that is due may be lost. Then the index `due` has it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import StoreError
from noetl.executor.model.flows import Flow, serve_flow, sort_flows
from noetl.executor.model.gates import Gate, GateKey, Slot, SlotOwner, grant
from noetl.executor.model.run import VisitStatus
from noetl.executor.model.visit_states import ACTIVE
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import ABSENT, ConditionCheck, Delete, Write
from noetl.executor.stores.dynamo.gate_items import (
    blocked_gate,
    decode_gate,
    decode_slot,
    flow_write,
    gate_write,
    granting_writes,
    is_same_gate,
    leaving_write,
    returning_update,
    revoking_writes,
)
from noetl.executor.stores.dynamo.gate_lists import list_flows
from noetl.executor.stores.dynamo.run_items import has_ended, is_paused, run_id_of, spread_of
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS
from noetl.executor.stores.dynamo.wakeups import Wakeups
from noetl.planner.frozen import frozen

MAX_WOKEN = 80
"""Number of visits that one transaction makes due. Others are made due before it, and announced after it."""

MAX_EMPTY_READS = 3
"""Number of times that a queue without a ticket is read, although its gate counts slots that wait."""


class _GrantTry(Enum):
    """Outcome of a try to grant the first slot of a queue."""

    GRANTED = "granted"
    REMOVED = "removed"
    FULL = "full"
    CHANGED = "changed"


@frozen
class _First:
    """The first slot of a queue, as it was read, with its item and those of its run and its visit.

    `flow` is its flow, which is served next.
    """

    flow: Flow
    slot: Slot
    item: Item
    head: Item | None
    visit: Item | None


class Grants:
    """The grants of the gates of a store."""

    def __init__(self, context: DynamoContext, wakeups: Wakeups) -> None:
        self._context = context
        self._wakeups = wakeups

    def grant(self, key: GateKey, now: float) -> int:
        """Give free units of a gate to the slots of its queue, and return how many got theirs."""
        granted = conflicts = empty = 0
        while conflicts < MAX_CONFLICTS and empty < MAX_EMPTY_READS:
            item = self._context.table.get(keys.gate(key))
            gate = None if item is None else decode_gate(item)
            if gate is None or self._is_removed(gate) or not gate.may_grant:
                return granted
            found = self._first_ticket(key)
            if found is None:
                empty += 1
                continue
            turn = self._serve(gate, *found, now)
            if turn is _GrantTry.FULL:
                return granted
            granted += turn is _GrantTry.GRANTED
            if turn is _GrantTry.CHANGED:
                conflicts += 1
                time.sleep(pause_seconds(min(conflicts, 4)) if conflicts > 1 else 0.0)
        if empty:
            return granted
        raise StoreError(f"Limit `{key.id}` could not be granted: too many concurrent writers.")

    def is_stalled(self, gate: Gate, now: float) -> bool:
        """Return whether the first slot of the queue of a gate gets its units. Correct the index if not."""
        first = None
        if gate.may_grant:
            found = self._first_ticket(gate.key)
            first = None if found is None else self._read_first(*found)
            if first is None or not _may_hold(first):
                return found is not None
        if first is not None and grant(gate, first.slot, now) is not None:
            return True
        if not self._is_removed(gate):
            with suppress(ConditionFailed):  # it has changed since it was read
                self._context.table.write([blocked_gate(gate)])
        return False

    def _is_removed(self, gate: Gate) -> bool:
        """Delete a gate without slots that no operator has made. Return whether it was such a gate."""
        if not gate.is_unused:
            return False
        with suppress(ConditionFailed):
            self._context.table.write([Delete(keys.gate(gate.key), when=is_same_gate(gate))])
        return True

    def _first_ticket(self, key: GateKey) -> tuple[Flow, Item] | None:
        """Return the flow that is served next and its first ticket. Pass over a flow without tickets."""
        for flow in sort_flows(list_flows(self._context.table, key)):
            pk, first = keys.ticket(key, flow.name, "")
            page, _ = self._context.table.query_range(pk, (first, f"{first}{keys.END_OF_TEXTS}"), limit=1)
            if page:
                return flow, page[0]
        return None

    def _serve(self, gate: Gate, flow: Flow, ticket: Item, now: float) -> _GrantTry:
        """Grant the first slot of a queue, or remove it if its owner cannot hold it."""
        first = self._read_first(flow, ticket)
        if first is None:
            return _GrantTry.CHANGED
        try:
            if not _may_hold(first):
                self._remove(first, now)
                return _GrantTry.REMOVED
            granted = serve_flow(gate, flow, first.slot, now)
            if granted is None:
                return _GrantTry.FULL
            after, served, slot = granted
            writes = [gate_write(gate, after, now), flow_write(flow, served)]
            writes += granting_writes(slot, after, first.item.get("sleepers"))
            self._hold(writes, first, now)
        except ConditionFailed:
            return _GrantTry.CHANGED
        self._context.changes.notify()
        return _GrantTry.GRANTED

    def _read_first(self, flow: Flow, ticket: Item) -> _First | None:
        """Return the slot of the first ticket of a flow, or None if it does not wait any more."""
        table, owner = self._context.table, SlotOwner(ticket["run"], ticket["visit"])
        slot_key, head_key = keys.slot(flow.gate, owner), keys.head(owner.run_id)
        visit_key = self._context.heads.visit_key(*owner) if owner.visit_id else head_key
        items = table.get_many([slot_key, head_key, visit_key])
        item = items.get(slot_key)
        if item is not None and "held" not in item:
            slot = decode_slot(item, owner.run_id)
            return _First(flow, slot, item, items.get(head_key), items.get(visit_key))
        if item is None:
            # A ticket without a slot would stop its queue for ever.
            with suppress(ConditionFailed):
                ticket_key = keys.ItemKey(ticket["pk"], ticket["sk"])
                table.write([ConditionCheck(slot_key, (ABSENT,)), Delete(ticket_key)])
        return None

    def _remove(self, first: _First, now: float) -> None:
        """Remove the slot of an owner that has ended, or is parked or paused. Its visits ask again.

        Not all visits of a paused run may be parked yet, so those that are suspended for the slot become due.
        A run that is unpaused meanwhile may have been suspended for the slot again, so it keeps the slot.
        """
        slot, head = first.slot, first.head
        writes = [*revoking_writes(slot, first.item.get("sleepers")), leaving_write(first.flow, 1)]
        writes.append(returning_update(slot.gate, [slot], now))
        if head is None or has_ended(head):
            self._context.table.write(writes)
            return
        if is_paused(head):
            writes.append(ConditionCheck(keys.head(slot.owner.run_id), (("held", "present", None),)))
        self._wake_and_write(writes, first, head, now)

    def _hold(self, granting: Sequence[Write], first: _First, now: float) -> None:
        """Write a grant, with the visits that it makes due, and announce them.

        Raises:
            ConditionFailed: what was read has changed.
        """
        assert first.head is not None
        self._wake_and_write(granting, first, first.head, now)

    def _wake_and_write(self, changes: Sequence[Write], first: _First, head: Item, now: float) -> None:
        """Write changes of a slot that waited, with the visits that they make due, and announce these.

        The changes require the number of visits that are suspended for the slot as it was read.

        Raises:
            ConditionFailed: what was read has changed.
        """
        writes, visit = [*changes], first.visit
        suspended = list[Item]()
        if not first.slot.owner.visit_id:
            suspended = find_sleepers(self._context, head) if "sleepers" in first.item else []
        elif visit is not None and visit["status"] in (VisitStatus.WAITING, VisitStatus.PARKED):
            suspended = [visit]
        elif visit is not None:
            unchanged = (("status", "=", visit["status"]), ("fence", "absent or =", visit["fence"]))
            writes.append(ConditionCheck(keys.ItemKey(visit["pk"], visit["sk"]), unchanged))
        updates = [self._wakeups.due_update(head, item, now) for item in suspended]
        for update in updates[MAX_WOKEN:]:
            with suppress(ConditionFailed):  # it has been claimed since, and asks again
                self._context.table.update(update)
        self._context.table.write([*writes, *updates[:MAX_WOKEN]])
        # A worker that claimed a visit earlier would suspend it again.
        for item in suspended:
            self._wakeups.announce_due(head, item, now)


def find_sleepers(context: DynamoContext, head: Item) -> list[Item]:
    """Return the visits of a run that are suspended until they or the run have their slots."""
    run_id = run_id_of(head)
    pages = context.in_parallel(
        lambda number: list(
            context.table.query(keys.partition_key(run_id, number), "V#", where=("queued", True))
        ),
        range(spread_of(head)),
    )
    return [item for page in pages for item in page if item["status"] == VisitStatus.WAITING]


def _may_hold(first: _First) -> bool:
    """Return whether the owner of a slot exists, has not ended, and is neither paused nor parked."""
    if first.head is None or has_ended(first.head) or is_paused(first.head):
        return False
    if not first.slot.owner.visit_id:
        return True
    return first.visit is not None and first.visit["status"] in ACTIVE
