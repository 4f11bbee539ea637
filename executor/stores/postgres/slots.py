"""Slots in the commit of a step of a chain: its visit gives slots back, and the next visit takes its own.

Problem: a transaction of its own for the slots of a step costs more than the rest of a small step. So does
each result for which the client waits.

Algorithm: the statement of the commit gives back at most one slot and takes at most one. No process has read
the gates. So it writes what `gates.give_back` and `gates.admit` decide as conditions. A visit that finds no
free unit, or others that wait, gets no slot here. It asks after its claim. Gates are locked in the order of
their keys: the query that must run first is one on whose result the other depends. At one gate, the slot gets
another owner, and the gate is not written.

Statements for several slots follow the commit in one pipeline, which is one transaction.

Cost: no round trip. A pipeline has a statement for each slot that is given back or requested. If others wait
for a slot that was to be passed on, the statement has changed nothing, and the pipeline follows.

Limits: those of `PostgresQueue`: other commits decide in Python, between several round trips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noetl.executor.model.gates import GateKey, Slot, SlotOwner, SlotRequest, held_slot
from noetl.executor.model.run import Commit, CommitResult, Visit
from noetl.executor.stores.sql.rows import encode_json_or_null
from noetl.planner.frozen import frozen, replace

Row = Mapping[str, Any]

_TAKEN = ("gate_id", "gate_tenant", "name", "value", "size", "units", "flow", "rank", "held_at")
"""The values of `{taken}`."""


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
        given_back = [_give_back(slot.gate, commit.visit) for slot in commit.held_slots]
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


@frozen
class SlotChange:
    """The slot that a commit gives back, and the one that its next visit takes. Each may be missing.

    Both are parts of the statement of the commit.
    """

    given_back: GateKey | None
    request: SlotRequest | None
    taken: Slot | None

    @classmethod
    def find(cls, commit: Commit, following: Visit, now: float) -> SlotChange | None:
        """Return the change of a commit, or None if it has several slots of one kind."""
        requests = commit.requests if following.worker is not None else ()
        if len(commit.held_slots) > 1 or len(requests) > 1:
            return None
        request = requests[0] if requests else None
        owner = SlotOwner(following.run_id, following.id)
        taken = None if request is None else held_slot(request, owner, now)
        return cls(commit.held_slots[0].gate if commit.held_slots else None, request, taken)

    @property
    def is_passing(self) -> bool:
        """True if the next visit may take the slot of the committed one over."""
        return self.request is not None and self.request.gate == self.given_back

    @property
    def query(self) -> str:
        """The statement of the commit, which locks gates in the order of their keys."""
        if self.is_passing:
            return "queue.commit_step_passing"
        is_taken_first = self.given_back and self.request and self.request.gate < self.given_back
        return "queue.commit_step_taking_first" if is_taken_first else "queue.commit_step_giving_first"

    @property
    def values(self) -> dict[str, Any]:
        """The values of the statement for slots."""
        values = _values_of_taken(self.request, self.taken)
        if self.is_passing:
            del values["name"], values["value"]
            return values
        return values | _key_of_given(self.given_back)

    def add_to(self, result: CommitResult, row: Row) -> CommitResult:
        """Return the result of the commit with what its row says about slots."""
        if self.is_passing:
            return replace(result, slots=() if self.taken is None else (self.taken,))
        slots = (
            ()
            if self.taken is None or row["taken_units"] is None
            else (replace(self.taken, units=row["taken_units"]),)
        )
        freed = (self.given_back,) if self.given_back is not None and row["may_grant"] else ()
        return replace(result, slots=slots, freed=freed)


def _give_back(gate: GateKey, visit: Visit) -> _GateStatement:
    """Return the statement that gives a slot of a visit back if the visit has ended."""
    owner = {"run_id": visit.run_id, "visit_id": visit.id, "fence": visit.fence}
    return _GateStatement(gate, "gates.give_back", {**_key_of_given(gate), **owner})


def _take(requests: Sequence[SlotRequest], visit: Visit, now: float) -> Iterator[_GateStatement]:
    """Yield the statements by which a claimed visit takes slots, each after those before it."""
    owner = {"run_id": visit.run_id, "visit_id": visit.id, "next_visit_id": visit.id, "fence": visit.fence}
    for number, request in enumerate(requests):
        slot = held_slot(request, SlotOwner(visit.run_id, visit.id), now)
        values = {**_values_of_taken(request, slot), **owner, "taken_before": number}
        yield _GateStatement(request.gate, "gates.take_units", values, slot)


def _key_of_given(gate: GateKey | None) -> dict[str, Any]:
    """Return the values of `{given_back}`, which changes nothing without a gate."""
    return {
        "held_id": None if gate is None else gate.id,
        "held_tenant": None if gate is None else gate.tenant,
    }


def _values_of_taken(request: SlotRequest | None, slot: Slot | None) -> dict[str, Any]:
    """Return the values of `{taken}`, which changes nothing without a request."""
    if request is None or slot is None:
        return dict.fromkeys(_TAKEN)
    taken = (
        slot.gate.id,
        slot.gate.tenant,
        request.limit,
        encode_json_or_null(request.value),
        request.size,
        slot.units,
        slot.flow,
        slot.rank,
        slot.held_at,
    )
    return dict(zip(_TAKEN, taken, strict=True))
