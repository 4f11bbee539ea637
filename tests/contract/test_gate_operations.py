"""Random operations of gates in the store in memory and in a SQL store: both do the same, and stay sound.

Workers claim visits, ask for slots and for units of rates, wait, commit and lose their claims. Operators
stop, pause and resume runs, and change a limit. After each operation the numbers of each gate are those of
its slots. No more is held than its ceiling, no window of a rate has more units than it allows, and each visit
that waits for no time has a slot in a queue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

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
    is_own_rate,
    named_gate,
    own_gate,
    own_rate_gate,
)
from noetl.executor.model.run import (
    END,
    NEVER,
    Claim,
    Commit,
    CommitResult,
    Lease,
    RunEnding,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.transition import abandon, wait_for_slot
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory import gates as memory_gates
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract.operations import LEASE, fail, failed_checks, succeed, suspend_claim
from tests.simulation.backends import SqlBackend, postgres_backend

RUNS = ("r0", "r1", "r2", "r3")
NAMED = named_gate("default", "api")
GATES = (own_gate("default", "p", "a", 0, None), own_gate("default", "p", "b", 0, "k"), NAMED)
OF_RUNS = own_gate("default", "p", None, 0, None)
QUOTA = named_gate("default", "quota")
RATES: Mapping[GateKey, tuple[int, float]] = {
    own_rate_gate("default", "p", "a", 0, None): (2, 20.0),
    own_rate_gate("default", "p", "b", 1, "k"): (3, 60.0),
    QUOTA: (2, 30.0),
}
"""How many units of each rate may be taken in a window, and the seconds of the window."""

CYCLE = """
steps:
- {name: a, max_visits: 100, rule: [{case: default, run: [b]}]}
- {name: b, max_visits: 100, rule: [{case: "{{ run.id }}", run: [a]}]}
"""
OUTCOMES = ("succeeds", "succeeds", "retries", "suspends", "fails", "abandons", "loses")
CHANGES = ("pause", "unpause", "unpause", "resume", "resume", "cancel", "set limit", "remove limit", "sweep")

run_ids = st.sampled_from(RUNS)


class GateMachine(RuleBasedStateMachine):
    """Two stores on which the same operations are performed at the same times.

    `reached` counts what the invariants are about, over all machines.
    """

    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self, *stores: Store) -> None:
        super().__init__()
        self.stores = stores or (MemoryStore(), SqliteStore(":memory:"))
        self.now = 1.0
        self.claims: dict[str, tuple[Claim, Claim]] = {}
        """The last claim of each run, in both stores."""
        self.queued: dict[str, Slot] = {}
        """The slot for which the visit of a claim must wait."""
        self.reserved: dict[GateKey, set[tuple[SlotOwner, float, int]]] = {key: set() for key in RATES}
        """What owners have taken of each rate: the owner, the time and the units."""

    def teardown(self) -> None:
        for store in self.stores:
            store.close()

    def perform(self, operation: Callable[[Store], Any]) -> Any:
        """Perform an operation on both stores, and return its result, which must be the same."""
        return self.perform_each(operation)[0]

    def perform_each(self, operation: Callable[[Store], Any]) -> list[Any]:
        """Perform an operation on both stores, and return both results, which must be the same."""
        self.now += 1.0
        first, second = results = [read_outcome(operation, store) for store in self.stores]
        assert agree(first, second)
        return results

    def commit(self, run_id: str, build: Callable[[Store, Claim], Commit]) -> None:
        """Commit an outcome of the last claim of a run."""
        if run_id in self.claims:
            pair = dict(zip(self.stores, self.claims.pop(run_id), strict=True))
            self.queued.pop(run_id, None)
            self.perform(lambda store: store.queue.commit(build(store, pair[store]), self.now))

    @initialize()
    def start(self) -> None:
        plan = compile_text(CYCLE)
        for run_id in RUNS:
            request = StartRequest(run_id=run_id, origin="local", queue=run_id)
            run, first = new_run(plan.header, plan.hash, request, now=self.now)
            for store in self.stores:
                store.plans.save(plan)
                store.runs.create(run, first)
        units, per = RATES[QUOTA]
        self.perform(lambda store: store.gates.set_limit(QUOTA, LimitKind.STEPS, units, per).units)
        for run_id in RUNS:
            self.claim(run_id, 100.0)

    @precondition(lambda self: len(self.claims) < len(RUNS))
    @rule(data=st.data(), seconds=st.sampled_from([100.0, 100.0, 100.0, 1.5]))
    def claim_any(self, data: st.DataObject, seconds: float) -> None:
        self.claim(
            data.draw(st.sampled_from([run_id for run_id in RUNS if run_id not in self.claims])), seconds
        )

    def claim(self, run_id: str, seconds: float) -> None:
        """Claim the visit of a run that is due. A run that has stopped ends."""
        run = self.stores[0].runs.get("default", run_id)
        if run is not None and run.stop in (RunStatus.CANCELLED, RunStatus.FAILED):
            self.finish(run_id)
            return
        claims = [store.queue.claim(run_id, Lease("w", seconds), self.now) for store in self.stores]
        first, second = claims
        if first is None or second is None:
            assert first is second
            return
        assert comparable(first.visit) == comparable(second.visit)
        self.claims[run_id] = first, second

    def finish(self, run_id: str) -> None:
        """End a run that has stopped, and abandon its visits. Stores may do this in other steps."""
        for store in self.stores:
            while (claim := store.queue.claim(run_id, LEASE, self.now)) is not None:
                if claim.visit.step == END:
                    assert claim.run.stop is not None
                    store.queue.finish(claim, RunEnding(claim.run.stop, None, []), self.now)
                else:
                    store.queue.commit(replace(abandon(claim.visit), gives_back=True), self.now)

    @precondition(lambda self: self.claims.keys() - self.queued)
    @rule(
        data=st.data(),
        gates=st.sets(st.sampled_from(GATES), min_size=1),
        rates=st.sets(st.sampled_from(list(RATES)), max_size=2),
        size=st.sampled_from([1, 1, 2, 3]),
        units=st.sampled_from([1, 1, 2, 4]),
        queues=st.sampled_from([True, True, True, False]),
        of_run=st.booleans(),
        rank=st.sampled_from([0.0, -1.0]),
        flow=st.sampled_from(["", "a", "b"]),
    )
    def acquire_any(self, data: st.DataObject, **options: Any) -> None:
        self.acquire(data.draw(st.sampled_from(sorted(self.claims.keys() - self.queued))), **options)

    def acquire(
        self, run_id: str, gates: set[GateKey], rates: set[GateKey], of_run: bool, size: int, **options: Any
    ) -> None:
        """Let the visit of a claim, or its run, ask for slots and for units of rates."""
        claims = dict(zip(self.stores, self.claims[run_id], strict=True))
        visit = self.claims[run_id][0].visit
        requests = [limit_request(key, size, **options) for key in gates]
        owner = SlotOwner(run_id, visit.id)
        if of_run:
            owner, requests = SlotOwner(run_id), [SlotRequest(OF_RUNS, "l", size, **options)]
        requests += [rate_request(key, options["units"], queues=options["queues"]) for key in rates]
        requests.sort(key=lambda request: request.gate)
        outcome = self.perform(lambda store: ask(store, claims[store], owner, requests, self.now))
        if not isinstance(outcome, list):
            return
        self.note_reserved(outcome)
        for slot in outcome:
            if slot.units and not slot.is_held_by(self.now):
                self.queued[run_id] = slot
                self.reached["waits for a rate" if slot.is_held else "waits for a limit"] += 1

    def note_reserved(self, slots: Sequence[Slot]) -> None:
        """Remember what an owner has taken of rates."""
        for slot in slots:
            if slot.gate in RATES and slot.units:
                assert slot.held_at is not None
                self.reserved[slot.gate].add((slot.owner, slot.held_at, slot.units))

    def wait(self, run_id: str, seconds: float) -> None:
        """Suspend the visit of a claim until its slot is held, or for some seconds."""
        slot = self.queued[run_id]
        due_at = slot.held_at or min(self.now + seconds, NEVER)
        self.commit(run_id, lambda _, claim: wait_for_slot(claim.visit, slot, due_at, self.now))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), seconds=st.sampled_from([NEVER, NEVER, 3.0]))
    def end_any(self, data: st.DataObject, outcome: str, seconds: float) -> None:
        """End a claim. A visit that has no slot yet waits, unless its worker is lost."""
        run_id = data.draw(st.sampled_from(sorted(self.claims)))
        if run_id in self.queued and outcome != "loses":
            self.wait(run_id, seconds)
        else:
            self.end(run_id, outcome)

    def end(self, run_id: str, outcome: str) -> None:
        """End the claim of a run with an outcome."""
        later = self.now + 5.0
        if outcome == "loses":
            visit = self.claims[run_id][0].visit
            self.perform(lambda store: store.queue.release(visit, self.now, counts=False))
            return
        builders: Mapping[str, Callable[[Store, Claim], Commit]] = {
            "succeeds": succeed,
            "fails": fail,
            "retries": partial(fail, retry_at=later),
            "suspends": lambda _, claim: suspend_claim(claim, due_at=later),
            "abandons": lambda _, claim: abandon(claim.visit),
        }
        build = builders[outcome]
        self.commit(run_id, lambda store, claim: replace(build(store, claim), gives_back=True))
        self.claim(run_id, 100.0)

    @precondition(lambda self: self.claims.keys() - self.queued)
    @rule(data=st.data(), gates=st.sets(st.sampled_from(GATES)), rate=st.sampled_from([None, *RATES]))
    def advance_any(self, data: st.DataObject, gates: set[GateKey], rate: GateKey | None) -> None:
        self.advance(data.draw(st.sampled_from(sorted(self.claims.keys() - self.queued))), gates, rate)

    def advance(self, run_id: str, gates: set[GateKey], rate: GateKey | None) -> None:
        """Let a visit succeed, and claim the next one, which takes slots with the commit if it can."""
        claims = dict(zip(self.stores, self.claims.pop(run_id), strict=True))
        requests = [limit_request(key, 2, queues=False) for key in sorted(gates)]
        if rate is not None and not gates:
            requests = [rate_request(rate, 1, queues=False)]
        if not all(store.queue.takes_slots for store in self.stores):
            requests = []

        def commit(store: Store) -> CommitResult:
            claim = claims[store]
            slots = store.gates.slots_of(run_id, claim.visit.id)
            held = tuple(slots) if all(slot.is_held_by(self.now) for slot in slots) else ()
            commit = replace(
                succeed(store, claim), gives_back=True, held_slots=held, requests=tuple(requests)
            )
            return store.queue.commit(commit, self.now, Lease("w", 100.0))

        results = self.perform_each(commit)
        following = [result.following for result in results if isinstance(result, CommitResult)]
        first, second = following or (None, None)
        if first is not None and second is not None:
            assert comparable(first) == comparable(second)
            following_claims = [
                Claim(claim.run, visit) for claim, visit in zip(claims.values(), (first, second), strict=True)
            ]
            if first.step == END:
                for store, claim in zip(self.stores, following_claims, strict=True):
                    store.queue.finish(claim, RunEnding(RunStatus.CANCELLED, None, []), self.now)
                return
            self.claims[run_id] = following_claims[0], following_claims[1]
            self.note_reserved(results[0].slots)
            self.reached["takes slots with a commit"] += bool(results[0].slots)

    @rule(key=st.sampled_from([*GATES, OF_RUNS, None, None]))
    def grant(self, key: GateKey | None) -> None:
        """Grant the free units of a gate, or of all gates where slots wait although units are free."""
        if key is not None:
            self.grant_at(key)
            return
        for stalled in self.perform(lambda store: sorted(store.gates.stalled(10))):
            self.grant_at(stalled)
        assert self.perform(lambda store: store.gates.stalled(10)) == []

    def grant_at(self, key: GateKey) -> None:
        self.perform(lambda store: store.gates.grant(key, self.now))

    @rule(change=st.sampled_from(CHANGES), run_id=run_ids, units=st.integers(0, 3))
    def administer(self, change: str, run_id: str, units: int) -> None:
        """Change a run or a limit as an operator, or let a service sweep the store."""
        changes: Mapping[str, Callable[[Store], Any]] = {
            "pause": lambda store: store.pauses.pause(run_id, self.now).stop,
            "unpause": lambda store: store.pauses.unpause(run_id, self.now).stop,
            "resume": lambda store: store.runs.resume(run_id, self.now, deadline_at=None, values={}).status,
            "cancel": lambda store: store.runs.stop(run_id, RunStatus.CANCELLED, self.now).stop,
            "set limit": lambda store: store.gates.set_limit(NAMED, LimitKind.STEPS, units).units,
            "remove limit": lambda store: store.gates.remove_limit(NAMED),
            "sweep": lambda store: store.maintenance.sweep(self.now).repaired,
        }
        self.perform(changes[change])

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
        self.check_rates()
        self.check_consistency()
        for store in self.stores:
            for run_id in RUNS:
                self.check_queued(store, run_id)

    def check_rates(self) -> None:
        """Check that no window of a rate has more units than the rate allows."""
        for key, (size, per) in RATES.items():
            for _, end, _ in self.reserved[key]:
                in_window = (units for _, time, units in self.reserved[key] if end - per < time <= end)
                assert sum(in_window) <= size

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


def ask(
    store: Store, claim: Claim, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
) -> list[Slot]:
    """Return the slots that an owner gets, in the order of their gates.

    While one waits, rates are left out: a store may return those that the owner has taken before.
    """
    slots = sorted(store.gates.acquire(claim, owner, requests, now), key=lambda slot: slot.gate)
    is_held = all(slot.is_held for slot in slots)
    return [slot for slot in slots if is_held or slot.gate not in RATES]


def agree(first: Any, second: Any) -> bool:
    """Return whether the store in memory and another one may have these results of one operation.

    The other one may name further gates at which slots wait.
    """
    if isinstance(first, CommitResult) and isinstance(second, CommitResult):
        return agree(first.freed, second.freed) and replace(first, freed=second.freed) == second
    if isinstance(first, tuple) and isinstance(second, tuple):  # the gates that the end of a run frees
        return set(first) <= set(second)
    return bool(first == second)


def comparable(visit: Visit) -> object:
    """Return what two stores must agree about. A store may count a claim that it refuses in the fence."""
    return visit.run_id, visit.id, visit.step, visit.attempt, visit.due_at


def limit_request(key: GateKey, size: int, **options: Any) -> SlotRequest:
    """Return a request at a limit. The size is that of an own one."""
    return (
        SlotRequest(key, "api", None, **options) if key == NAMED else SlotRequest(key, "l", size, **options)
    )


def rate_request(key: GateKey, units: int, *, queues: bool) -> SlotRequest:
    """Return a request at a rate. An owner that does not queue does not wait either."""
    size, per = RATES[key]
    options: Any = {"is_rate": True, "units": min(units, size), "max_wait": None if queues else 0.0}
    if key == QUOTA:
        return SlotRequest(key, "quota", None, queues=queues, **options)
    return SlotRequest(key, "l", size, queues=queues, per=per, **options)


def read_gates(store: Store) -> list[tuple[Any, list[Slot]]]:
    """Return all gates with their slots. Editions are those of a store.

    A store may hide an own rate at which no owner has a slot.
    """
    gates = [*store.gates.find("default", named=True)[0], *store.gates.find("default", named=False)[0]]
    return [
        (replace(gate, edition=0), store.gates.slots_at(gate.key)[0])
        for gate in gates
        if gate.held or not is_own_rate(gate.key)
    ]


def test_stores_agree_about_random_operations() -> None:
    machine_settings = settings(
        max_examples=2 * settings().max_examples,
        stateful_step_count=60,
        suppress_health_check=list(HealthCheck),
    )
    GateMachine.reached.clear()
    run_state_machine_as_test(GateMachine, settings=machine_settings)
    assert len(GateMachine.reached) == 3
    assert min(GateMachine.reached.values()) >= 3


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
        machine.acquire(run_id, {GATES[0]}, set(), False, 2, units=1, queues=True, rank=0.0, flow="")
        machine.is_sound()
    assert list(machine.queued) == [RUNS[2]]
    machine.wait(RUNS[2], NEVER)
    machine.is_sound()
    machine.end(RUNS[0], "succeeds")
    machine.is_sound()
    machine.grant(None)
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
