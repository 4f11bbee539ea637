"""Random operations of gates in the store in memory and in a SQL store: both do the same, and stay sound.

Workers claim visits, ask for slots, wait, succeed, fail and lose their claims. Operators stop, pause and
resume runs, and change a limit. After each operation the numbers of each gate are those of its slots. No more
is held than its ceiling, and each visit that waits for no time has a slot in a queue.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from noetl.executor.engine.start import new_run
from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.gates import (
    Gate,
    GateKey,
    LimitKind,
    Slot,
    SlotOwner,
    SlotRequest,
    admit,
    give_back,
    named_gate,
    own_gate,
)
from noetl.executor.model.run import END, NEVER, Claim, Commit, Lease, RunEnding, RunStatus, VisitStatus
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.transition import abandon, wait_for_slot
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory import gates as memory_gates
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract.operations import CHAIN, fail, failed_checks, succeed, suspend_claim
from tests.simulation.backends import SqlBackend, postgres_backend

RUNS = ("r0", "r1", "r2", "r3")
NAMED = named_gate("default", "api")
GATES = (own_gate("default", "p", "a", 0, None), own_gate("default", "p", "b", 0, "k"), NAMED)
OF_RUNS = own_gate("default", "p", None, 0, None)

run_ids = st.sampled_from(RUNS)
sizes = st.integers(0, 3)


class GateMachine(RuleBasedStateMachine):
    """Two stores on which the same operations are performed at the same times."""

    def __init__(self, *stores: Store) -> None:
        super().__init__()
        self.stores = stores or (MemoryStore(), SqliteStore(":memory:"))
        self.now = 1.0
        self.claims: dict[str, tuple[Claim, Claim]] = {}
        """The last claim of each run, in both stores."""
        self.queued: dict[str, Slot] = {}
        """The slot for which the visit of a claim must wait."""

    def teardown(self) -> None:
        for store in self.stores:
            store.close()

    def perform(self, operation: Callable[[Store], Any]) -> Any:
        """Perform an operation on both stores, and return its result, which must be the same."""
        self.now += 1.0
        results = [read_outcome(operation, store) for store in self.stores]
        assert results[0] == results[1]
        return results[0]

    def commit(self, run_id: str, build: Callable[[Store, Claim], Commit]) -> None:
        """Commit an outcome of the last claim of a run."""
        if run_id in self.claims:
            pair = dict(zip(self.stores, self.claims.pop(run_id), strict=True))
            self.queued.pop(run_id, None)
            self.perform(lambda store: store.queue.commit(build(store, pair[store]), self.now))

    @initialize()
    def start(self) -> None:
        plan = compile_text(CHAIN)
        for run_id in RUNS:
            request = StartRequest(run_id=run_id, origin="local", queue=run_id)
            run, first = new_run(plan.header, plan.hash, request, now=self.now)
            for store in self.stores:
                store.plans.save(plan)
                store.runs.create(run, first)

    @rule(run_id=run_ids, seconds=st.sampled_from([1.5, 100.0]))
    def claim(self, run_id: str, seconds: float) -> None:
        claims = [store.queue.claim(run_id, Lease("w", seconds), self.now) for store in self.stores]
        first, second = claims
        if first is None or second is None:
            assert first is second
            return
        assert comparable(first.visit) == comparable(second.visit)
        self.queued.pop(run_id, None)
        self.claims[run_id] = first, second
        if first.visit.step == END:
            pair = dict(zip(self.stores, self.claims.pop(run_id), strict=True))
            ending = RunEnding(first.run.stop or RunStatus.SUCCEEDED, None, [])
            self.perform(lambda store: store.queue.finish(pair[store], ending, self.now))

    @rule(
        run_id=run_ids,
        gates=st.sets(st.sampled_from(GATES), min_size=1),
        size=st.integers(1, 3),
        units=st.integers(1, 4),
        queues=st.booleans(),
        of_run=st.booleans(),
        rank=st.sampled_from([0.0, -1.0]),
        flow=st.sampled_from(["", "a", "b"]),
    )
    def acquire(self, run_id: str, gates: set[GateKey], of_run: bool, size: int, **options: Any) -> None:
        if run_id not in self.claims or run_id in self.queued:
            return
        claims = dict(zip(self.stores, self.claims[run_id], strict=True))
        visit = self.claims[run_id][0].visit
        requests = [SlotRequest(key, "l", None if key == NAMED else size, **options) for key in sorted(gates)]
        owner = SlotOwner(run_id, visit.id)
        if of_run:
            owner, requests = SlotOwner(run_id), [replace(requests[0], gate=OF_RUNS, size=size)]
        outcome = self.perform(lambda store: store.gates.acquire(claims[store], owner, requests, self.now))
        if isinstance(outcome, list) and outcome and not outcome[-1].is_held:
            self.queued[run_id] = outcome[-1]

    @rule(run_id=run_ids, seconds=st.sampled_from([3.0, NEVER]))
    def wait(self, run_id: str, seconds: float) -> None:
        if run_id in self.queued:
            slot = self.queued[run_id]
            due_at = min(self.now + seconds, NEVER)
            self.commit(run_id, lambda _, claim: wait_for_slot(claim.visit, slot, due_at, self.now))

    @rule(run_id=run_ids)
    def succeed(self, run_id: str) -> None:
        self.commit(run_id, lambda store, claim: replace(succeed(store, claim), gives_back=True))

    @rule(run_id=run_ids, retries=st.booleans())
    def fail(self, run_id: str, retries: bool) -> None:
        retry_at = self.now + 5.0 if retries else None
        self.commit(
            run_id, lambda store, claim: replace(fail(store, claim, retry_at=retry_at), gives_back=True)
        )

    @rule(run_id=run_ids, abandons=st.booleans())
    def suspend(self, run_id: str, abandons: bool) -> None:
        def build(_: Store, claim: Claim) -> Commit:
            later = suspend_claim(claim, due_at=self.now + 3.0)
            return replace(abandon(claim.visit) if abandons else later, gives_back=True)

        self.commit(run_id, build)

    @rule(run_id=run_ids)
    def release(self, run_id: str) -> None:
        if run_id in self.claims:
            visit = self.claims[run_id][0].visit
            self.perform(lambda store: store.queue.release(visit, self.now, counts=False))

    @rule(key=st.sampled_from([*GATES, OF_RUNS]))
    def grant(self, key: GateKey) -> None:
        self.grant_at(key)

    def grant_at(self, key: GateKey) -> None:
        self.perform(lambda store: store.gates.grant(key, self.now))

    @rule()
    def grant_stalled(self) -> None:
        for key in self.perform(lambda store: sorted(store.gates.stalled(10))):
            self.grant_at(key)
        assert self.perform(lambda store: store.gates.stalled(10)) == []

    @rule(run_id=run_ids, status=st.sampled_from([RunStatus.CANCELLED, RunStatus.FAILED]))
    def stop(self, run_id: str, status: RunStatus) -> None:
        self.perform(lambda store: store.runs.stop(run_id, status, self.now).stop)

    @rule(run_id=run_ids)
    def pause(self, run_id: str) -> None:
        self.perform(lambda store: store.pauses.pause(run_id, self.now).stop)

    @rule(run_id=run_ids)
    def unpause(self, run_id: str) -> None:
        self.perform(lambda store: store.pauses.unpause(run_id, self.now).stop)

    @rule(run_id=run_ids)
    def resume(self, run_id: str) -> None:
        self.perform(lambda store: store.runs.resume(run_id, self.now, deadline_at=None, values={}).status)

    @rule(units=sizes)
    def set_limit(self, units: int) -> None:
        self.perform(lambda store: store.gates.set_limit(NAMED, LimitKind.STEPS, units).units)

    @rule()
    def remove_limit(self) -> None:
        self.perform(lambda store: store.gates.remove_limit(NAMED))

    @rule()
    def sweep(self) -> None:
        self.perform(lambda store: store.maintenance.sweep(self.now).repaired)

    @invariant()
    def is_sound(self) -> None:
        contents = [read_gates(store) for store in self.stores]
        assert contents[0] == contents[1]
        for gate, slots in contents[0]:
            held = [slot.units for slot in slots if slot.is_held]
            assert (gate.held, gate.waiting) == (sum(held), len(slots) - len(held))
            assert gate.held <= gate.ceiling
            assert gate.ceiling >= gate.units
            assert not gate.is_unused
        self.check_consistency()
        for store in self.stores:
            for run_id in RUNS:
                self.check_queued(store, run_id)

    def check_consistency(self) -> None:
        """Check the contents of all tables."""
        for store in self.stores:
            assert failed_checks(store) == []

    def check_queued(self, store: Store, run_id: str) -> None:
        """Check that each visit that waits for no time has a slot that waits, or its run has."""
        queued = {slot.owner.visit_id for slot in store.gates.slots_of(run_id) if not slot.is_held}
        for visit in store.runs.visits(run_id):
            if visit.status in (VisitStatus.WAITING, VisitStatus.PARKED) and visit.due_at >= NEVER:
                assert visit.status is VisitStatus.WAITING
                assert queued & {visit.id, ""}


def read_outcome(operation: Callable[[Store], Any], store: Store) -> Any:
    """Return the result of an operation, or what refused it."""
    try:
        return operation(store)
    except RejectedError as error:
        return error.reason
    except FencedError:
        return FencedError


def comparable(visit: Any) -> Any:
    return visit.run_id, visit.id, visit.step, visit.fence, visit.attempt, visit.due_at


def read_gates(store: Store) -> list[tuple[Any, list[Slot]]]:
    """Return all gates with their slots. Editions are those of a store."""
    gates = [*store.gates.find("default", named=True)[0], *store.gates.find("default", named=False)[0]]
    return [(replace(gate, edition=0), store.gates.slots_at(gate.key)[0]) for gate in gates]


def test_stores_agree_about_random_operations() -> None:
    machine_settings = settings(
        max_examples=settings().max_examples // 2,
        stateful_step_count=60,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(GateMachine, settings=machine_settings)


class PostgresMachine(GateMachine):
    """The same operations in memory and on Postgres. The tables are checked at the end of an example."""

    def __init__(self, backend: SqlBackend) -> None:
        super().__init__(MemoryStore(), backend.clear())

    def check_consistency(self) -> None:
        """Check nothing: a check takes as long as some operations."""

    def teardown(self) -> None:
        super().check_consistency()
        self.stores[0].close()


def test_postgres_agrees_about_random_operations(reused_postgres_dsn: str) -> None:
    machine_settings = settings(
        max_examples=4, stateful_step_count=40, suppress_health_check=list(HealthCheck)
    )
    with closing(postgres_backend(reused_postgres_dsn)) as backend:
        machine: Any = partial(PostgresMachine, backend)
        run_state_machine_as_test(machine, settings=machine_settings)


def _count_without_slot(gate: Gate, slot: Slot) -> Gate:
    """Give back one unit too few, so that the gate counts a unit that no slot holds."""
    given_back = give_back(gate, slot)
    return replace(given_back, held=given_back.held + 1) if slot.is_held else given_back


def _forget_holders(gate: Gate, slot: Slot) -> Gate:
    """Give back all units of the gate, though other owners still work."""
    return replace(give_back(gate, slot), held=0)


def _admit_one_more(
    gate: Gate, owner: SlotOwner, request: SlotRequest, now: float
) -> tuple[Gate, Slot | None]:
    """Let an owner hold units of a full gate."""
    wider = replace(gate, units=gate.units + 1, waiting=0)
    admitted, slot = admit(wider, owner, replace(request, size=None), now)
    return replace(admitted, units=gate.units, waiting=gate.waiting), slot


class OneStoreMachine(GateMachine):
    """The same operations on the store in memory alone, so that only the invariant can find a bug."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), MemoryStore())


MUTANTS = {
    "counts without a slot": ("give_back", _count_without_slot),
    "releases those who still work": ("give_back", _forget_holders),
    "admits one more": ("admit", _admit_one_more),
}
"""Wrong transitions: the function of `noetl.executor.model.gates`, and what replaces it."""


def play_two_holders() -> None:
    """Let two visits hold the units of a gate, a third one wait, and one of the first two end."""
    machine = OneStoreMachine()
    machine.start()
    for run_id in RUNS[:3]:
        machine.claim(run_id, 100.0)
        machine.acquire(run_id, {GATES[0]}, False, 2, units=1, queues=True, rank=0.0, flow="")
        machine.is_sound()
    assert list(machine.queued) == [RUNS[2]]
    machine.wait(RUNS[2], NEVER)
    machine.is_sound()
    machine.succeed(RUNS[0])
    machine.is_sound()
    machine.grant_stalled()
    machine.is_sound()
    machine.teardown()


def test_the_invariant_holds_for_the_right_transitions() -> None:
    play_two_holders()


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_invariant_finds_a_wrong_transition(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_gates, *MUTANTS[mutant])
    with pytest.raises(AssertionError) as found:
        play_two_holders()
    assert found.traceback[-1].name == "is_sound"
