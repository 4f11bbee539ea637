"""The contract of gates: no more is held than a limit allows, and queues keep their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any
from unittest.mock import ANY

import pytest

from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.flows import Flow
from noetl.executor.model.gates import (
    SHARED_TENANT,
    Gate,
    GateKey,
    LimitKind,
    Slot,
    SlotOwner,
    SlotRequest,
    named_gate,
    own_gate,
)
from noetl.executor.model.run import END, NEVER, Claim, Commit, Lease, Run, RunEnding, RunStatus, WaitKey
from noetl.executor.model.transition import abandon, commit_of_finally_step, skip_run, wait_for_slot
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import FakeClock, RunHarness
from noetl.testing.store_contract.damage import GateDamage
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    CHAIN,
    DIAMOND,
    LEASE,
    claim_visit,
    current_run,
    end_run,
    fail,
    failed_checks,
    run_concurrently,
    start_child,
    start_run,
    start_waiting_run,
    succeed,
    suspend_claim,
    visit_states,
)
from noetl.testing.store_contract.switches import CORRECTED, WAITING, switch

OWN = own_gate("default", "play", "a", 0, None)
"""The gate of a step's own limit."""

OF_RUNS = own_gate("default", "play", None, 0, None)
"""The gate of a playbook's own limit."""

NAMED = named_gate("default", "api")
"""The gate of an operator's limit."""


FREE = own_gate("default", "play", "b", 0, None)
"""The gate of a step that no visit has entered."""

CROWDED, FULL = (own_gate("default", "zoo", name, 0, None) for name in ("crowded", "full"))
"""A gate at which one slot waits, and one of which the only unit is held."""

OTHER = named_gate("default", "other")
"""The gate of another limit of an operator."""

RATE = named_gate("default", "rate")
"""The gate of a rate of an operator."""


def gate_of(request: SlotRequest) -> GateKey:
    """Return the gate of a request, which is its place in the order of locks."""
    return request.gate


def ask(key: GateKey = OWN, size: int | None = 1, units: int = 1, **options: Any) -> SlotRequest:
    limit = NAMED.id.removeprefix("use:") if size is None else "play.a"
    return replace(SlotRequest(key, limit, size, units), **options)


def acquire(store: Store, claim: Claim, *requests: SlotRequest, now: float = 1.0) -> list[Slot]:
    """Ask for slots of a visit. Without requests, ask for one of the only unit of `OWN`."""
    owner = SlotOwner(claim.run.id, claim.visit.id)
    return store.gates.acquire(claim, owner, requests or [ask()], now)


def acquire_for_run(store: Store, claim: Claim, now: float = 1.0) -> list[Slot]:
    return store.gates.acquire(claim, SlotOwner(claim.run.id), [ask(OF_RUNS)], now)


def suspend_queued(store: Store, claim: Claim, slot: Slot, now: float = 1.0) -> None:
    """Suspend a visit whose last slot waits."""
    store.queue.commit(wait_for_slot(claim.visit, slot, NEVER, now), now)


def queue_up(store: Store, *requests: SlotRequest, text: str | None = None, now: float = 1.0) -> Claim:
    """Start a run whose visit asks for slots and waits for the last one. Return its claim."""
    run = start_run(store) if text is None else start_run(store, text)
    claim = claim_visit(store, run)
    slot = acquire(store, claim, *requests, now=now)[-1]
    assert not slot.is_held
    suspend_queued(store, claim, slot, now)
    return claim


def hold(store: Store, *requests: SlotRequest, text: str = CHAIN, now: float = 1.0) -> Claim:
    """Start a run whose visit holds slots. Return its claim."""
    claim = claim_visit(store, start_run(store, text))
    assert acquire(store, claim, *requests, now=now)[-1].is_held
    return claim


def give_back(store: Store, claim: Claim, now: float = 2.0) -> tuple[GateKey, ...]:
    """Let a visit succeed, so that it gives its slots back. Return the gates at which others may wait."""
    return store.queue.commit(replace(succeed(store, claim), gives_back=True), now).freed


def finish_claimed(store: Store, run: Run, now: float) -> tuple[GateKey, ...]:
    """Claim the visit that ends a run, and end it as failed. Return the gates at which others may wait."""
    return store.queue.finish(claim_visit(store, run, now), RunEnding(RunStatus.FAILED, None, []), now)


def slots_of_visit(store: Store, claim: Claim) -> list[Slot]:
    return store.gates.slots_of(claim.run.id, claim.visit.id)


def numbers_of(store: Store, key: GateKey = OWN) -> tuple[int, int] | None:
    """Return how many units of a gate are held, and how many slots wait, or None if there is no gate."""
    gate = store.gates.gate(key)
    return None if gate is None else (gate.held, gate.waiting)


def owners_at(store: Store, key: GateKey = OWN) -> list[str]:
    """Return the ids of the runs with slots at a gate: those that hold units, then the queue."""
    return [slot.owner.run_id for slot in store.gates.slots_at(key)[0]]


def find_due(store: Store, run: Run, now: float = 9.0) -> list[str]:
    """Claim all due visits of a run, and return their steps."""
    lease = Lease("other", 3600.0)
    claims = iter(lambda: store.queue.claim(run.id, lease, now), None)
    return sorted(claim.visit.step for claim in claims if claim is not None)


class GatesContract(ContractFixtures):
    """Tests of gates. `store` is an empty store."""

    @pytest.fixture(autouse=True)
    def leaves_a_sound_store(self, store: Store, request: pytest.FixtureRequest) -> Iterator[None]:
        yield
        if request.function.__name__ in vars(GatesContract):
            assert failed_checks(store) == []

    def test_a_slot_is_acquired_once(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store))
        (slot,) = acquire(store, claim)
        owner = SlotOwner(claim.run.id, claim.visit.id)
        assert slot == Slot(OWN, owner, "play.a", 1, queued_at=1.0, held_at=1.0)
        assert acquire(store, claim, now=2.0) == [slot] == slots_of_visit(store, claim)
        again = claim_visit(store, claim.run, 40.0)
        assert acquire(store, again, now=40.0) == [slot]
        gate = store.gates.gate(OWN)
        assert gate is not None
        assert replace(gate, edition=0) == Gate(OWN, "play.a", 1, held=1, ceiling=1)

    def test_a_lost_claim_acquires_nothing(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store))
        again = claim_visit(store, claim.run, 40.0)
        with pytest.raises(FencedError):
            acquire(store, claim)
        store.queue.commit(succeed(store, again), 41.0)
        with pytest.raises(FencedError):
            acquire(store, again)
        with pytest.raises(FencedError):
            acquire_for_run(store, again)
        assert numbers_of(store) is None
        assert store.gates.slots_of(claim.run.id) == []

    def test_a_gate_has_the_value_of_its_key(self, store: Store) -> None:
        value = "acme é\n"
        key = own_gate("default", "play", "a", 0, value)
        claim = hold(store, ask(key, value=value))
        gate = store.gates.gate(key)
        assert gate is not None
        assert gate.value == value
        assert slots_of_visit(store, claim)[0].value == value

    def test_owners_wait_in_the_order_of_their_times(self, store: Store) -> None:
        first = hold(store)
        late, early = queue_up(store, now=3.0), queue_up(store, now=2.0)
        urgent = queue_up(store, ask(rank=-1.0), now=4.0)
        assert owners_at(store) == [claim.run.id for claim in (first, urgent, early, late)]
        assert [slots_of_visit(store, claim)[0].queued_before for claim in (first, urgent, early, late)] == [
            0,
            0,
            1,
            2,
        ]
        queue = [urgent, early, late]
        for claim in queue:
            give_back(store, first)
            assert store.gates.grant(OWN, 5.0) == 1
            assert store.gates.grant(OWN, 5.0) == 0
            first = claim_visit(store, claim.run, 5.0)
            assert acquire(store, first)[0].held_at == 5.0
        assert numbers_of(store) == (1, 0)

    def test_flows_alternate(self, store: Store) -> None:
        first = hold(store, ask(flow="a"))
        many = [queue_up(store, ask(flow="a"), now=2.0 + number) for number in range(3)]
        other, urgent = (queue_up(store, ask(flow="b", rank=rank), now=6.0) for rank in (0.0, -1.0))
        assert owners_at(store) == [claim.run.id for claim in (first, *many, urgent, other)]
        queue = [many[0], urgent, many[1], other, many[2]]
        assert [slots_of_visit(store, claim)[0].queued_before for claim in queue] == [0, 1, 2, 3, 4]
        third = claim_visit(store, start_run(store))
        assert acquire(store, third, ask(flow="c"))[0].queued_before == 2
        give_back(store, third)
        for claim in queue:
            give_back(store, first)
            assert store.gates.grant(OWN, 8.0) == 1
            first = claim_visit(store, claim.run, 8.0)
            assert acquire(store, first)[0].is_held
            assert failed_checks(store) == []

    def test_slots_of_several_runs_are_read_together(self, store: Store) -> None:
        """Read runs that wait in two flows of a gate and at another one, hold a unit, and have no slot."""
        first, idle = hold(store, ask(flow="a")), start_run(store)
        acquire_for_run(store, first)
        queue = [claim_visit(store, start_run(store)) for _ in range(6)]
        for number, flow, rank in zip(range(6), "abaaba", (3.0, 1.0, -5.0, 3.0, 0.0, 4.0), strict=True):
            if number in (0, 4):
                acquire_for_run(store, queue[number])
            (slot,) = acquire(store, queue[number], ask(flow=flow, rank=rank), now=2.0)
            suspend_queued(store, queue[number], slot)
        ids = [claim.run.id for claim in (first, *queue)]
        waiting = {id: [slot for slot in store.gates.slots_of(id) if not slot.is_held] for id in ids}
        assert sorted(map(len, waiting.values())) == [0, 1, 1, 1, 1, 2, 2]
        for wanted in (ids, ids[3:], ids[2:3], [ids[5], idle.id, "unknown", ids[1]], []):
            found = store.gates.queued_slots(wanted, 200.0)
            assert found.keys() <= set(wanted)
            assert {id: found.get(id, []) for id in wanted} == {id: waiting.get(id, []) for id in wanted}

    def test_a_flow_that_was_left_joins_again(self, store: Store) -> None:
        first = hold(store)
        left = [claim_visit(store, start_run(store)) for _ in range(2)]
        for claim in left:
            assert not acquire(store, claim, ask(flow="a"))[0].is_held
            give_back(store, claim)
        waiting, again = queue_up(store, ask(flow="b")), queue_up(store, ask(flow="a"), now=2.0)
        assert [slots_of_visit(store, claim)[0].queued_before for claim in (again, waiting)] == [0, 1]
        give_back(store, first)
        assert store.gates.grant(OWN, 3.0) == 1
        give_back(store, claim_visit(store, again.run, 3.0))
        third = queue_up(store, ask(flow="a"), now=4.0)
        assert [slots_of_visit(store, claim)[0].queued_before for claim in (waiting, third)] == [0, 1]

    def test_a_new_owner_does_not_overtake_a_queue(self, store: Store) -> None:
        first, waiting = hold(store), queue_up(store)
        give_back(store, first)
        (slot,) = acquire(store, claim_visit(store, start_run(store)), now=3.0)
        assert (slot.is_held, slot.queued_before) == (False, 1)
        assert store.gates.grant(OWN, 4.0) == 1
        assert slots_of_visit(store, waiting)[0].is_held

    def test_an_owner_asks_gates_up_to_the_first_that_is_full(self, store: Store) -> None:
        requests = [ask(OWN, 2), ask(OF_RUNS), ask(NAMED, None)]
        requests.sort(key=lambda r: r.gate)
        store.gates.set_limit(NAMED, LimitKind.STEPS, 5)
        first = claim_visit(store, start_run(store))
        assert [slot.is_held for slot in acquire(store, first, *requests)] == [True, True, True]
        second = claim_visit(store, start_run(store))
        slots = acquire(store, second, *requests)
        full = [r.gate for r in requests].index(OF_RUNS)
        assert [slot.is_held for slot in slots] == [True] * full + [False]
        assert slots == acquire(store, second, *requests) == slots_of_visit(store, second)
        give_back(store, first)
        assert store.gates.grant(OF_RUNS, 3.0) == 1
        assert [slot.is_held for slot in acquire(store, second, *requests)] == [True, True, True]
        assert [slot.gate for slot in slots_of_visit(store, second)] == [r.gate for r in requests]

    def test_a_full_queue_refuses_an_owner(self, store: Store) -> None:
        hold(store)
        waiting = queue_up(store, ask(max_queued=1))
        late = claim_visit(store, start_run(store))
        assert acquire(store, late, ask(max_queued=1)) == []
        assert numbers_of(store) == (1, 1)
        assert acquire(store, late, ask(max_queued=2), now=2.0)[0].queued_before == 1
        again = claim_visit(store, waiting.run, NEVER)
        (slot,) = acquire(store, again, ask(max_queued=1), now=NEVER)
        suspend_queued(store, again, slot, NEVER)

    def test_a_run_that_is_skipped_enters_no_finally_step(self, store: Store) -> None:
        log = "[{action: log, message: x}]"
        run = start_run(
            store, f"finally: b\nsteps: [{{name: a, run: {log}}}, {{name: b, run: {log}}}]", now=1.0
        )
        claim = claim_visit(store, run, 1.0)
        assert acquire_for_run(store, claim)[0].is_held
        store.queue.commit(skip_run(claim.visit, "full"), 2.0)
        assert visit_states(store, run)[0] == ("a", "parked")
        assert end_run(store, run, RunStatus.SKIPPED, 3.0).status is RunStatus.SKIPPED
        assert store.gates.slots_of(run.id) == []
        assert numbers_of(store, OF_RUNS) is None
        end = store.runs.events(run.id)[-1]
        assert (end.type, end.payload) == ("workflow.skipped", {"status": "skipped", "reason": "full"})
        store.runs.resume(run.id, 4.0, deadline_at=None, values={})
        again = claim_visit(store, run, 4.0)
        assert again.visit.step == "a"
        store.queue.commit(succeed(store, again), 5.0)
        assert claim_visit(store, run, 5.0).visit.step == "b"

    @pytest.mark.parametrize("until", [NEVER, 5.0], ids=["queue", "rate"])
    def test_the_finally_step_of_a_run_that_stops_waits_for_its_slot(
        self, store: Store, until: float
    ) -> None:
        log = "[{action: log, message: x}]"
        holder = hold(store, ask(OWN))
        run = start_run(
            store, f"finally: b\nsteps: [{{name: a, run: {log}}}, {{name: b, run: {log}}}]", now=1.0
        )
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        claim = claim_visit(store, run, 1.0)
        (slot,) = acquire(store, claim, ask(OWN))
        waiting = replace(slot, held_at=None if until == NEVER else until)
        commit = commit_of_finally_step(wait_for_slot(claim.visit, waiting, until, 1.0))
        assert store.queue.commit(commit, 1.0) is not None
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        assert visit_states(store, run) == [("a", "parked"), ("b", "waiting")]
        assert [visit.due_at for visit in store.runs.visits(run.id) if visit.step == "b"] == [until]
        give_back(store, holder)
        store.gates.grant(OWN, 2.0)
        assert claim_visit(store, run, 6.0).visit.step == "b"

    def test_a_finally_step_that_waits_by_an_earlier_commit_continues(self, store: Store) -> None:
        """Sweep a store of earlier commits: they suspended it as a step of a branch, or parked it."""
        log = "[{action: log, message: x}]"
        holder = hold(store, ask(OWN))
        run = start_run(
            store, f"finally: b\nsteps: [{{name: a, run: {log}}}, {{name: b, run: {log}}}]", now=1.0
        )
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        claim = claim_visit(store, run, 1.0)
        (slot,) = acquire(store, claim, ask(OWN))
        store.queue.commit(wait_for_slot(claim.visit, slot, 400.0, 1.0), 1.0)
        give_back(store, holder)
        store.gates.grant(OWN, 2.0)
        store.maintenance.sweep(1000.0)
        again = claim_visit(store, run, 1000.0)
        assert again.visit.step == "b"
        assert [found.is_held for found in acquire(store, again, ask(OWN), now=1000.0)] == [True]
        commit = replace(commit_of_finally_step(succeed(store, again)), gives_back=True)
        store.queue.commit(commit, 1000.0)
        assert claim_visit(store, run, 1000.0).visit.step == END

    def test_an_owner_that_does_not_queue_gets_nothing_at_a_full_gate(self, store: Store) -> None:
        first = hold(store, ask(OWN))
        second = claim_visit(store, start_run(store))
        assert acquire(store, second, ask(OWN, queues=False)) == []
        before = own_gate("default", "other", "a", 0, None)
        slots = acquire(store, second, ask(before), ask(OWN, queues=False))
        assert [slot.gate for slot in slots] == [before]
        assert numbers_of(store) == (1, 0)
        give_back(store, second)
        assert numbers_of(store, before) is None
        give_back(store, first)

    def test_refuses_an_unknown_limit(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store))
        with pytest.raises(RejectedError, match="unknown limit `api`") as rejected:
            acquire(store, claim, ask(NAMED, None))
        assert rejected.value.reason == "unknown_limit"
        assert store.gates.slots_of(claim.run.id) == []
        with pytest.raises(RejectedError, match="unknown limit"):
            acquire(store, claim, ask(OWN), ask(NAMED, None))
        assert numbers_of(store) is None

    def test_a_newer_request_changes_the_units_of_a_gate(self, store: Store) -> None:
        hold(store)
        waiting = queue_up(store)
        (slot,) = acquire(store, claim_visit(store, start_run(store)), ask(size=3), now=2.0)
        assert (slot.is_held, slot.queued_before) == (False, 1)
        assert store.gates.stalled(10) == [OWN]
        assert store.gates.grant(OWN, 3.0) == 2
        assert slots_of_visit(store, waiting)[0].held_at == 3.0
        assert numbers_of(store) == (3, 0)

    def test_a_lowered_limit_ends_no_holder(self, store: Store) -> None:
        store.gates.set_limit(NAMED, LimitKind.STEPS, 2)
        holders = [hold(store, ask(NAMED, None)) for _ in range(2)]
        waiting = queue_up(store, ask(NAMED, None))
        gate = store.gates.set_limit(NAMED, LimitKind.STEPS, 1)
        assert (gate.units, gate.held, gate.ceiling) == (1, 2, 2)
        give_back(store, holders[0])
        assert store.gates.grant(NAMED, 3.0) == 0
        give_back(store, holders[1])
        assert store.gates.grant(NAMED, 3.0) == 1
        assert slots_of_visit(store, waiting)[0].is_held
        gate = store.gates.gate(NAMED) or gate
        assert (gate.units, gate.held, gate.waiting, gate.ceiling) == (1, 1, 0, 1)

    def test_a_limit_of_steps_becomes_none_of_runs(self, store: Store) -> None:
        before = store.gates.set_limit(NAMED, LimitKind.STEPS, 2)
        with pytest.raises(RejectedError, match="is of steps, not of runs; remove it to make it anew"):
            store.gates.set_limit(NAMED, LimitKind.RUNS, 1)
        assert store.gates.gate(NAMED) == before

    def test_a_limit_of_no_units_stops_all(self, store: Store) -> None:
        assert store.gates.set_limit(NAMED, LimitKind.STEPS, 0).kind is LimitKind.STEPS
        waiting = queue_up(store, ask(NAMED, None))
        assert store.gates.grant(NAMED, 2.0) == 0
        assert store.gates.stalled(10) == []
        assert store.gates.set_limit(NAMED, LimitKind.STEPS, 1).may_grant
        assert store.gates.stalled(10) == [NAMED]
        assert store.gates.grant(NAMED, 3.0) == 1
        assert slots_of_visit(store, waiting)[0].is_held

    def test_a_wide_owner_gets_no_more_than_the_gate_has(self, store: Store) -> None:
        claim = hold(store, ask(size=3, units=5))
        assert slots_of_visit(store, claim)[0].units == 3
        give_back(store, claim)
        assert numbers_of(store) is None

    def test_a_wide_owner_is_not_passed_over(self, store: Store) -> None:
        holders = [hold(store, ask(size=3)) for _ in range(2)]
        wide, narrow = queue_up(store, ask(size=3, units=2)), queue_up(store, ask(size=3), now=2.0)
        assert store.gates.stalled(10) == []
        assert store.gates.grant(OWN, 3.0) == 0
        give_back(store, holders[0])
        assert store.gates.stalled(10) == [OWN]
        assert store.gates.grant(OWN, 4.0) == 1
        assert slots_of_visit(store, wide)[0].is_held
        assert not slots_of_visit(store, narrow)[0].is_held
        give_back(store, holders[1])
        assert store.gates.grant(OWN, 5.0) == 1
        assert numbers_of(store) == (3, 0)

    def test_a_granted_visit_is_due(self, store: Store) -> None:
        first, waiting = hold(store), queue_up(store)
        assert find_due(store, waiting.run) == []
        give_back(store, first)
        store.gates.grant(OWN, 3.0)
        assert visit_states(store, waiting.run) == [("a", "waiting")]
        assert store.queue.next_due(waiting.run.id) == 3.0
        assert acquire(store, claim_visit(store, waiting.run, 3.0))[0].held_at == 3.0

    def test_a_grant_before_the_suspension_is_not_lost(self, store: Store) -> None:
        first, second = hold(store), claim_visit(store, start_run(store))
        (slot,) = acquire(store, second)
        give_back(store, first)
        assert store.gates.grant(OWN, 3.0) == 1
        assert visit_states(store, second.run) == [("a", "running")]
        suspend_queued(store, second, slot, 4.0)
        assert store.queue.next_due(second.run.id) == 4.0
        assert acquire(store, claim_visit(store, second.run, 4.0))[0].held_at == 3.0

    def test_a_finished_visit_is_passed_over(self, store: Store) -> None:
        first, waiting = hold(store), queue_up(store, now=2.0)
        finished = claim_visit(store, start_run(store))
        assert not acquire(store, finished)[0].is_held
        store.queue.commit(succeed(store, finished), 2.0)
        assert "slots of visits" in failed_checks(store)
        give_back(store, first)
        assert store.gates.grant(OWN, 3.0) == 1
        assert slots_of_visit(store, waiting)[0].is_held
        assert slots_of_visit(store, finished) == []

    def test_the_slot_of_a_run_makes_all_its_visits_due(self, store: Store) -> None:
        first = claim_visit(store, start_run(store))
        assert acquire_for_run(store, first)[0].is_held
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        claims = [claim_visit(store, run, 1.0) for _ in range(4)]
        for claim in claims[:3]:
            (slot,) = acquire_for_run(store, claim)
            assert slot.owner == SlotOwner(run.id)
            suspend_queued(store, claim, slot)
        assert store.gates.slots_of(run.id, "") == [slot] == store.gates.slots_of(run.id)
        assert find_due(store, run) == []
        store.queue.commit(succeed(store, first), 2.0)
        assert store.gates.grant(OF_RUNS, 3.0) == 0
        store.runs.stop(first.run.id, RunStatus.CANCELLED, 3.0)
        end_run(store, first.run, RunStatus.CANCELLED, 3.0)
        assert store.gates.grant(OF_RUNS, 4.0) == 1
        suspend_queued(store, claims[3], slot, 4.0)
        assert find_due(store, run) == sorted(claim.visit.step for claim in claims)
        assert store.gates.slots_of(run.id)[0].held_at == 4.0

    @pytest.mark.parametrize(
        "outcome",
        [
            succeed,
            fail,
            partial(fail, retry_at=5.0),
            lambda _, claim: suspend_claim(claim, due_at=5.0),
            lambda _, claim: abandon(claim.visit),
        ],
    )
    def test_a_commit_gives_back(self, store: Store, outcome: Callable[[Store, Claim], Commit]) -> None:
        store.gates.set_limit(NAMED, LimitKind.STEPS, 1)
        claim, waiting = hold(store, ask(), ask(NAMED, None)), queue_up(store)
        acquire_for_run(store, claim)
        assert len(store.gates.slots_of(claim.run.id)) == 3
        store.queue.commit(replace(outcome(store, claim), gives_back=True), 2.0)
        assert [slot.owner.visit_id for slot in store.gates.slots_of(claim.run.id)] == [""]
        assert numbers_of(store) == (0, 1)
        assert numbers_of(store, NAMED) == (0, 0)
        assert store.gates.grant(OWN, 3.0) == 1
        assert slots_of_visit(store, waiting)[0].is_held

    def test_a_refused_commit_gives_nothing_back(self, store: Store) -> None:
        claim = hold(store)
        claim_visit(store, claim.run, 40.0)
        with pytest.raises(FencedError):
            give_back(store, claim, 41.0)
        assert numbers_of(store) == (1, 0)

    def test_a_commit_that_claims_the_next_visit_gives_back(self, store: Store) -> None:
        claim = hold(store)
        commit = replace(succeed(store, claim), gives_back=True)
        assert store.queue.commit(commit, 2.0, LEASE).following is not None
        assert numbers_of(store) is None

    @pytest.mark.parametrize(
        ("requests", "taken"),
        [
            ([ask(FREE)], [1]),
            ([ask(FREE, 3, units=2)], [2]),
            ([ask(FREE, 3, units=9)], [3]),
            ([ask(FREE, flow="x", value="k")], [1]),
            ([ask(OWN)], [1]),
            ([ask(OWN, 3, units=2, flow="x", rank=1.0)], [2]),
            ([ask(FULL)], []),
            ([ask(FULL, 2)], [1]),
            ([ask(FULL, 3, units=3)], []),
            ([ask(CROWDED, 9)], []),
            ([ask(NAMED, None)], [1]),
            ([ask(NAMED, None, units=9)], [2]),
            ([ask(named_gate("default", "unknown"), None)], []),
            ([ask(RATE, None)], []),
            ([ask(FREE), ask(OWN, 2), ask(NAMED, None)], [1, 1, 1]),
            ([ask(FREE), ask(FULL), ask(NAMED, None)], [1]),
            ([ask(CROWDED), ask(NAMED, None)], []),
        ],
    )  # fmt: skip
    def test_a_commit_takes_slots_for_the_visit_that_it_claims(
        self, store: Store, requests: list[SlotRequest], taken: list[int]
    ) -> None:
        """Take what the visit could acquire after its claim. It waits nowhere."""
        store.gates.set_limit(NAMED, LimitKind.STEPS, 2)
        store.gates.set_limit(RATE, LimitKind.STEPS, 2, per=60.0)
        hold(store, ask(FULL), ask(CROWDED))
        queue_up(store, ask(CROWDED))
        claim = hold(store)
        wanted = tuple(replace(request, queues=False) for request in sorted(requests, key=gate_of))
        commit = replace(
            succeed(store, claim),
            gives_back=True,
            held_slots=tuple(slots_of_visit(store, claim)),
            requests=wanted,
        )
        result = store.queue.commit(commit, 2.0, LEASE)
        assert result.following is not None
        expected = taken if store.queue.takes_slots else []
        assert [slot.units for slot in result.slots] == expected
        slots = store.gates.slots_of(claim.run.id)
        assert [replace(slot, limit="") for slot in slots] == [
            replace(slot, limit="") for slot in result.slots
        ]
        assert {slot.owner.visit_id for slot in slots} <= {result.following.id}
        assert set(result.freed) <= {CROWDED}
        again = Claim(claim.run, result.following)
        known = [request for request, _ in zip(wanted, result.slots, strict=False)]
        assert acquire(store, again, *known, now=3.0) == slots if known else not slots

    @pytest.mark.parametrize(
        ("of_run", "of_step"),
        [
            ("", "concurrency: 1"),
            ("", "concurrency: {use: api}"),
            ("", "concurrency: [{limit: 1}, {use: api}]"),
            ("", "rate: {limit: 1, per: 1m}"),
            ("", "rate: {use: rate}"),
            ("concurrency: 1", ""),
            ("concurrency: {use: runs}", "concurrency: 2"),
            ("rate: {limit: 1, per: 1m}", ""),
        ],
    )
    def test_a_claim_says_which_slots_it_has(self, store: Store, of_run: str, of_step: str) -> None:
        """Take free slots with a claim, or none. A later run gets none of them, and waits for its turn."""
        store.gates.set_limit(NAMED, LimitKind.STEPS, 1)
        store.gates.set_limit(RATE, LimitKind.STEPS, 1, per=60.0)
        store.gates.set_limit(named_gate("default", "runs"), LimitKind.RUNS, 1)
        steps = f"steps: [{{name: a, run: [{{action: log, message: a}}], {of_step}}}]"
        clock = FakeClock()
        runs = [RunHarness(store, f"name: play\n{of_run}\n{steps}", clock=clock) for _ in range(2)]
        claims = [claim for run in runs if (claim := run.claim())]
        held = [store.gates.slots_of(run.id) for run in runs]
        assert not held[1] or not (held[0] and held[1][-1].gate == held[0][-1].gate)
        for claim, slots in zip(claims, held, strict=True):
            assert list(claim.slots) in ([], slots)
            assert slots or not claim.is_admitted
        for run, claim in zip(runs, claims, strict=True):
            run.executor().execute(claim)
        assert [run.finish().status for run in runs] == ["succeeded", "succeeded"]

    @pytest.mark.parametrize(("units", "limit", "taken"), [(2, 3, 2), (9, 2, 2), (2, 1, 1)])
    def test_a_visit_takes_the_slot_over_of_the_one_before(
        self, store: Store, units: int, limit: int, taken: int
    ) -> None:
        """Take it over, although its limit may have been changed meanwhile."""
        store.gates.set_limit(NAMED, LimitKind.STEPS, 3)
        claim = hold(store, ask(NAMED, None, units=2))
        gate = store.gates.set_limit(NAMED, LimitKind.STEPS, limit)
        wanted = ask(NAMED, None, units=units, queues=False, flow="x", rank=1.0)
        commit = replace(
            succeed(store, claim),
            gives_back=True,
            held_slots=tuple(slots_of_visit(store, claim)),
            requests=(wanted,),
        )
        result = store.queue.commit(commit, 2.0, LEASE)
        assert result.following is not None
        again = Claim(claim.run, result.following)
        owner = SlotOwner(claim.run.id, again.visit.id)
        expected = Slot(NAMED, owner, "api", taken, 2.0, rank=1.0, held_at=2.0, flow="x")
        assert list(result.slots) == ([expected] if store.queue.takes_slots else [])
        assert acquire(store, again, wanted, now=2.0) == [expected] == store.gates.slots_of(claim.run.id)
        assert numbers_of(store, NAMED) == (taken, 0)
        assert store.gates.gate(NAMED) == replace(gate, held=taken, ceiling=limit, edition=ANY)

    @pytest.mark.parametrize("text", [CHAIN, DIAMOND], ids=["chain", "fork"])
    @pytest.mark.parametrize(("held", "wanted"), [*permutations([OWN, FREE, NAMED, OTHER], 2)])
    def test_a_visit_takes_a_slot_at_another_gate(
        self, store: Store, held: GateKey, wanted: GateKey, text: str
    ) -> None:
        """Give one back, for which another run waits, and take one, in each order of their gates."""
        for key in (NAMED, OTHER):
            store.gates.set_limit(key, LimitKind.STEPS, 2)
        sizes = {key: None if key in (NAMED, OTHER) else 2 for key in (held, wanted)}
        hold(store, ask(held, sizes[held]))
        claim = hold(store, ask(held, sizes[held]), text=text)
        queue_up(store, ask(held, sizes[held]))
        commit = replace(
            succeed(store, claim),
            gives_back=True,
            held_slots=tuple(slots_of_visit(store, claim)),
            requests=(ask(wanted, sizes[wanted], units=9, queues=False),),
        )
        result = store.queue.commit(commit, 2.0, LEASE)
        assert result.following is not None
        assert result.freed == (held,)
        taken = [(wanted, 2, result.following.id)] if store.queue.takes_slots else []
        assert [(slot.gate, slot.units, slot.owner.visit_id) for slot in result.slots] == taken
        assert owners_at(store, wanted) == [claim.run.id for _ in taken]
        unused = None if sizes[wanted] else (0, 0)
        assert (numbers_of(store, held), numbers_of(store, wanted)) == ((1, 1), (2, 0) if taken else unused)

    @pytest.mark.parametrize("held", [OWN, NAMED])
    def test_a_commit_takes_no_slot_at_a_limit_that_a_shared_one_hides(
        self, store: Store, held: GateKey
    ) -> None:
        store.gates.set_limit(NAMED, LimitKind.STEPS, 2)
        assert store.gates.find_named("default", "api") == NAMED
        claim = hold(store, ask(held, None if held == NAMED else 2))
        shared = named_gate(SHARED_TENANT, "api")
        store.gates.set_limit(shared, LimitKind.STEPS, 2)
        assert store.gates.assume_named("default", "api") in (NAMED, shared)
        commit = replace(
            succeed(store, claim),
            gives_back=True,
            held_slots=tuple(slots_of_visit(store, claim)),
            requests=(ask(NAMED, None, queues=False),),
        )
        assert store.queue.commit(commit, 2.0, LEASE).slots == ()
        assert (numbers_of(store, NAMED), store.gates.slots_of(claim.run.id)) == ((0, 0), [])
        assert store.gates.find_named("default", "api") == shared

    def test_a_commit_gives_back_what_the_visit_has(self, store: Store) -> None:
        """Give it back, although the worker takes it for another number of units."""
        claim = hold(store, ask(size=3, units=2))
        held = [replace(slot, units=1) for slot in slots_of_visit(store, claim)]
        wanted = (ask(FREE, queues=False),)
        commit = replace(succeed(store, claim), gives_back=True, held_slots=tuple(held), requests=wanted)
        store.queue.commit(commit, 2.0, LEASE)
        expected = (None, (1, 0) if store.queue.takes_slots else None)
        assert (numbers_of(store), numbers_of(store, FREE)) == expected

    def test_the_first_visit_behind_a_fork_takes_slots(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store, DIAMOND))
        commit = replace(succeed(store, claim), requests=(ask(FREE, queues=False),))
        result = store.queue.commit(commit, 2.0, LEASE)
        assert result.following is not None
        assert result.following.step == "b1"
        held = [(slot.gate, slot.owner.visit_id) for slot in result.slots]
        assert held == ([(FREE, result.following.id)] if store.queue.takes_slots else [])
        assert [slot.owner.visit_id for slot in store.gates.slots_of(claim.run.id)] == [id for _, id in held]

    def test_the_visit_behind_a_join_takes_slots(self, store: Store) -> None:
        """Take none for another visit, which an arrival before the last one claims."""
        run = start_run(store, DIAMOND)
        claim, claimed = claim_visit(store, run), list[tuple[str, int]]()
        while claim.visit.step != "c":
            requests = (ask(FREE, queues=False),) if claim.visit.step != "a" else ()
            result = store.queue.commit(replace(succeed(store, claim), requests=requests), 2.0, LEASE)
            claimed.append(("" if result.following is None else result.following.step, len(result.slots)))
            following = result.following
            claim = claim_visit(store, run, 3.0) if following is None else Claim(run, following)
        steps = [step for step, _ in claimed if step]
        assert set(steps) <= {"b1", "b2", "b3", "b4", "c"}
        assert [held for step, held in claimed if step != "c"] == [0] * 4
        took = [slot.owner.visit_id for slot in store.gates.slots_of(run.id)]
        assert took == ([claim.visit.id] if store.queue.takes_slots else [])

    @pytest.mark.parametrize("is_known", [True, False])
    def test_a_commit_names_the_gates_at_which_others_wait(self, store: Store, is_known: bool) -> None:
        """Name the gate, which the next visit does not get before them."""
        claim, waiting = hold(store), queue_up(store)
        commit = replace(
            succeed(store, claim),
            gives_back=True,
            held_slots=tuple(slots_of_visit(store, claim)) if is_known else (),
            requests=(ask(queues=False),),
        )
        result = store.queue.commit(commit, 2.0, LEASE)
        assert (result.slots, result.freed) == ((), (OWN,))
        assert numbers_of(store) == (0, 1)
        assert store.gates.grant(OWN, 3.0) == 1
        assert slots_of_visit(store, waiting)[0].is_held

    def test_a_commit_takes_no_slot_for_a_visit_that_it_does_not_claim(self, store: Store) -> None:
        claim = hold(store)
        commit = replace(
            succeed(store, claim),
            gives_back=True,
            held_slots=tuple(slots_of_visit(store, claim)),
            requests=(ask(FREE),),
        )
        assert store.queue.commit(commit, 2.0).slots == ()
        assert (store.gates.slots_of(claim.run.id), numbers_of(store, FREE)) == ([], None)

    @pytest.mark.parametrize("stops", [True, False])
    def test_a_commit_of_a_run_that_stops_or_is_paused_takes_no_slot(self, store: Store, stops: bool) -> None:
        claim = hold(store)
        if stops:
            store.runs.stop(claim.run.id, RunStatus.CANCELLED, 1.5)
        else:
            store.pauses.pause(claim.run.id, 1.5)
        commit = replace(
            succeed(store, claim),
            gives_back=True,
            held_slots=tuple(slots_of_visit(store, claim)),
            requests=(ask(FREE),),
        )
        assert store.queue.commit(commit, 2.0, LEASE).slots == ()
        assert (store.gates.slots_of(claim.run.id), numbers_of(store)) == ([], None)

    def test_a_refused_commit_takes_no_slot(self, store: Store) -> None:
        claim = hold(store)
        claim_visit(store, claim.run, 40.0)
        commit = replace(
            succeed(store, claim),
            gives_back=True,
            held_slots=tuple(slots_of_visit(store, claim)),
            requests=(ask(FREE),),
        )
        with pytest.raises(FencedError):
            store.queue.commit(commit, 41.0, LEASE)
        assert (numbers_of(store), numbers_of(store, FREE)) == ((1, 0), None)

    def test_the_end_of_a_run_gives_all_back(self, store: Store) -> None:
        waiting = queue_up(store, ask(size=1)) if hold(store) else None
        assert waiting is not None
        run = start_run(store)
        claim = claim_visit(store, run)
        other = own_gate("default", "play", "b", 0, None)
        assert acquire_for_run(store, claim)[0].is_held
        assert [slot.is_held for slot in acquire(store, claim, ask(), ask(other))] == [False]
        store.queue.commit(fail(store, claim), 2.0)
        assert len(store.gates.slots_of(run.id)) == 2
        end_run(store, run, RunStatus.FAILED, 3.0)
        assert store.gates.slots_of(run.id) == []
        assert numbers_of(store, OF_RUNS) is None
        assert numbers_of(store) == (1, 1)

    def test_the_end_of_a_run_names_the_gates_at_which_others_wait(self, store: Store) -> None:
        runs = [start_run(store) for _ in range(2)]
        first, second = (claim_visit(store, run) for run in runs)
        assert acquire_for_run(store, first)[0].is_held
        suspend_queued(store, second, acquire_for_run(store, second)[0])
        store.queue.commit(fail(store, first), 2.0)
        assert finish_claimed(store, runs[0], 3.0) == (OF_RUNS,)
        assert store.gates.grant(OF_RUNS, 3.0) == 1
        store.queue.commit(fail(store, claim_visit(store, runs[1], 4.0)), 4.0)
        assert finish_claimed(store, runs[1], 5.0) == ()
        assert numbers_of(store, OF_RUNS) is None

    @pytest.mark.parametrize("status", [RunStatus.CANCELLED, RunStatus.FAILED])
    def test_a_stop_gives_back_slots_of_parked_visits(self, store: Store, status: RunStatus) -> None:
        first, waiting = hold(store), queue_up(store, now=2.0)
        next_claim = queue_up(store, now=3.0)
        store.runs.stop(waiting.run.id, status, 3.0)
        assert visit_states(store, waiting.run)[0] == ("a", "parked")
        assert owners_at(store) == [first.run.id, next_claim.run.id]
        end_run(store, waiting.run, status, 4.0)
        store.runs.resume(waiting.run.id, 5.0, deadline_at=None, values={})
        again = claim_visit(store, waiting.run, 5.0)
        assert acquire(store, again, now=5.0)[0].queued_at == 5.0
        assert owners_at(store) == [first.run.id, next_claim.run.id, again.run.id]

    def test_a_pause_gives_back_slots_of_parked_visits(self, store: Store) -> None:
        first, waiting = hold(store), queue_up(store)
        granted = queue_up(store, ask(size=2), now=2.0)
        assert store.gates.grant(OWN, 3.0) == 1
        for claim in (waiting, granted):
            store.pauses.pause(claim.run.id, 4.0)
            assert store.gates.slots_of(claim.run.id) == []
        assert numbers_of(store) == (1, 0)
        store.pauses.unpause(waiting.run.id, 5.0)
        assert acquire(store, claim_visit(store, waiting.run, 5.0), ask(size=2))[0].is_held
        give_back(store, first)

    def test_a_pause_leaves_the_slots_of_visits_that_run(self, store: Store) -> None:
        claim = hold(store)
        store.pauses.pause(claim.run.id, 2.0)
        assert numbers_of(store) == (1, 0)
        give_back(store, claim, 3.0)
        assert numbers_of(store) is None

    @pytest.mark.parametrize("of_run", [True, False])
    def test_a_visit_that_is_suspended_in_a_paused_run_asks_again(self, store: Store, of_run: bool) -> None:
        first = claim_visit(store, start_run(store))
        acquire_any = acquire_for_run if of_run else acquire
        acquire_any(store, first)
        second = claim_visit(store, start_run(store))
        (slot,) = acquire_any(store, second)
        store.pauses.pause(second.run.id, 2.0)
        suspend_queued(store, second, slot, 3.0)
        assert visit_states(store, second.run) == [("a", "parked")]
        assert slots_of_visit(store, second) == []
        assert len(store.gates.slots_of(second.run.id, "")) == of_run
        store.pauses.unpause(second.run.id, 4.0)
        assert find_due(store, second.run) == ["a"]

    def test_a_grant_passes_over_a_paused_run(self, store: Store) -> None:
        first = claim_visit(store, start_run(store))
        acquire_for_run(store, first)
        second, third, fourth = (claim_visit(store, start_run(store)) for _ in range(3))
        for claim, now in ((second, 2.0), (third, 3.0)):
            suspend_queued(store, claim, acquire_for_run(store, claim, now)[0], now)
        store.pauses.pause(second.run.id, 3.0)
        assert owners_at(store, OF_RUNS) == [claim.run.id for claim in (first, second, third)]
        store.runs.stop(first.run.id, RunStatus.CANCELLED, 3.0)
        store.queue.commit(abandon(first.visit), 3.0)
        end_run(store, first.run, RunStatus.CANCELLED, 4.0)
        assert store.gates.stalled(10) == [OF_RUNS]
        assert store.gates.grant(OF_RUNS, 5.0) == 1
        assert (numbers_of(store, OF_RUNS), store.gates.slots_of(second.run.id)) == ((1, 0), [])
        assert find_due(store, third.run) == ["a"]
        suspend_queued(store, fourth, acquire_for_run(store, fourth, 5.0)[0], 5.0)
        store.pauses.unpause(second.run.id, 6.0)
        again = claim_visit(store, second.run, 6.0)
        request = ask(OF_RUNS, since=2.0, rank=-1.0)
        (slot,) = store.gates.acquire(again, SlotOwner(second.run.id), [request], 6.0)
        assert (slot.is_held, slot.queued_at, slot.queued_before) == (False, 2.0, 0)
        assert owners_at(store, OF_RUNS) == [claim.run.id for claim in (third, second, fourth)]

    def test_a_paused_run_leaves_no_queue_behind(self, store: Store) -> None:
        first = claim_visit(store, start_run(store))
        acquire_for_run(store, first)
        second = claim_visit(store, start_run(store))
        (slot,) = acquire_for_run(store, second)
        store.pauses.pause(second.run.id, 2.0)
        store.runs.stop(first.run.id, RunStatus.CANCELLED, 3.0)
        store.queue.commit(abandon(first.visit), 3.0)
        end_run(store, first.run, RunStatus.CANCELLED, 4.0)
        assert store.gates.grant(OF_RUNS, 5.0) == 0
        assert numbers_of(store, OF_RUNS) is None
        suspend_queued(store, second, slot, 5.0)
        assert visit_states(store, second.run) == [("a", "parked")]
        store.pauses.unpause(second.run.id, 6.0)
        again = claim_visit(store, second.run, 6.0)
        assert acquire_for_run(store, again, 6.0)[0].is_held

    def test_an_unpaused_run_waits_on(self, store: Store) -> None:
        acquire_for_run(store, claim_visit(store, start_run(store)))
        second = claim_visit(store, start_run(store))
        (slot,) = acquire_for_run(store, second, now=2.0)
        suspend_queued(store, second, slot)
        store.pauses.pause(second.run.id, 3.0)
        store.pauses.unpause(second.run.id, 4.0)
        again = claim_visit(store, second.run, 4.0)
        assert acquire_for_run(store, again, now=4.0) == [slot]
        suspend_queued(store, again, slot, 4.0)
        assert find_due(store, second.run) == []

    def test_the_stop_of_a_parent_gives_back_slots_of_its_child_runs(self, store: Store) -> None:
        first = hold(store)
        run, key = start_waiting_run(store)
        child = start_child(store, run, WaitKey(run.id, key.visit_id, "child"), "inner", queue="inner")
        claim = store.queue.claim("inner", LEASE, 1.0)
        assert claim is not None
        suspend_queued(store, claim, acquire(store, claim)[0])
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        assert store.gates.slots_of(child.id) == []
        assert owners_at(store) == [first.run.id]

    @pytest.mark.parametrize("of_run", [True, False])
    def test_a_switch_gives_back_what_waits(self, store: Store, of_run: bool) -> None:
        # The new plan may have other limits, so the visits ask again.
        acquire_any = acquire_for_run if of_run else acquire
        acquire_any(store, claim_visit(store, start_run(store)))
        harness = RunHarness(store, WAITING)
        assert harness.execute_next()
        run, now = harness.run, harness.clock()
        claim = claim_visit(store, run, now)
        (slot,) = acquire_any(store, claim, now=now)
        suspend_queued(store, claim, slot, now)
        assert switch(harness, CORRECTED).run is not None
        assert store.gates.slots_of(run.id) == []
        assert find_due(store, run, harness.clock() + 1.0) == ["b"]

    def test_a_switched_run_keeps_what_it_holds(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        assert harness.execute_next()
        run, now = harness.run, harness.clock()
        claim = claim_visit(store, run, now)
        (slot,) = acquire_for_run(store, claim, now)
        store.queue.commit(suspend_claim(claim, due_at=now + 60.0), now)
        assert switch(harness, CORRECTED).run is not None
        assert store.gates.slots_of(run.id) == [slot]

    def test_a_lost_grant_is_found(self, store: Store) -> None:
        keys = [own_gate("default", "play", step, 0, None) for step in "abc"]
        for key in keys:
            holder = hold(store, ask(key))
            queue_up(store, ask(key))
            give_back(store, holder)
        hold(store, ask(OF_RUNS))
        queue_up(store, ask(OF_RUNS))
        assert sorted(store.gates.stalled(10)) == keys
        assert len(store.gates.stalled(2)) == 2
        for key in store.gates.stalled(10):
            assert store.gates.grant(key, 3.0) == 1
        assert store.gates.stalled(10) == []

    def test_own_gates_are_removed_when_they_are_not_used(self, store: Store) -> None:
        store.gates.set_limit(NAMED, LimitKind.STEPS, 1)
        claim = hold(store, ask(), ask(NAMED, None))
        give_back(store, claim)
        assert store.gates.gate(OWN) is None
        assert numbers_of(store, NAMED) == (0, 0)
        assert store.gates.grant(OWN, 3.0) == 0
        assert store.gates.slots_at(OWN) == ([], None)
        assert numbers_of(store) is None
        hold(store)
        assert numbers_of(store) == (1, 0)

    def test_slots_of_a_gate_have_pages(self, store: Store) -> None:
        claims = [hold(store, ask(size=2), now=2.0 - n) for n in range(2)]
        claims.reverse()
        flows = ("b", "a é", "b", "a é")
        claims += [queue_up(store, ask(size=2, rank=n % 2, flow=flows[n]), now=3.0) for n in range(4)]
        pages: list[list[Slot]] = []
        cursor = None
        while cursor is not None or not pages:
            page, cursor = store.gates.slots_at(OWN, limit=1 + len(pages) % 2, cursor=cursor)
            pages.append(page)
        slots = [slot for page in pages for slot in page]
        assert [len(page) for page in pages] == [1, 2, 1, 2]
        assert slots == store.gates.slots_at(OWN)[0]
        assert [slot.is_held for slot in slots] == [True, True, False, False, False, False]
        assert [slot.owner.run_id for slot in slots[:2]] == [claim.run.id for claim in claims[:2]]
        places = [(slot.flow, slot.rank, slot.queued_at, slot.owner) for slot in slots[2:]]
        assert places == sorted(places)
        for wrong in ("x", "é", "", "WzFd", "WzIsICIiLCAwLjAsIDAuMCwgInIiLCAidiJd"):
            with pytest.raises(RejectedError) as rejected:
                store.gates.slots_at(OWN, cursor=wrong)
            assert rejected.value.reason == "invalid_cursor"

    def test_gates_of_a_tenant_have_pages(self, store: Store) -> None:
        names = ["Z", "a", "b", "é"]
        for name in names:
            store.gates.set_limit(named_gate("default", name), LimitKind.STEPS, 1)
        store.gates.set_limit(named_gate("other", "c"), LimitKind.RUNS, 1)
        own_keys = sorted(own_gate("default", "play", step, 0, None) for step in "ab")
        for key in own_keys:
            hold(store, ask(key))
        found, cursor = store.gates.find("default", named=True, limit=3)
        rest, end = store.gates.find("default", named=True, limit=3, cursor=cursor)
        assert [gate.limit for gate in (*found, *rest)] == names
        assert end is None
        assert store.gates.find("default", named=True, limit=4) == ([*found, *rest], None)
        (first,), cursor = store.gates.find("default", named=False, limit=1)
        (second,), end = store.gates.find("default", named=False, limit=1, cursor=cursor)
        assert ([first.key, second.key], end) == (own_keys, None)
        assert [gate.key.tenant for gate in store.gates.find("other", named=True)[0]] == ["other"]
        assert store.gates.find("none", named=True) == ([], None)
        with pytest.raises(RejectedError) as rejected:
            store.gates.find("default", named=True, cursor="x")
        assert rejected.value.reason == "invalid_cursor"

    def test_a_limit_in_use_is_not_removed(self, store: Store) -> None:
        assert not store.gates.remove_limit(NAMED)
        store.gates.set_limit(NAMED, LimitKind.STEPS, 1)
        claim, waiting = hold(store, ask(NAMED, None)), queue_up(store, ask(NAMED, None))
        with pytest.raises(RejectedError, match="limit `api` is in use") as rejected:
            store.gates.remove_limit(NAMED)
        assert rejected.value.reason == "limit_in_use"
        give_back(store, claim)
        with pytest.raises(RejectedError):
            store.gates.remove_limit(NAMED)
        store.pauses.pause(waiting.run.id, 3.0)
        assert store.gates.remove_limit(NAMED)
        assert not store.gates.remove_limit(NAMED)
        assert store.gates.gate(NAMED) is None
        with pytest.raises(RejectedError, match="unknown limit"):
            hold(store, ask(NAMED, None))

    def test_a_limit_of_all_tenants_is_one_gate(self, store: Store) -> None:
        shared = named_gate("@shared", "api")
        store.gates.set_limit(shared, LimitKind.STEPS, 1)
        hold(store, ask(shared, None))
        waiting = queue_up(store, ask(shared, None))
        assert slots_of_visit(store, waiting)[0].gate == shared
        assert store.gates.find("default", named=True) == ([], None)

    def test_a_sweep_leaves_visits_that_wait_for_slots(self, store: Store) -> None:
        hold(store)
        waiting = queue_up(store)
        acquire_for_run(store, claim_visit(store, start_run(store)))
        second = claim_visit(store, start_run(store))
        suspend_queued(store, second, acquire_for_run(store, second)[0])
        assert failed_checks(store) == []
        store.maintenance.sweep(1000.0)
        assert find_due(store, waiting.run) == []
        assert find_due(store, second.run) == []
        assert current_run(store, waiting.run).status is RunStatus.WAITING

    def test_threads_never_hold_more_than_a_limit(self, store: Store) -> None:
        runs = [start_run(store) for _ in range(16)]
        held: list[int] = []

        def work(index: int) -> int:
            """Claim the visits of two runs in turn, until both are done. Return how many are."""
            left = runs[index::8]
            for _ in range(10_000):
                for run in list(left):
                    if acquire_and_give_back(store, run, held):
                        left.remove(run)
                if not left:
                    return 2
                time.sleep(0.001)  # A thread that only waits must not use up its rounds.
            return 2 - len(left)

        assert run_concurrently(8, work) == [2] * 8
        assert max(held) <= 3
        assert numbers_of(store) is None


def acquire_and_give_back(store: Store, run: Run, held: list[int]) -> bool:
    """Claim the first visit of a run, and let it succeed if it gets one of three units. Return if it has."""
    claim = store.queue.claim(run.id, LEASE, 1.0)
    if claim is None:
        return False
    (slot,) = acquire(store, claim, ask(size=3))
    if not slot.is_held:
        suspend_queued(store, claim, slot)
        return False
    gate = store.gates.gate(OWN)
    assert gate is not None
    held.append(gate.held)
    give_back(store, claim, 1.0)
    store.gates.grant(OWN, 1.0)
    return True


class GateConsistencyContract:
    """Tests of the consistency check of gates, and of slots whose owners are gone."""

    damage: GateDamage

    def test_finds_a_slot_that_its_gate_does_not_count(self, store: Store) -> None:
        claim = hold(store, ask(size=2))
        other = claim_visit(store, start_run(store))
        self.damage.put_slot(store, Slot(OWN, SlotOwner(other.run.id, other.visit.id), "play.a", 1, 1.0))
        (finding,) = store.maintenance.check_consistency()
        assert finding.check == "counters of gates"
        assert finding.message == ("limit `play.a` counts 1 held units and 0 waiting slots, and has 1 and 1")
        self.damage.put_slot(store, Slot(OWN, SlotOwner(other.run.id, ""), "play.a", 2, 1.0, held_at=1.0))
        (finding,) = store.maintenance.check_consistency()
        assert finding.message.endswith("and has 3 and 1")
        assert slots_of_visit(store, claim)[0].is_held

    def test_finds_a_flow_with_another_number_of_slots(self, store: Store) -> None:
        hold(store)
        waiting = queue_up(store, ask(flow="a"))
        self.damage.put_flow(store, Flow(OWN, "a", 1, 2))
        (finding,) = store.maintenance.check_consistency()
        assert finding.check == "counters of flows"
        assert finding.message == "flow `a` of limit `play.a` counts 2 waiting slots, and has 1"
        assert slots_of_visit(store, waiting)[0].queued_before == 0

    def test_finds_a_slot_of_an_unknown_gate(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store))
        self.damage.put_slot(store, Slot(OWN, SlotOwner(claim.run.id, claim.visit.id), "play.a", 1, 1.0))
        (finding,) = store.maintenance.check_consistency()
        assert (finding.check, finding.run_id) == ("unknown gates", claim.run.id)

    def test_a_slot_of_an_ended_run_is_found_and_removed(self, store: Store) -> None:
        first, waiting = hold(store), queue_up(store)
        self.damage.update_run(store, waiting.run.id, status="failed", finished_at=2.0)
        self.damage.update_visit(store, waiting.run, "a", status="failed", finished_at=2.0)
        (finding,) = store.maintenance.check_consistency()
        assert (finding.check, finding.run_id) == ("slots of ended runs", waiting.run.id)
        give_back(store, first)
        assert store.gates.grant(OWN, 3.0) == 0
        assert numbers_of(store) is None
        assert store.maintenance.check_consistency() == []

    def test_a_damaged_run_that_is_deleted_gives_its_slots_back(self, store: Store) -> None:
        first, waiting = hold(store), queue_up(store)
        store.maintenance.set_aside(first.run.id, "its plan is lost")
        assert store.maintenance.delete_run("default", first.run.id)
        assert (numbers_of(store), store.maintenance.check_consistency()) == ((0, 1), [])
        store.maintenance.set_aside(waiting.run.id, "its plan is lost")
        assert store.maintenance.delete_run("default", waiting.run.id)
        assert (numbers_of(store), store.maintenance.check_consistency()) == (None, [])

    def test_a_slot_of_a_parked_visit_is_found_and_removed(self, store: Store) -> None:
        first, waiting = hold(store), queue_up(store)
        store.pauses.pause(first.run.id, 2.0)
        self.damage.update_visit(store, waiting.run, "a", status="parked")
        assert "slots of visits" in failed_checks(store)
        give_back(store, first, 3.0)
        assert store.gates.grant(OWN, 3.0) == 0
        assert numbers_of(store) is None
        store.maintenance.sweep(4.0)
        assert find_due(store, waiting.run) == ["a"]
