"""The order of the queue of a gate: flows alternate, and priorities shift the places in a flow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.model.flows import (
    Flow,
    count_before,
    first_flow,
    flow_name,
    join_flow,
    rank_of,
    serve_flow,
    sort_flows,
)
from noetl.executor.model.gates import Gate, Slot, SlotOwner, give_back, named_gate
from noetl.planner.frozen import replace

KEY = named_gate("acme", "api")
MINUTE = 60.0


class SimulatedQueue:
    """A gate of one unit with the slots that wait for it."""

    def __init__(self) -> None:
        self.gate = Gate(KEY, "api", 1, held=1, ceiling=1)
        self.flows: dict[str, Flow] = {}
        self.slots: dict[str, list[Slot]] = {}
        self.count = 0

    def put(self, flow: str, rank: float = 0.0) -> Slot:
        self.count += 1
        slot = Slot(KEY, SlotOwner(f"{self.count:06}"), "api", 1, 0.0, rank=rank, flow=flow)
        self.gate = replace(self.gate, waiting=self.gate.waiting + 1)
        self.flows[flow] = join_flow(self.gate, self.flows.get(flow), slot)
        self.slots.setdefault(flow, []).append(slot)
        return slot

    def serve(self) -> Slot:
        """Let the slot that is held be given back, and grant the next."""
        flow = first_flow(self.flows.values())
        assert flow is not None
        assert flow == sort_flows(self.flows.values())[0]
        head = min(self.slots[flow.name], key=lambda slot: (slot.rank, slot.owner))
        self.gate = give_back(self.gate, replace(head, held_at=0.0))
        granted = serve_flow(self.gate, flow, head, 1.0)
        assert granted is not None
        self.gate, flow, slot = granted
        self.slots[flow.name].remove(head)
        self.flows[flow.name] = flow
        if flow.waiting == 0:
            del self.flows[flow.name]
        assert self.gate.waiting == sum(flow.waiting for flow in self.flows.values())
        return slot

    def count_before(self, slot: Slot) -> int:
        places = [(queued.rank, queued.owner) for queued in self.slots[slot.flow]]
        before = sum(place < (slot.rank, slot.owner) for place in places)
        return count_before(self.flows.values(), slot.flow, before)

    def serve_until(self, slot: Slot) -> list[Slot]:
        """Return the slots that are granted before one."""
        served = []
        while (granted := self.serve()).owner != slot.owner:
            served.append(granted)
        return served


operations = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 1.0]), st.booleans()), max_size=40
)


@given(operations, st.data())
def test_the_number_before_a_slot_is_that_of_the_grants(
    steps: list[tuple[str, float, bool]], data: st.DataObject
) -> None:
    queue = SimulatedQueue()
    for flow, rank, serves in steps:
        queue.put(flow, rank)
        if serves:
            queue.serve()
    waiting = [slot for slots in queue.slots.values() for slot in slots]
    if waiting:
        slot = data.draw(st.sampled_from(waiting))
        assert queue.count_before(slot) == len(queue.serve_until(slot))


@given(operations)
def test_a_slot_waits_for_at_most_two_of_each_flow_that_is_not_before_it(
    steps: list[tuple[str, float, bool]],
) -> None:
    """Each flow has a hundred slots, and a new flow comes."""
    queue = SimulatedQueue()
    for flow, _, serves in steps:
        for _ in range(100 if flow not in queue.flows else 1):
            queue.put(flow)
        if serves:
            queue.serve()
    served = queue.serve_until(queue.put("bb"))
    assert all(sum(slot.flow == flow for slot in served) <= 2 for flow in "abcd")


def test_ten_thousand_slots_of_a_flow_delay_another_by_one_grant_of_each_flow() -> None:
    queue = SimulatedQueue()
    for _ in range(10_000):
        queue.put("a")
    for _ in range(10):
        queue.serve()
    queue.put("b")
    for _ in range(5):
        slot = queue.put("z")
        queue.put("b")
        assert [served.flow for served in queue.serve_until(slot)] in (["a", "b"], ["b", "a"])


def test_a_flow_that_comes_back_gains_nothing() -> None:
    queue = SimulatedQueue()
    for _ in range(20):
        queue.put("a")
    for _ in range(5):
        assert len(queue.serve_until(queue.put("b"))) == 1


def test_a_priority_overtakes_only_what_came_at_most_twenty_minutes_before() -> None:
    assert rank_of(20 * MINUTE - 1, 10) < rank_of(0.0, -10)
    assert rank_of(20 * MINUTE + 1, 10) > rank_of(0.0, -10)


def test_a_flow_has_a_short_printable_name() -> None:
    long = "é" * 1000
    names = [flow_name(text) for text in ("", "a b", long, f"{long}x", "a\x00", "a\n", "a")]
    assert len(set(names)) == len(names)
    assert all(len(name.encode()) <= 200 and name.isprintable() for name in names)
    assert (names[0], names[1]) == ("", "a b")
