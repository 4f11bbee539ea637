"""Gates in DynamoDB: requests that are interrupted or race with others, and what they cost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.errors import FencedError
from noetl.executor.model.gates import GateKey, LimitKind, Slot, SlotOwner, SlotRequest, named_gate, own_gate
from noetl.executor.model.run import END, NEVER, Claim, Lease, Run, RunEnding, RunStatus
from noetl.executor.model.transition import wait_for_slot
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo import table as tables
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.slot_returns import MAX_RETURNED
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.store_contract.operations import (
    LEASE,
    claim_visit,
    current_run,
    end_run,
    failed_checks,
    run_concurrently,
    start_run,
    succeed,
)
from tests.aws import Client

OWN = own_gate("default", "play", "a", 0, None)
OF_RUN = own_gate("default", "play", None, 0, None)
API = named_gate("default", "api")


@pytest.fixture
def store(aws: Client) -> DynamoStore:
    upgrade("noetl")
    return DynamoStore("noetl")


def ask(key: GateKey = OWN, size: int | None = 1, **options: Any) -> SlotRequest:
    return SlotRequest(key, "play.a", size, **options)


def acquire(store: DynamoStore, claim: Claim, *requests: SlotRequest, now: float = 1.0) -> list[Slot]:
    owner = SlotOwner(claim.run.id, claim.visit.id)
    return store.gates.acquire(claim, owner, requests or [ask()], now)


def queue_up(store: DynamoStore, claim: Claim, *requests: SlotRequest, now: float = 1.0) -> None:
    """Ask for slots of which the last waits, and suspend the visit."""
    slot = acquire(store, claim, *requests, now=now)[-1]
    assert not slot.is_held
    store.queue.commit(wait_for_slot(claim.visit, slot, NEVER, now), now)


def leave(store: DynamoStore, claim: Claim, now: float = 2.0) -> None:
    """Let a visit succeed, and give back its slots."""
    store.queue.commit(replace(succeed(store, claim), gives_back=True), now)


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


def test_a_slot_passes_to_the_next_visit(store: DynamoStore) -> None:
    first, second = (claim_visit(store, start_run(store)) for _ in range(2))
    (held,) = acquire(store, first)
    assert (held.is_held, acquire(store, first)) == (True, [held])
    queue_up(store, second)
    assert store.queue.claim(second.run.id, LEASE, 1e9) is None
    assert store.gates.stalled(10) == []
    leave(store, first)
    assert store.gates.stalled(10) == [OWN]
    check_gates(store)
    assert store.gates.grant(OWN, 3.0) == 1
    assert store.gates.stalled(10) == []
    again = claim_visit(store, second.run, 3.0)
    (granted,) = acquire(store, again)
    assert (granted.is_held, granted.held_at, granted.queued_at) == (True, 3.0, 1.0)
    leave(store, again)
    assert list_items(store) == []


def test_the_queue_is_in_order_of_rank_time_and_run(store: DynamoStore) -> None:
    runs = [start_run(store, run_id=id) for id in "abcde"]
    claims = {run.id: claim_visit(store, run) for run in runs}
    acquire(store, claims["a"])
    queue_up(store, claims["b"], now=2.0)
    queue_up(store, claims["d"], now=1.0)
    queue_up(store, claims["c"], now=1.0)
    queue_up(store, claims["e"], ask(rank=-60.0), now=9.0)
    page, cursor = store.gates.slots_at(OWN, limit=2)
    assert cursor is not None
    rest, end = store.gates.slots_at(OWN, limit=9, cursor=cursor)
    assert ([slot.owner.run_id for slot in [*page, *rest]], end) == (["a", "e", "c", "d", "b"], None)
    assert [slot.queued_before for run in runs for slot in store.gates.slots_of(run.id)] == [0, 3, 1, 2, 0]


def test_a_late_worker_gets_no_slot(store: DynamoStore) -> None:
    run = start_run(store)
    late = claim_visit(store, run)
    claim = claim_visit(store, run, 100.0, Lease("two", 30.0))
    with pytest.raises(FencedError):
        acquire(store, late)
    acquire(store, claim)
    with pytest.raises(FencedError):
        acquire(store, late)


def test_a_visit_granted_before_its_suspension_is_due_at_once(store: DynamoStore) -> None:
    first, second = (claim_visit(store, start_run(store)) for _ in range(2))
    acquire(store, first)
    (slot,) = acquire(store, second)
    leave(store, first)
    assert store.gates.grant(OWN, 3.0) == 1
    store.queue.commit(wait_for_slot(second.visit, slot, NEVER, 3.0), 3.0)
    assert claim_visit(store, second.run, 3.0).visit.id == second.visit.id


@pytest.mark.parametrize("of_run", [False, True])
def test_a_grant_between_the_read_and_the_suspension(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, of_run: bool
) -> None:
    first, second = (claim_visit(store, start_run(store)) for _ in range(2))
    acquire(store, first)
    owner = SlotOwner(second.run.id, "" if of_run else second.visit.id)
    (slot,) = store.gates.acquire(second, owner, [ask()], 1.0)
    leave(store, first)
    write = store.context.table.write

    def grant_before(writes: Any) -> None:
        monkeypatch.setattr(store.context.table, "write", write)
        assert store.gates.grant(OWN, 3.0) == 1
        write(writes)

    monkeypatch.setattr(store.context.table, "write", grant_before)
    store.queue.commit(wait_for_slot(second.visit, slot, NEVER, 3.0), 3.0)
    check_gates(store)
    assert claim_visit(store, second.run, 3.0).visit.id == second.visit.id


def test_a_suspension_between_the_read_and_the_grant(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (claim_visit(store, start_run(store)) for _ in range(2))
    acquire(store, first)
    (slot,) = store.gates.acquire(second, SlotOwner(second.run.id), [ask()], 1.0)
    leave(store, first)
    write = store.context.table.write

    def suspend_before(writes: Any) -> None:
        monkeypatch.setattr(store.context.table, "write", write)
        store.queue.commit(wait_for_slot(second.visit, slot, NEVER, 3.0), 3.0)
        write(writes)

    monkeypatch.setattr(store.context.table, "write", suspend_before)
    assert store.gates.grant(OWN, 3.0) == 1
    check_gates(store)
    assert claim_visit(store, second.run, 3.0).visit.id == second.visit.id


@pytest.mark.parametrize("pauses", [False, True])
def test_parked_visits_give_back_and_ask_again(store: DynamoStore, pauses: bool) -> None:
    first, second = (claim_visit(store, start_run(store)) for _ in range(2))
    acquire(store, first)
    queue_up(store, second)
    if pauses:
        store.pauses.pause(second.run.id, 2.0)
    else:
        store.runs.stop(second.run.id, RunStatus.CANCELLED, 2.0)
    check_gates(store)
    assert store.gates.slots_of(second.run.id) == []
    if pauses:
        store.pauses.unpause(second.run.id, 3.0)
        assert acquire(store, claim_visit(store, second.run, 3.0))[0].queued_before == 0
    else:
        end_run(store, second.run, RunStatus.CANCELLED, 3.0)
        assert current_run(store, second.run).status is RunStatus.CANCELLED
    leave(store, first)


def test_a_claim_that_is_revoked_gives_back(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is paused between the claim of a visit that was granted, and the read of the head."""
    first, second = (claim_visit(store, start_run(store)) for _ in range(2))
    acquire(store, first)
    queue_up(store, second)
    leave(store, first)
    store.gates.grant(OWN, 3.0)
    update = store.context.table.update
    store.context.table.update(Update(keys.head(second.run.id), {"held": True}))
    assert store.queue.claim(second.run.id, LEASE, 3.0) is None
    assert update is not None
    assert store.gates.slots_of(second.run.id) == []
    store.pauses.unpause(second.run.id, 4.0)
    assert acquire(store, claim_visit(store, second.run, 4.0))[0].is_held


def test_a_run_that_waits_starts_when_it_is_granted(store: DynamoStore) -> None:
    holder, waiting = (claim_visit(store, start_run(store)) for _ in range(2))
    store.gates.acquire(holder, SlotOwner(holder.run.id), [ask(OF_RUN)], 1.0)
    (slot,) = store.gates.acquire(waiting, SlotOwner(waiting.run.id), [ask(OF_RUN)], 1.0)
    store.queue.commit(wait_for_slot(waiting.visit, slot, NEVER, 1.0), 1.0)
    store.pauses.pause(waiting.run.id, 1.0)
    assert [slot.is_held for slot in store.gates.slots_of(waiting.run.id, "")] == [False]
    store.pauses.unpause(waiting.run.id, 1.0)
    again = claim_visit(store, waiting.run, 1.0)
    store.queue.commit(wait_for_slot(again.visit, slot, NEVER, 1.0), 1.0)
    finish_chain(store, holder)
    assert store.gates.grant(OF_RUN, 3.0) == 1
    assert [slot.is_held for slot in store.gates.slots_of(waiting.run.id)] == [True]
    finish_chain(store, claim_visit(store, waiting.run, 3.0))
    assert list_items(store) == []


def finish_chain(store: DynamoStore, claim: Claim) -> None:
    while claim.visit.step != END:
        store.queue.commit(succeed(store, claim), 2.0)
        claim = claim_visit(store, claim.run, 2.0)
    store.queue.finish(claim, RunEnding(RunStatus.SUCCEEDED, None, []), 2.0)


def test_the_end_of_a_run_gives_back_more_slots_than_a_transaction_may(store: DynamoStore) -> None:
    claim = claim_visit(store, start_run(store))
    gates = sorted(own_gate("default", "play", None, 0, f"{number:03}") for number in range(3 * MAX_RETURNED))
    for start in range(0, len(gates), 20):
        acquire(store, claim, *(ask(key) for key in gates[start : start + 20]))
    store.gates.acquire(claim, SlotOwner(claim.run.id), [ask(OF_RUN)], 1.0)
    finish_chain(store, claim)
    assert list_items(store) == []
    assert failed_checks(store) == []


def test_concurrent_visits_never_exceed_a_limit(store: DynamoStore) -> None:
    claims = [claim_visit(store, start_run(store)) for _ in range(8)]

    def work(index: int) -> bool:
        return acquire(DynamoStore("noetl"), claims[index], ask(size=3))[0].is_held

    assert sum(run_concurrently(8, work)) == 3
    check_gates(store)
    held = [slot for slot in store.gates.slots_at(OWN)[0] if slot.is_held]
    assert len(held) == 3
    for claim in claims:
        run_id = claim.run.id
        (slot,) = store.gates.slots_of(run_id)
        if slot.is_held:
            leave(store, claim)
    assert store.gates.grant(OWN, 3.0) == 3
    check_gates(store)


class WorkerDied(Exception):
    """A simulated death of the process."""


class Deaths:
    """Writes of which one is not answered, because the process dies before or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
        self.count, self.dies_at = 0, 10**9
        write = tables.DynamoTable._write

        def write_or_die(table: Any, *args: Any, **request: Any) -> dict[str, Any]:
            self.count += 1
            if self.count == self.dies_at and when == "before":
                raise WorkerDied
            response = write(table, *args, **request)
            if self.count == self.dies_at:
                raise WorkerDied
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
        of_run = store.gates.acquire(claim, SlotOwner(run.id), [ask(OF_RUN, 2)], now)
        requests = [ask(), ask(API, None)]
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
    """Three runs share limits of two runs and of one visit. Nobody waits for ever, and nothing is lost.

    Only `stalled` finds what a dead worker has not granted.
    """
    store.gates.set_limit(API, LimitKind.STEPS, 1)
    deaths, chance = Deaths(monkeypatch, when), random.Random(when)
    point = 1
    while True:
        runs = [start_run(store, now=1.0) for _ in range(3)]
        deaths.count, deaths.dies_at = 0, point
        now = 2.0
        rounds = 0
        while open_runs := [run for run in runs if not current_run(store, run).status.is_final]:
            rounds += 1
            assert rounds < 60
            try:
                done = [execute(store, run, now) for run in chance.sample(open_runs, len(open_runs))]
                for key in store.gates.stalled(10) if not any(done) else ():
                    store.gates.grant(key, now)
            except WorkerDied:
                now += 31.0
            check_gates(store, (OWN, OF_RUN, API))
        is_over = deaths.count < point
        deaths.dies_at = 10**9
        for key in (OWN, OF_RUN):
            store.gates.grant(key, now)
        assert store.gates.find("default", named=False) == ([], None)
        if is_over:
            break
        point += chance.randrange(2, 9)
    assert failed_checks(store) == []
    assert list_items(store) == [("X#default", "use:api")]
    assert point > 40
