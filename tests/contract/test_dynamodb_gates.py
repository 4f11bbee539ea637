"""Gates in DynamoDB: requests that are interrupted, or that race with those of others, and damage."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from noetl.executor.errors import StoreError
from noetl.executor.model.gates import GateKey, LimitKind, Slot, SlotOwner, own_gate
from noetl.executor.model.run import END, NEVER, Claim, Lease, Run, RunEnding, RunStatus
from noetl.executor.model.transition import abandon, wait_for_slot
from noetl.executor.stores.dynamo import gate_grants, keys
from noetl.executor.stores.dynamo import table as tables
from noetl.executor.stores.dynamo.expressions import Delete, Update
from noetl.executor.stores.dynamo.gate_items import ticket_key
from noetl.executor.stores.dynamo.slot_returns import MAX_RETURNED
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.gates import (
    NAMED,
    OF_RUNS,
    OWN,
    acquire,
    acquire_for_run,
    ask,
    give_back,
    hold,
    numbers_of,
    queue_up,
    suspend_queued,
)
from noetl.testing.store_contract.operations import (
    CHAIN,
    DIAMOND,
    LEASE,
    claim_visit,
    current_run,
    failed_checks,
    start_run,
    succeed,
)
from noetl.testing.store_contract.switches import execute_until_it_waits, switch
from tests.aws import Client
from tests.contract.test_dynamodb_races import ManualQueue, start_service_run, store_with_queue


@pytest.fixture
def store(aws: Client) -> DynamoStore:
    upgrade("noetl")
    return DynamoStore("noetl")


def list_items(store: DynamoStore) -> list[tuple[str, str]]:
    """Return the keys of all gates, tickets and slots."""
    return sorted(
        (item["pk"], item["sk"])
        for item in store.context.table.scan()
        if item["pk"][:2] in ("X#", "Z#") or item["sk"][:2] == "S#"
    )


def check_gates(store: DynamoStore, gates: Sequence[GateKey] = (OWN,)) -> None:
    """Check that gates count their slots, and that no more is held than they have."""
    for key in gates:
        slots, _ = store.gates.slots_at(key)
        gate = store.gates.gate(key)
        if gate is None:
            assert slots == []
            continue
        held = sum(slot.units for slot in slots if slot.is_held)
        assert (gate.held, gate.waiting) == (held, sum(not slot.is_held for slot in slots))
        assert held <= gate.units


def before_next_write(store: DynamoStore, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen between the reads of a call and its first write."""
    table = store.context.table
    write = table.write

    def act_and_write(writes: Any) -> None:
        monkeypatch.setattr(table, "write", write)
        act()
        write(writes)

    monkeypatch.setattr(table, "write", act_and_write)


@pytest.fixture(params=["visit", "run"])
def second(store: DynamoStore, request: pytest.FixtureRequest) -> tuple[Claim, Slot]:
    """The claim of a visit, and its slot or that of its run, which waits although a unit is free."""
    first, claim = hold(store), claim_visit(store, start_run(store))
    owner = SlotOwner(claim.run.id, claim.visit.id if request.param == "visit" else "")
    (slot,) = store.gates.acquire(claim, owner, [ask()], 1.0)
    give_back(store, first)
    return claim, slot


def test_a_run_that_is_unpaused_before_its_slot_is_removed_is_granted(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its visit, which was suspended for the slot again, would never be due."""
    first = claim_visit(store, start_run(store))
    acquire_for_run(store, first)
    second = claim_visit(store, start_run(store))
    suspend_queued(store, second, acquire_for_run(store, second)[0])
    store.pauses.pause(second.run.id, 2.0)
    store.runs.stop(first.run.id, RunStatus.CANCELLED, 2.0)
    store.queue.commit(abandon(first.visit), 2.0)
    store.queue.finish(claim_visit(store, first.run, 3.0), RunEnding(RunStatus.CANCELLED, None, []), 3.0)

    def suspend_again() -> None:
        store.pauses.unpause(second.run.id, 4.0)
        again = claim_visit(store, second.run, 4.0)
        suspend_queued(store, again, acquire_for_run(store, again, 4.0)[0], 4.0)

    before_next_write(store, monkeypatch, suspend_again)
    assert store.gates.grant(OF_RUNS, 5.0) == 1
    again = claim_visit(store, second.run, 5.0)
    assert acquire_for_run(store, again, 5.0)[0].is_held
    check_gates(store, [OF_RUNS])


def pause_partly(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, run: Run, act: Callable[[], object], dies: bool
) -> None:
    """Pause a run. Between the write of its head and the reads of its visits, something else happens."""
    settle = store.pauses.settle

    def act_and_settle(head: Any, now: float) -> Any:
        monkeypatch.setattr(store.pauses, "settle", settle)
        act()
        if dies:
            raise GateWorkerDied
        return settle(head, now)

    monkeypatch.setattr(store.pauses, "settle", act_and_settle)
    with suppress(GateWorkerDied):
        store.pauses.pause(run.id, 3.0)


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("is_unpaused_first", [False, True])
def test_a_grant_before_the_visits_of_a_pause_are_parked(
    store: DynamoStore,
    second: tuple[Claim, Slot],
    monkeypatch: pytest.MonkeyPatch,
    is_unpaused_first: bool,
    dies: bool,
) -> None:
    """The visit is suspended until it gets its slot, which the grant removes. So it must be due."""
    claim, slot = second
    suspend_queued(store, claim, slot, 2.0)

    def grant() -> None:
        assert store.gates.grant(OWN, 3.0) == 0
        if is_unpaused_first:
            store.pauses.unpause(claim.run.id, 4.0)

    pause_partly(store, monkeypatch, claim.run, grant, dies)
    assert store.gates.slots_of(claim.run.id) == []
    if not is_unpaused_first:
        assert store.queue.claim(claim.run.id, LEASE, 4.0) is None
        store.pauses.unpause(claim.run.id, 4.0)
    again = claim_visit(store, claim.run, 5.0)
    assert (again.visit.id, failed_checks(store)) == (claim.visit.id, [])
    (held,) = store.gates.acquire(again, slot.owner, [ask()], 5.0)
    assert held.is_held
    check_gates(store)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_suspension_and_a_grant_that_removes_its_slot(
    store: DynamoStore, second: tuple[Claim, Slot], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The visit that works on while its run is paused is suspended for a slot that is being removed."""
    claim, slot = second
    store.pauses.pause(claim.run.id, 2.0)
    suspend = partial(suspend_queued, store, claim, slot, 3.0)
    grant = partial(store.gates.grant, OWN, 3.0)
    before_next_write(store, monkeypatch, grant if when == "before" else suspend)
    if when == "before":
        suspend()
    else:
        grant()
    assert store.gates.slots_of(claim.run.id) == []
    store.pauses.unpause(claim.run.id, 4.0)
    assert claim_visit(store, claim.run, 5.0).visit.id == claim.visit.id


def test_a_grant_removes_the_slot_of_a_run_for_which_many_visits_wait(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_grants, "MAX_WOKEN", 1)
    first = claim_visit(store, start_run(store))
    acquire_for_run(store, first)
    run = start_run(store, DIAMOND)
    store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
    for _ in range(4):
        claim = claim_visit(store, run, 1.0)
        suspend_queued(store, claim, acquire_for_run(store, claim)[0])
    store.queue.commit(succeed(store, first), 2.0)
    store.queue.finish(finish_steps(store, first.run), RunEnding(RunStatus.SUCCEEDED, None, []), 2.0)
    pause_partly(store, monkeypatch, run, lambda: store.gates.grant(OF_RUNS, 3.0), dies=True)
    store.pauses.unpause(run.id, 4.0)
    assert sorted(claim_visit(store, run, 4.0).visit.step for _ in range(4)) == ["b1", "b2", "b3", "b4"]


def test_a_grant_between_the_read_and_the_suspension(
    store: DynamoStore, second: tuple[Claim, Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, slot = second
    granted: list[int] = []
    before_next_write(store, monkeypatch, lambda: granted.append(store.gates.grant(OWN, 3.0)))
    suspend_queued(store, claim, slot, 3.0)
    assert granted == [1]
    check_gates(store)
    assert claim_visit(store, claim.run, 3.0).visit.id == claim.visit.id


def test_a_suspension_between_the_read_and_the_grant(
    store: DynamoStore, second: tuple[Claim, Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, slot = second
    before_next_write(store, monkeypatch, lambda: suspend_queued(store, claim, slot, 3.0))
    assert store.gates.grant(OWN, 3.0) == 1
    check_gates(store)
    assert claim_visit(store, claim.run, 3.0).visit.id == claim.visit.id


@pytest.mark.parametrize("is_end", [False, True])
def test_a_grant_between_the_read_and_the_return(
    store: DynamoStore, second: tuple[Claim, Slot], monkeypatch: pytest.MonkeyPatch, is_end: bool
) -> None:
    """A visit or a run ends that is granted its slot at the same time."""
    claim, slot = second
    if is_end:
        store.queue.commit(succeed(store, claim), 2.0)
        claim = finish_steps(store, claim.run)
    before_next_write(store, monkeypatch, lambda: store.gates.grant(OWN, 3.0))
    if is_end:
        store.queue.finish(claim, RunEnding(RunStatus.SUCCEEDED, None, []), 3.0)
    else:
        give_back(store, claim, 3.0)
    left = [] if is_end or slot.owner.visit_id else [slot]
    assert [found.gate for found in store.gates.slots_of(claim.run.id)] == [found.gate for found in left]
    check_gates(store)


def finish_steps(store: DynamoStore, run: Run) -> Claim:
    """Let all steps of a run succeed, and return the claim of its end."""
    claim = claim_visit(store, run, 2.0)
    while claim.visit.step != END:
        store.queue.commit(succeed(store, claim), 2.0)
        claim = claim_visit(store, run, 2.0)
    return claim


def test_a_claim_that_is_revoked_gives_back(store: DynamoStore) -> None:
    """The process that pauses a run dies after it has written the head."""
    first, waiting = hold(store), queue_up(store)
    give_back(store, first)
    assert store.gates.grant(OWN, 3.0) == 1
    store.context.table.update(Update(keys.head(waiting.run.id), {"held": True}))
    assert store.queue.claim(waiting.run.id, LEASE, 3.0) is None
    assert store.gates.slots_of(waiting.run.id) == []
    store.pauses.unpause(waiting.run.id, 4.0)
    assert acquire(store, claim_visit(store, waiting.run, 4.0))[0].is_held


def test_the_end_of_a_run_gives_back_more_slots_than_a_transaction_may(store: DynamoStore) -> None:
    claim = claim_visit(store, start_run(store))
    gates = sorted(own_gate("default", "play", None, 1, f"{number:03}") for number in range(3 * MAX_RETURNED))
    for start in range(0, len(gates), 20):
        acquire(store, claim, *(ask(key) for key in gates[start : start + 20]))
    acquire_for_run(store, claim)
    waiting = queue_up(store, ask(gates[0]))
    store.queue.commit(succeed(store, claim), 2.0)
    claim = finish_steps(store, claim.run)
    freed = store.queue.finish(claim, RunEnding(RunStatus.SUCCEEDED, None, []), 2.0)
    assert gates[0] in freed
    assert store.gates.grant(gates[0], 3.0) == 1
    give_back(store, claim_visit(store, waiting.run, 4.0), 5.0)
    assert list_items(store) == []
    assert failed_checks(store) == []


def test_more_visits_are_woken_than_a_transaction_may(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_grants, "MAX_WOKEN", 1)
    first = claim_visit(store, start_run(store))
    acquire_for_run(store, first)
    run = start_run(store, DIAMOND)
    store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
    for _ in range(4):
        claim = claim_visit(store, run, 1.0)
        suspend_queued(store, claim, acquire_for_run(store, claim)[0])
    store.queue.commit(succeed(store, first), 2.0)
    store.queue.finish(finish_steps(store, first.run), RunEnding(RunStatus.SUCCEEDED, None, []), 2.0)
    assert store.gates.grant(OF_RUNS, 3.0) == 1
    assert sorted(claim_visit(store, run, 3.0).visit.step for _ in range(4)) == ["b1", "b2", "b3", "b4"]


def test_a_visit_whose_message_is_lost_is_found(store: DynamoStore) -> None:
    queue = ManualQueue()
    queued, holder = store_with_queue(queue), hold(store)
    start_service_run(queued, CHAIN)
    claim = queued.queue.claim_message(queue.bodies.pop(), LEASE, 1.0)
    assert isinstance(claim, Claim)
    suspend_queued(queued, claim, acquire(queued, claim)[0])
    queued.maintenance.sweep(2.0)
    assert queue.bodies == []
    give_back(store, holder)
    assert queued.gates.grant(OWN, 3.0) == 1
    assert queue.bodies.pop()
    queued.maintenance.sweep(4.0 + GRACE_SECONDS)
    (body,) = queue.bodies
    again = queued.queue.claim_message(body, LEASE, 5.0 + GRACE_SECONDS)
    assert isinstance(again, Claim)
    assert acquire(queued, again)[0].is_held


def test_a_suspended_run_with_a_long_limit_is_woken(store: DynamoStore) -> None:
    """The visit waits longer than a message can be delayed, so its run sleeps."""
    queue = ManualQueue()
    queued, holder = store_with_queue(queue), hold(store)
    run_id = start_service_run(queued, CHAIN)
    claim = queued.queue.claim_message(queue.bodies.pop(), LEASE, 1.0)
    assert isinstance(claim, Claim)
    (slot,) = acquire(queued, claim)
    queued.queue.commit(wait_for_slot(claim.visit, slot, 90_000.0, 1.0), 1.0)
    assert queued.context.heads.read(run_id)["open"].startswith("asleep")
    give_back(store, holder)
    assert queued.gates.grant(OWN, 3.0) == 1
    assert isinstance(queued.queue.claim_message(queue.bodies.pop(), LEASE, 3.0), Claim)
    assert not queued.context.heads.read(run_id)["open"].startswith("asleep")


@pytest.mark.parametrize("place", ["", "{limit: 1}"])
def test_a_run_that_changes_its_plan_asks_again(store: DynamoStore, place: str) -> None:
    """The new plan has no limits, so the run ends although the limit stays full."""
    text = "concurrency: {limit: 1}\n" if place else ""
    step = "" if place else "concurrency: {limit: 1}, "
    steps = "steps: [{name: a, %srun: [{action: set, set: {n: 1}}]}]\noutput: {n: '{{ n }}'}"
    if place:
        acquire_for_run(store, claim_visit(store, start_run(store)))
    else:
        hold(store)
    harness = RunHarness(store, text + steps % step)
    execute_until_it_waits(harness)
    assert harness.status is RunStatus.WAITING
    switch(harness, steps % "")
    assert store.gates.slots_of(harness.id) == []
    assert harness.finish().result == {"n": 1}
    assert failed_checks(store) == []


def test_a_ticket_without_a_slot_does_not_stop_the_queue(store: DynamoStore) -> None:
    first, lost, waiting = hold(store), queue_up(store), queue_up(store, now=2.0)
    slot_key = keys.slot(OWN, SlotOwner(lost.run.id, lost.visit.id))
    store.context.table.write([Delete(slot_key)])
    give_back(store, first)
    assert store.gates.grant(OWN, 3.0) == 1
    assert acquire(store, claim_visit(store, waiting.run, 3.0))[0].is_held
    assert failed_checks(store)[0] == "counters of gates"


def test_a_gate_that_counts_a_lost_slot_does_not_stall(store: DynamoStore) -> None:
    first, lost = hold(store), queue_up(store)
    (slot,) = store.gates.slots_of(lost.run.id)
    store.context.table.write([Delete(ticket_key(slot)), Delete(keys.slot(slot.gate, slot.owner))])
    give_back(store, first)
    assert store.gates.grant(OWN, 3.0) == 0
    assert store.gates.stalled(10) == []
    assert numbers_of(store) == (0, 1)


def test_slots_of_a_lost_gate_are_given_back(store: DynamoStore) -> None:
    claim = hold(store, ask(size=2))
    store.context.table.write([Delete(keys.gate(OWN))])
    assert failed_checks(store) == ["unknown gates"]
    give_back(store, claim)
    assert list_items(store) == []


def test_a_busy_gate_is_given_up(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process changes the gate before each write."""
    first, waiting = hold(store), queue_up(store)
    third = claim_visit(store, start_run(store))
    give_back(store, first)
    table = store.context.table
    write = table.write

    def change_and_write(writes: Any) -> None:
        table.update(Update(keys.gate(OWN), add={"edition": 1}))
        write(writes)

    monkeypatch.setattr(table, "write", change_and_write)
    for module in ("conflicts", "gate_grants"):
        monkeypatch.setattr(f"noetl.executor.stores.dynamo.{module}.MAX_CONFLICTS", 2)
    with pytest.raises(StoreError, match="could not acquire its limits"):
        acquire(store, third)
    with pytest.raises(StoreError, match="could not be granted"):
        store.gates.grant(OWN, 3.0)
    monkeypatch.setattr(table, "write", write)
    assert store.gates.grant(OWN, 3.0) == 1
    assert acquire(store, claim_visit(store, waiting.run, 3.0))[0].is_held


def test_a_busy_limit_is_given_up(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.gates.set_limit(NAMED, LimitKind.STEPS, 1)
    table = store.context.table
    write = table.write

    def change_and_write(writes: Any) -> None:
        table.update(Update(keys.gate(NAMED), add={"edition": 1}))
        write(writes)

    monkeypatch.setattr("noetl.executor.stores.dynamo.conflicts.MAX_CONFLICTS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(table, "write", change_and_write)
        with pytest.raises(StoreError, match="Limit `api` could not be changed"):
            store.gates.set_limit(NAMED, LimitKind.STEPS, 2)
        with pytest.raises(StoreError, match="Limit `api` could not be removed"):
            store.gates.remove_limit(NAMED)
    assert store.gates.remove_limit(NAMED)


class GateWorkerDied(Exception):
    """A simulated death of the process."""


class Deaths:
    """The count of writes, one of which is not answered: the process dies before or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
        self.count, self.dies_at = 0, 10**9
        write = tables.DynamoTable._write

        def write_or_die(table: Any, *args: Any, **request: Any) -> dict[str, Any]:
            self.count += 1
            if self.count == self.dies_at and when == "before":
                raise GateWorkerDied
            response = write(table, *args, **request)
            if self.count == self.dies_at:
                raise GateWorkerDied
            return response

        monkeypatch.setattr(tables.DynamoTable, "_write", write_or_die)


def execute(store: DynamoStore, run: Run, now: float) -> bool:
    """Execute the next visit of a run as a worker does. Return whether one was due."""
    claim = store.queue.claim(run.id, Lease("w", 30.0), now)
    if claim is None:
        return False
    if claim.visit.step == END:
        gates = [slot.gate for slot in store.gates.slots_of(run.id)]
        store.queue.finish(claim, RunEnding(RunStatus.SUCCEEDED, None, []), now)
    else:
        of_run = store.gates.acquire(claim, SlotOwner(run.id), [ask(OF_RUNS, 2)], now)
        requests = [ask(flow=run.id[-1]), ask(NAMED, None, flow=run.id[-1])]
        slots = acquire(store, claim, *requests, now=now) if of_run[-1].is_held else of_run
        if not slots[-1].is_held:
            store.queue.commit(wait_for_slot(claim.visit, slots[-1], NEVER, now), now)
            return True
        gates = [slot.gate for slot in slots]
        store.queue.commit(replace(succeed(store, claim), gives_back=True), now)
    for key in gates:
        store.gates.grant(key, now)
    return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_may_die_at_any_write(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Three runs share limits of two runs and of one visit. None of them waits for ever, and nothing is lost.

    Only `stalled` finds what a dead worker has not granted.
    """
    store.gates.set_limit(NAMED, LimitKind.STEPS, 1)
    deaths, chance = Deaths(monkeypatch, when), random.Random(when)
    point, is_over = 1, False
    while not is_over:
        runs = [start_run(store, now=1.0) for _ in range(3)]
        deaths.count, deaths.dies_at = 0, point
        now, rounds = 2.0, 0
        while open_runs := [run for run in runs if not current_run(store, run).status.is_final]:
            rounds += 1
            assert rounds < 60
            try:
                done = [execute(store, run, now) for run in chance.sample(open_runs, len(open_runs))]
                for key in store.gates.stalled(10) if not any(done) else ():
                    store.gates.grant(key, now)
            except GateWorkerDied:
                now += 31.0
            check_gates(store, (OWN, OF_RUNS, NAMED))
        is_over = deaths.count < point
        deaths.dies_at = 10**9
        for key in (OWN, OF_RUNS):
            store.gates.grant(key, now)
        assert store.gates.find("default", named=False) == ([], None)
        point += chance.randrange(2, 9)
    assert failed_checks(store) == []
    assert list_items(store) == [("X#default", "use:api")]
    assert point > 40
