"""Consistency checks of gates and slots.

Problem: gates and slots are not read as of one moment, and they change all the time.

Algorithm: a scan names all gates and slots. They are read again by their keys, with the slots that the lists
of a gate name. A difference that each of several reads shows is reported.

Cost: a read of each gate, of its flows, of each slot, and of its run and its visit. More reads only after a
difference.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence

from noetl.executor.model.gates import RATE_SUFFIX, Gate, GateKey, Slot
from noetl.executor.model.visit_states import ACTIVE
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.gate_items import decode_gate, decode_slot
from noetl.executor.stores.dynamo.gate_lists import list_flows, list_slots
from noetl.executor.stores.dynamo.run_items import has_ended, run_id_of, spread_of
from noetl.executor.stores.finding import Finding, find_wrong_flows, finding_of_gate, finding_of_run

_PAGE = 1000

Differences = Mapping[Hashable, Finding]
"""Findings by what must be the same in each read."""


def find_gate_differences(
    context: DynamoContext, gates: Collection[GateKey], slot_keys: Collection[keys.ItemKey]
) -> Differences:
    """Return the findings about gates and slots that a scan has named."""
    found: dict[Hashable, Finding] = {}
    slots = _read_slots(context, slot_keys)
    by_gate: dict[GateKey, set[keys.ItemKey]] = {key: set() for key in gates}
    for key, slot in slots.items():
        by_gate.setdefault(slot.gate, set()).add(key)
    lost = set()
    for gate_key, scanned in sorted(by_gate.items()):
        item = context.table.get(keys.gate(gate_key))
        if item is None and gate_key.id.endswith(RATE_SUFFIX):
            continue  # the gate of a rate may expire before a run of months gives its slot back
        if item is None:
            lost.add(gate_key)
        else:
            found |= _check_gate(context, decode_gate(item), scanned)
    # A slot that is removed leaves its gate in the same transaction, so slots are read again after gates.
    again = _read_slots(context, [key for key, slot in slots.items() if slot.gate in lost])
    for key, slot in again.items():
        found[key] = finding_of_run("unknown gates", slot.owner.run_id, gate=slot.gate.id)
    known = {key: slot for key, slot in slots.items() if slot.gate not in lost}
    return {**found, **_check_owners(context, known)}


def _read_slots(context: DynamoContext, slot_keys: Collection[keys.ItemKey]) -> dict[keys.ItemKey, Slot]:
    items = context.table.get_many(list(slot_keys))
    return {key: decode_slot(item, key.pk[2:]) for key, item in items.items() if "at" in item}


def _check_gate(context: DynamoContext, gate: Gate, scanned: Collection[keys.ItemKey]) -> Differences:
    """Compare the numbers of a gate with its slots: those of a scan, and those of its lists."""
    slots, cursor = list_slots(context.table, gate.key, limit=_PAGE, cursor=None)
    while cursor is not None:
        page, cursor = list_slots(context.table, gate.key, limit=_PAGE, cursor=cursor)
        slots += page
    listed = {keys.slot(slot.gate, slot.owner): slot for slot in slots}
    current = [
        *listed.values(),
        *_read_slots(context, [key for key in scanned if key not in listed]).values(),
    ]
    units = sum(slot.units for slot in current if slot.is_held)
    queued = sum(not slot.is_held for slot in current)
    if (gate.held, gate.waiting) == (units, queued):
        findings = find_wrong_flows(gate.limit, list_flows(context.table, gate.key), current)
        return {(gate.key, finding.message): finding for finding in findings}
    numbers = {"held": gate.held, "waiting": gate.waiting, "units": units, "queued": queued}
    return {(gate.key, units - gate.held, queued - gate.waiting): finding_of_gate(gate.limit, **numbers)}


def _check_owners(context: DynamoContext, slots: Mapping[keys.ItemKey, Slot]) -> Differences:
    """Return findings about slots whose run has ended, or whose visit is not active."""
    table = context.table
    run_ids = sorted({slot.owner.run_id for slot in slots.values()})
    heads = {
        run_id_of(head): head for head in table.get_many([keys.head(run_id) for run_id in run_ids]).values()
    }
    visit_keys = {
        key: keys.visit(*slot.owner, spread_of(heads[slot.owner.run_id]))
        for key, slot in slots.items()
        if slot.owner.visit_id and slot.owner.run_id in heads
    }
    visits = table.get_many(list(visit_keys.values()))
    found: dict[Hashable, Finding] = {}
    for key, slot in slots.items():
        run_id = slot.owner.run_id
        visit: Item = visits.get(visit_keys[key], {}) if key in visit_keys else {}
        if run_id not in heads:
            continue
        if has_ended(heads[run_id]):
            found[key] = finding_of_run("slots of ended runs", run_id, limit=slot.limit)
        elif slot.owner.visit_id and visit.get("status") not in ACTIVE:
            found[key] = finding_of_run("slots of visits", run_id, limit=slot.limit)
    return found


def confirmed_findings(reads: Sequence[Differences]) -> list[Finding]:
    """Return the findings of the last read that all reads have shown."""
    *earlier, last = reads
    return [finding for key, finding in last.items() if all(key in read for read in earlier)]
