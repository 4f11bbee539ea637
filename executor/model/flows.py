"""Flows: which of the slots that wait at a gate is granted next, and how many are granted before another.

Problem: an owner of 10,000 runs must not delay the next run of another owner by all of them. Some runs are
more urgent than others. A grant must not read the whole queue.

Algorithm: start-time fair queueing (Goyal, Vin and Cheng 1996), simplified. A flow is the slots with one
value of `fair` that wait at a gate. It has a tag, and the gate has a clock. A flow without waiting slots
joins one behind the clock. The flow with the lowest tag is served. The clock becomes its tag, and its tag
grows by the units that it gets. In a flow, the slot with the lowest rank is first. The rank is a time: each
priority is worth `SECONDS_PER_PRIORITY`.

| call | what it decides |
| --- | --- |
| `join_flow` | one more slot waits in a flow |
| `leave_flow` | a slot of a flow does not wait any more |
| `first_flow` | the flow that is served next |
| `serve_flow` | the first slot of that flow holds its units |

All functions are pure. A flow changes only with its gate, in one transaction.

Cost: a grant reads one slot, and the flows that wait or the first of an index. A slot that holds its units at
once touches no flow.

Limits: a flow whose last slot is granted is forgotten. If it comes back, each other flow is served at most
twice before it. A flow that is served with several units waits longer for the next, and the others wait for
all of these units.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from noetl.executor.model.gates import Gate, GateKey, Slot, grant
from noetl.executor.model.ids import derived_id
from noetl.planner.frozen import frozen, replace

SECONDS_PER_PRIORITY = 60.0
"""How much later a slot may come for each priority that it has more, and still be granted first."""

FIRST_RANK = 0.0
"""The rank of slots of finally steps, which are before all others of their flow."""

_MAX_NAME_BYTES = 200
_SHOWN_CHARACTERS = 40


@frozen
class Flow:
    """The slots that wait at a gate and have one value of `fair`.

    `tag` orders the flows of a gate: the lowest is served next. `waiting` is the number of its slots.
    """

    gate: GateKey
    name: str
    tag: int
    waiting: int


def flow_name(text: str) -> str:
    """Return the name of the flow of a text: the text, or a short form if it is long or not printable.

    Stores order flows by this name, and have it in keys.

    >>> flow_name("acme"), flow_name("x" * 201).startswith("xxx"), len(flow_name("x" * 201)) < 100
    ('acme', True, True)
    """
    if text.isprintable() and len(text.encode()) <= _MAX_NAME_BYTES:
        return text
    shown = "".join(filter(str.isprintable, text))[:_SHOWN_CHARACTERS]
    return f"{shown}~{derived_id('flow', text)}"


def rank_of(queued_at: float, priority: float) -> float:
    """Return the rank of a slot that came at a time: the lowest rank of a flow is granted first.

    >>> rank_of(3600.0, 10), rank_of(3600.0, 0), rank_of(3600.0, -10)
    (3000.0, 3600.0, 4200.0)
    """
    return queued_at - SECONDS_PER_PRIORITY * priority


def priority_of(queued_at: float, rank: float) -> float | None:
    """Return the priority with which a slot was queued, or None for a slot of a finally step.

    >>> priority_of(3600.0, 3300.0), priority_of(3600.0, FIRST_RANK)
    (5.0, None)
    """
    if rank == FIRST_RANK:
        return None
    return round((queued_at - rank) / SECONDS_PER_PRIORITY, 3) + 0.0


def join_flow(gate: Gate, flow: Flow | None, slot: Slot) -> Flow:
    """Return the flow of a slot that waits at a gate. `flow` is None if no other slot of it waits."""
    if flow is None:
        return Flow(gate.key, slot.flow, gate.clock + 1, 1)
    return replace(flow, waiting=flow.waiting + 1)


def leave_flow(flow: Flow, count: int = 1) -> Flow:
    """Return a flow that has fewer waiting slots. Without any, it is to be deleted."""
    return replace(flow, waiting=flow.waiting - count)


def sort_flows(flows: Iterable[Flow]) -> list[Flow]:
    """Return flows in the order in which they are served next."""
    return sorted(flows, key=lambda flow: (flow.tag, flow.name))


def first_flow(flows: Iterable[Flow]) -> Flow | None:
    """Return the flow that is served next, or None if none waits."""
    return next(iter(sort_flows(flows)), None)


def serve_flow(gate: Gate, flow: Flow, slot: Slot, now: float) -> tuple[Gate, Flow, Slot] | None:
    """Return the gate, the flow that is served next and its first slot, whose owner now holds its units.

    Return None if too few units are free. `flow` may be without waiting slots then.

    >>> from noetl.executor.model.gates import SlotOwner
    >>> gate = Gate(GateKey("use:api", "acme"), "api", units=1, waiting=2, clock=4)
    >>> slot = Slot(gate.key, SlotOwner("r1"), "api", 1, 5.0, flow="a")
    >>> gate, flow, slot = serve_flow(gate, Flow(gate.key, "a", tag=7, waiting=2), slot, 6.0)
    >>> gate.clock, flow.tag, flow.waiting, slot.is_held
    (7, 8, 1, True)
    """
    granted = grant(gate, slot, now)
    if granted is None:
        return None
    gate, slot = granted
    return replace(gate, clock=flow.tag), replace(leave_flow(flow), tag=flow.tag + slot.units), slot


def count_before(flows: Collection[Flow], name: str, place: int) -> int:
    """Return how many slots are granted before one, if each has one unit and none comes or leaves.

    `place` is the number of slots before it in its flow, which has a name.

    >>> key = GateKey("use:api", "acme")
    >>> count_before([Flow(key, "a", tag=1, waiting=9), Flow(key, "b", tag=3, waiting=9)], "b", place=1)
    5
    """
    tag = next((flow.tag for flow in flows if flow.name == name), None)
    if tag is None:
        return place
    return place + sum(
        min(flow.waiting, max(0, tag + place - flow.tag + (flow.name < name)))
        for flow in flows
        if flow.name != name
    )
