"""The return of slots, with the write that ends, suspends or parks their owner.

Problem: a commit must give back the slots of its visit, and must not fail because other workers change the
gate at the same time. A slot that waits may be granted meanwhile.

Algorithm: commutative updates (Weikum 1988). A gate to which slots are given back is changed by arithmetic
without a condition, so its state need not be read. The deletion of a slot requires that it still waits, or
is held since the time that was read. If it is refused, the slots are read again. A playbook's own gate with
one slot is deleted with it.

Cost: one query for each write. A slot that is held adds two items to the transaction. One that waits adds
four, and its flow is read.

Limits: a gate that several owners have left at the same time may stay without slots. Readers treat it as
absent, and the next `grant` deletes it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import StoreError
from noetl.executor.model.flows import Flow
from noetl.executor.model.gates import GateKey, Slot
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.expressions import Condition, ConditionCheck, Update, Write
from noetl.executor.stores.dynamo.gate_items import (
    IS_WAITING,
    decode_flow,
    decode_slot,
    leaving_write,
    removing_gate,
    removing_writes,
    returning_update,
)
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS, DynamoTable

MAX_RETURNED = 20
"""Number of slots that one transaction gives back. It has up to four writes for each, and others."""


def has_slots(head: Item) -> bool:
    """Return whether a run or one of its visits has ever had a slot."""
    return "slots" in head


def mark_slots(run_id: str) -> Update:
    """Return the write by which the head of a run says that it has slots."""
    is_open: tuple[Condition, ...] = (("pk", "present", None), ("finished", "absent", None))
    return Update(keys.head(run_id), {"slots": True}, when=is_open)


def read_slot_items(table: DynamoTable, run_id: str, visit_id: str | None = None) -> list[Item]:
    """Return the items of the slots of a run and its visits, or those of one visit."""
    return list(table.query(keys.partition_key(run_id), keys.slot_prefix(visit_id)))


class SlotReturns:
    """The slots of a run, or of one visit, that a transaction gives back: all, or those that wait."""

    def __init__(
        self, table: DynamoTable, run_id: str, visit_id: str | None = None, *, only_waiting: bool = False
    ) -> None:
        self._table = table
        self._run_id = run_id
        self._visit_id = visit_id
        self._only_waiting = only_waiting
        self._shared: set[keys.ItemKey] = set()
        self._lost: set[keys.ItemKey] = set()
        self._items: list[Item] = []
        self._flows: dict[keys.ItemKey, Flow] = {}
        self._read()

    @property
    def slots(self) -> list[Slot]:
        """The slots as they were read, those of the run last."""
        slots = [decode_slot(item, self._run_id) for item in self._items]
        return sorted(slots, key=lambda slot: (not slot.owner.visit_id, slot.owner, slot.gate))

    @property
    def freed(self) -> tuple[GateKey, ...]:
        """The gates at which others may wait: those that are not removed with their only slot."""
        return tuple(sorted(self._find_freed(self.slots)))

    def writes(self, now: float) -> list[Write]:
        """Return the writes that give back all slots."""
        return self._writes_of(self.slots, now)

    def give_back_early(self, guard: ConditionCheck, now: float) -> set[GateKey]:
        """Give back so many slots that one transaction can give back the rest.

        Return the gates of those that were given back, at which others may wait.

        Raises:
            ConditionFailed: that of the guard does not hold.
        """
        freed = set[GateKey]()
        while len(slots := self.slots[:MAX_RETURNED]) < len(self.slots):
            writes = [guard, *self._writes_of(slots, now)]
            try:
                self._table.write(writes)
            except ConditionFailed as refusal:
                if refusal.failed[0]:
                    raise
                self.learn(writes, refusal)
            else:
                freed |= self._find_freed(slots)
                self._read()
        return freed

    def learn(self, writes: Sequence[Write], refusal: ConditionFailed) -> None:
        """Read the slots again after a refusal. A gate that others use, too, is not deleted any more."""
        for write, failed, item in zip(writes, refusal.failed, refusal.items, strict=False):
            if failed:
                (self._shared if item is not None else self._lost).add(write.key)
        self._read()

    def _read(self) -> None:
        items = read_slot_items(self._table, self._run_id, self._visit_id)
        self._items = [item for item in items if not (self._only_waiting and "held" in item)]
        waiting = (slot for slot in self.slots if not slot.is_held)
        flows = {keys.flow(slot.gate, slot.flow): slot.gate for slot in waiting}
        read = self._table.get_many([*flows]) if flows else {}
        self._flows = {key: decode_flow(item, flows[key]) for key, item in read.items()}

    def _writes_of(self, slots: Sequence[Slot], now: float) -> list[Write]:
        writes = [write for slot in slots for write in removing_writes(slot)]
        left = Counter(keys.flow(slot.gate, slot.flow) for slot in slots if not slot.is_held)
        writes += [leaving_write(self._flows[key], left[key]) for key in self._flows if left[key]]
        for gate, returned in sorted(_group_by_gate(slots).items()):
            if keys.gate(gate) in self._lost:
                continue
            if self._is_removed(gate, returned):
                writes.append(removing_gate(returned[0]))
            else:
                writes.append(returning_update(gate, returned, now))
        return writes

    def _find_freed(self, slots: Sequence[Slot]) -> set[GateKey]:
        """Return the gates of slots that are not removed with them."""
        by_gate = _group_by_gate(slots)
        return {gate for gate, returned in by_gate.items() if not self._is_removed(gate, returned)}

    def _is_removed(self, gate: GateKey, returned: Sequence[Slot]) -> bool:
        """Return whether a gate is removed with the slots that are given back there, as no other has one."""
        is_only = any("only" in item and GateKey(*item["at"]) == gate for item in self._items)
        is_shared = keys.gate(gate) in self._shared
        return is_only and len(returned) == 1 and returned[0].is_held and not is_shared


def _group_by_gate(slots: Sequence[Slot]) -> dict[GateKey, list[Slot]]:
    by_gate: dict[GateKey, list[Slot]] = {}
    for slot in slots:
        by_gate.setdefault(slot.gate, []).append(slot)
    return by_gate


class QueuedSuspension:
    """The slots for which a visit is suspended: its own, or those of its run, whose owner is empty."""

    def __init__(self, table: DynamoTable, run_id: str, *owners: str) -> None:
        self._table = table
        self._run_id = run_id
        self._owners = owners
        self._items = self._read()

    @property
    def is_queued(self) -> bool:
        """True if a slot waits. Otherwise the visit is due at once."""
        return bool(self._items)

    def writes(self) -> list[Write]:
        """Return the writes that require that the slots still wait.

        That of the run counts the suspended visit, so it is not granted before the visit is seen.
        """
        return [self._write(item) for item in self._items]

    def read_again(self) -> None:
        """Read the slots after a refusal."""
        self._items = self._read()

    def _write(self, item: Item) -> Write:
        key = keys.ItemKey(item["pk"], item["sk"])
        if item["sk"].startswith(keys.slot_prefix("")):
            return Update(key, add={"sleepers": 1}, when=IS_WAITING)
        return ConditionCheck(key, IS_WAITING)

    def _read(self) -> list[Item]:
        items = [item for owner in self._owners for item in read_slot_items(self._table, self._run_id, owner)]
        return [item for item in items if "held" not in item]


def write_returning(table: DynamoTable, writes: Sequence[Write], returns: SlotReturns, now: float) -> None:
    """Write, and give back slots in the same transaction.

    Raises:
        ConditionFailed: one of `writes` is refused.
    """
    for tries in range(MAX_CONFLICTS):
        all_writes = [*writes, *returns.writes(now)]
        try:
            table.write(all_writes)
        except ConditionFailed as refusal:
            if any(refusal.failed[: len(writes)]):
                raise
            returns.learn(all_writes, refusal)
            time.sleep(pause_seconds(min(tries, 4)))
        else:
            return
    raise StoreError("Slots could not be given back: too many concurrent writers.")
