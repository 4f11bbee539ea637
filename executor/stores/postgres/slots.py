"""Slots in the commit of a step of a chain: its visit gives slots back, and the next visit takes its own.

Problem: a transaction of its own for the slots of a step costs more than the rest of a small step. So does
each result for which the client waits.

Algorithm: the statement of the commit gives back at most one slot and takes at most one. No process has read
the gates. So it writes what `gates.give_back` and `gates.admit` decide as conditions. A visit that finds no
free unit, or others that wait, gets no slot here. It asks after its claim. Gates are locked in the order of
their keys: the query that must run first is one on whose result the other depends. At one gate, the slot gets
another owner, and the gate is not written.

There is a statement for each kind and order of the two gates, composed of fragments. A gate of an own limit
that is not used any more stays until a sweep, and readers do not see it. So a gate changes by one update, and
no index has what it changes. The server prepares all parts of a statement, also those that change nothing.

At a rate, the statement writes the log of reservations as `rate_gates.reserve` does, if the unit can be taken
now. It leaves a log that is newer than the commit to Python.

Statements for several slots follow the commit in one pipeline, which is one transaction.

A fork and the end of a branch are committed by a transaction of several statements. One of them moves a slot
from a gate to another one (`move_slot`). It has the same fragments as a commit.

Cost: no round trip for a step of a chain, and one for a slot that moves. A pipeline has a statement for each
slot that is given back or requested. If others wait for a slot that was to be passed on, the statement has
changed nothing, and the pipeline follows.

Limits: those of `PostgresQueue`: other commits decide in Python, between several round trips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noetl.executor.model.gates import (
    OWN_PREFIX,
    GateKey,
    Slot,
    SlotOwner,
    SlotRequest,
    held_slot,
)
from noetl.executor.model.rates import MAX_ENTRIES, merged_since
from noetl.executor.model.run import Commit, CommitResult, Visit
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.rows import encode_json_or_null
from noetl.executor.stores.sql.slots import SlotExchange
from noetl.executor.stores.sql.slots import move_slot as move_in_order
from noetl.planner.frozen import frozen, replace

Row = Mapping[str, Any]

_STEP = "locked as ({lock_unstopped}), {committed_step}"
_MOVED = "entered as ({moved_slot})"
_GIVEN = "given"


def _compose(begin: str, columns: str, changes: Sequence[str]) -> str:
    """Return a statement that changes one gate or two, in their order, from its fragments.

    >>> print(_compose(_STEP, "{entered_columns}", ["taken_named", "given"]))
    with locked as ({lock_unstopped}), {committed_step},
    {taking_first}, {taken_named}, {deleted_slot}, {giving_last}, {given}, {added_slot}
    select {entered_columns}, (select taken_units from taken_gate) as taken_units,
    (select may_grant from given) as may_grant from entered
    """
    parts, results = list[str](), list[str]()
    for change, place in zip(changes, ("first", "last"), strict=False):
        if change == _GIVEN:
            parts += ["{deleted_slot}", f"{{giving_{place}}}", f"{{{change}}}"]
        else:
            parts += [f"{{taking_{place}}}", f"{{{change}}}"]
    if any(change.startswith("taken") for change in changes):
        parts.append("{added_slot}")
        results.append("(select taken_units from taken_gate) as taken_units")
    if _GIVEN in changes:
        results.append("(select may_grant from given) as may_grant")
    return f"with {begin},\n{', '.join(parts)}\nselect {columns}, {f',{chr(10)}'.join(results)} from entered"


_TAKEN = ("taken_own", "taken_named", "taken_own_rate", "taken_named_rate")

_PAIRS = tuple(pair for taken in _TAKEN for pair in ((_GIVEN, taken), (taken, _GIVEN)))

COMMITS: Mapping[tuple[str, ...], str] = {
    changes: _compose(_STEP, "{entered_columns}", changes)
    for changes in ((_GIVEN,), *((taken,) for taken in _TAKEN), *_PAIRS)
}
"""Statements of commits that change one gate or two, by what they do in the order of the gates."""

MOVES: Mapping[tuple[str, ...], str] = {
    changes: _compose(_MOVED, "count(*) as entered", changes) for changes in _PAIRS
}
"""Statements that move a slot from one gate to another, by what they do in the order of the gates."""

_TAKING = {
    "taken_own": "gates.take_own",
    "taken_named": "gates.take_named",
    "taken_own_rate": "gates.take_own_rate",
    "taken_named_rate": "gates.take_named_rate",
}
"""Statements that take a slot behind that of a commit."""

_ACQUIRING = {
    "taken_own": "gates.acquire_own",
    "taken_named": "gates.acquire_named",
    "taken_own_rate": "gates.acquire_own_rate",
    "taken_named_rate": "gates.acquire_named_rate",
}
"""Statements by which the owner of a claimed visit gets a slot."""


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

    held: Slot | None
    request: SlotRequest | None
    taken: Slot | None

    @classmethod
    def find(cls, commit: Commit, following: Visit, now: float) -> SlotChange | None:
        """Return the change of a commit, or None if it has several slots of one kind.

        It is None, too, if the commit takes a unit of the rate at which it gives a slot back.
        """
        requests = commit.requests if following.worker is not None else ()
        if len(commit.held_slots) > 1 or len(requests) > 1:
            return None
        held = commit.held_slots[0] if commit.held_slots else None
        if not requests:
            return cls(held, None, None)
        (request,) = requests
        if request.is_rate and held is not None and held.gate == request.gate:
            return None
        return cls(held, request, held_slot(request, SlotOwner(following.run_id, following.id), now))

    @property
    def is_passing(self) -> bool:
        """True if the next visit may take the slot of the committed one over."""
        return self.request is not None and self.held is not None and self.request.gate == self.held.gate

    @property
    def query(self) -> str:
        """The statement of the commit, which locks gates in the order of their keys."""
        if self.is_passing:
            return "queue.commit_step_passing"
        return COMMITS[self.changes] if self.changes else "queue.commit_step"

    @property
    def changes(self) -> tuple[str, ...]:
        """The changes of the statement at its gates, in their order."""
        changes = list[tuple[GateKey, str]]()
        if self.held is not None:
            changes.append((self.held.gate, _GIVEN))
        if self.request is not None:
            changes.append((self.request.gate, _name_taking(self.request)))
        return tuple(name for _, name in sorted(changes))

    @property
    def values(self) -> dict[str, Any]:
        """The values of the statement for slots."""
        values: dict[str, Any] = {}
        if self.held is not None and not self.is_passing:
            values = _key_of_given(self.held.gate)
        if self.request is not None and self.taken is not None:
            if not self.is_passing:
                return values | values_of_taken(self.request, self.taken)
            values = _values_of_gate(self.request, self.taken)
            del values["name"], values["value"]
        return values

    def add_to(self, result: CommitResult, row: Row) -> CommitResult:
        """Return the result of the commit with what its row says about slots."""
        if self.taken is None:
            slots: tuple[Slot, ...] = ()
        elif self.is_passing or row["taken_units"] == self.taken.units:
            slots = (self.taken,)
        else:
            units = row["taken_units"]
            slots = () if units is None else (replace(self.taken, units=units),)
        has_freed = self.held is not None and not self.is_passing and row["may_grant"]
        return replace(result, slots=slots, freed=(self.held.gate,) if self.held and has_freed else ())


def move_slot(
    db: Writer, commit: Commit, owner: SlotOwner, request: SlotRequest, now: float
) -> SlotExchange | None:
    """Return the exchange of a commit with one slot and one request, as `sql.slots.move_slot` does.

    One statement changes both gates. The transaction must have locked the run.
    """
    (held,) = commit.held_slots
    if held.gate == request.gate:
        return move_in_order(db, commit, owner, request, now)
    change = SlotChange(held, request, held_slot(request, owner, now))
    key = {"run_id": owner.run_id, "visit_id": commit.visit.id, "next_visit_id": owner.visit_id}
    row = db.execute(MOVES[change.changes], held_units=held.units, **key, **change.values).fetchone()
    if row is None or not row["entered"]:
        return None
    result = change.add_to(CommitResult(), row)
    return SlotExchange(result.slots, result.freed)


class AcquiringStatement:
    """The statement by which an owner gets one slot at once, while the claim of a visit is held.

    Its transaction must have locked the run.
    """

    def __init__(self, claimed: Visit, owner: SlotOwner, request: SlotRequest, now: float) -> None:
        self._claimed = claimed
        self._owner = owner
        self._request = request
        self._slot = held_slot(request, owner, now)

    @property
    def statement(self) -> tuple[str, Mapping[str, Any]]:
        """The statement and its values."""
        visit = self._claimed
        key = {"run_id": visit.run_id, "visit_id": visit.id, "fence": visit.fence}
        values = values_of_taken(self._request, self._slot)
        query = _ACQUIRING[_name_taking(self._request)]
        return query, {**values, **key, "next_visit_id": self._owner.visit_id}

    def slot(self, row: Row | None) -> Slot | None:
        """Return the slot of the row of the statement. None means that the owner must ask for it."""
        return None if row is None else replace(self._slot, **row)


def _is_own(gate: GateKey) -> bool:
    """Return whether a gate is that of a playbook's or a step's own limit."""
    return gate.id.startswith(OWN_PREFIX)


def _name_taking(request: SlotRequest) -> str:
    """Return which fragment takes what is requested."""
    return f"taken_{'own' if _is_own(request.gate) else 'named'}{'_rate' if request.is_rate else ''}"


def _give_back(gate: GateKey, visit: Visit) -> _GateStatement:
    """Return the statement that gives a slot of a visit back if the visit has ended."""
    owner = {"run_id": visit.run_id, "visit_id": visit.id, "fence": visit.fence}
    return _GateStatement(gate, "gates.give", {**_key_of_given(gate), **owner})


def _take(requests: Sequence[SlotRequest], visit: Visit, now: float) -> Iterator[_GateStatement]:
    """Yield the statements by which a claimed visit takes slots, each after those before it."""
    owner = {"run_id": visit.run_id, "visit_id": visit.id, "next_visit_id": visit.id, "fence": visit.fence}
    for number, request in enumerate(requests):
        slot = held_slot(request, SlotOwner(visit.run_id, visit.id), now)
        values = {**values_of_taken(request, slot), **owner, "taken_before": number}
        yield _GateStatement(request.gate, _TAKING[_name_taking(request)], values, slot)


def _key_of_given(gate: GateKey) -> dict[str, Any]:
    """Return the gate at which a slot is given back."""
    return {"held_id": gate.id, "held_tenant": gate.tenant}


def values_of_taken(request: SlotRequest, slot: Slot) -> dict[str, Any]:
    """Return the values of `{taken_own}` or `{taken_named}` or those of rates, and of `{added_slot}`."""
    values = _values_of_gate(request, slot)
    if request.is_rate:
        values |= _values_of_rate(request, slot)
    if not _is_own(request.gate):
        del values["name"], values["value"], values["size"]
    return values


def _values_of_rate(request: SlotRequest, slot: Slot) -> dict[str, Any]:
    """Return the log of a rate, with one reservation, in parts. An operator's rate has its own window."""
    now = slot.held_at
    assert now is not None
    log_end = f"[{now!r},"
    if request.per is None:
        return {"log_begin": f",{now!r},[", "log_end": log_end, "exact": MAX_ENTRIES}
    assert request.size is not None
    per = float(request.per)
    return {
        "log_begin": f"[{per!r},{now!r},[",
        "log_end": log_end,
        "per": per,
        "idle_at": now + per,
        "since": merged_since(request.size, per, now),
    }


def _values_of_gate(request: SlotRequest, slot: Slot) -> dict[str, Any]:
    """Return the values of the gate at which a slot is taken, and of the slot."""
    return {
        "gate_id": slot.gate.id,
        "gate_tenant": slot.gate.tenant,
        "name": request.limit,
        "value": encode_json_or_null(request.value),
        "size": request.size,
        "units": slot.units,
        "flow": slot.flow,
        "rank": slot.rank,
        "held_at": slot.held_at,
    }
