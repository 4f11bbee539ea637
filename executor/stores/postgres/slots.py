"""Slots in the commit of a step of a chain: its visit gives slots back, and the next visit takes its own.

Problem: a transaction of its own for the slots of a step costs more than the rest of a small step. So does
each result for which the client waits.

Algorithm: statements that need no result of each other follow the commit of the step in one pipeline, which
is one transaction. Each names its gate, so gates are locked in the order of their keys. No process has read
the gates. So the statements write what `gates.give_back` and `gates.admit` decide as conditions. A visit that
finds no free unit, or others that wait, gets no slot here. It asks after its claim.

Cost: a statement for each slot that is given back or requested. No round trip.

Limits: those of `PostgresQueue`: other commits decide in Python, between several round trips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noetl.executor.model.gates import Gate, GateKey, Slot, SlotOwner, SlotRequest, admit
from noetl.executor.model.run import Commit, CommitResult, Visit
from noetl.executor.stores.sql.rows import encode_json_or_null
from noetl.executor.stores.sql.slots import slot_values
from noetl.planner.frozen import frozen, replace

Row = Mapping[str, Any]


@frozen
class _GateStatement:
    """A statement that gives back at a gate, or takes a slot there if it has one."""

    gate: GateKey
    query: str
    values: Mapping[str, Any]
    slot: Slot | None = None


class SlotStatements:
    """The statements for the slots of a commit. `following` is the visit that it enters.

    They change nothing if the commit before them has changed nothing.
    """

    def __init__(self, commit: Commit, following: Visit, now: float) -> None:
        given_back = [_give_back(gate, commit.visit) for gate in commit.held_gates]
        taken = _take(commit.requests, following, now) if following.worker is not None else ()
        # A gate at which both happen is in the list in this order.
        self._parts = sorted([*given_back, *taken], key=lambda part: part.gate)

    @property
    def statements(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The statements and their values."""
        return [(part.query, part.values) for part in self._parts]

    def add_to(self, result: CommitResult, rows: Sequence[Row | None]) -> CommitResult:
        """Return the result of the commit with the slots that the rows of the statements say."""
        slots, freed = list[Slot](), list[GateKey]()
        for part, row in zip(self._parts, rows, strict=True):
            if row is None:
                continue
            if part.slot is not None:
                slots.append(replace(part.slot, units=row["units"]))
            elif row["may_grant"]:
                freed.append(part.gate)
        return replace(result, slots=tuple(slots), freed=tuple(freed))


def _give_back(gate: GateKey, visit: Visit) -> _GateStatement:
    """Return the statement that gives a slot of a visit back if the visit has ended."""
    owner = {"run_id": visit.run_id, "visit_id": visit.id, "fence": visit.fence}
    return _GateStatement(gate, "gates.give_back", {"gate_id": gate.id, "gate_tenant": gate.tenant, **owner})


def _take(requests: Sequence[SlotRequest], visit: Visit, now: float) -> Iterator[_GateStatement]:
    """Yield the statements by which a claimed visit takes slots, each after those before it."""
    for number, request in enumerate(requests):
        is_own = request.size is not None
        empty = Gate(request.gate, request.limit, request.size or request.units, request.value)
        gate, slot = admit(empty, SlotOwner(visit.run_id, visit.id), request, now)
        assert slot is not None
        values = {**slot_values(slot), "fence": visit.fence, "taken_before": number}
        if is_own:
            value = encode_json_or_null(gate.value)
            values |= {"name": gate.limit, "value": value, "size": gate.units, "edition": gate.edition}
        yield _GateStatement(gate.key, "gates.take_own" if is_own else "gates.take_named", values, slot)
