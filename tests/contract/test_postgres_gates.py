"""Concurrent owners of gates on Postgres: limits hold, all runs end, and there is no deadlock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count
from random import Random
from threading import Event
from types import ModuleType
from typing import Any

import psycopg
import pytest

from noetl.executor.engine.slots import grant_stalled
from noetl.executor.errors import RejectedError
from noetl.executor.model.gates import Gate, Slot, SlotOwner, SlotRequest, own_gate
from noetl.executor.model.run import END, NEVER, Claim, Commit, Run, RunEnding, RunStatus, Visit, VisitStatus
from noetl.executor.model.transition import wait_for_slot
from noetl.executor.stores.postgres import slots as statements_of_slots
from noetl.executor.stores.postgres.database import STATEMENTS
from noetl.executor.stores.postgres.slots import SlotStatements
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql import gates as sql_gates
from noetl.executor.stores.sql import slots as shared_slots
from noetl.executor.stores.sql.database import Result, Writer
from noetl.planner.frozen import replace
from noetl.testing.store_contract.gates import OWN, acquire, give_back, hold, queue_up, suspend_queued
from noetl.testing.store_contract.operations import (
    CHAIN,
    LEASE,
    claim_visit,
    failed_checks,
    run_concurrently,
    start_child,
    start_run,
    succeed,
    wait_key,
)
from tests.contract.lock_observer import LockObserver

SIZES = {own_gate("default", "p", step, 0, None): size for step, size in (("a", 3), ("b", 2), ("c", 1))}
OF_RUNS = own_gate("default", "p", None, 0, None)
MAX_ROUNDS = 5_000
"""Number of claims that a thread tries. All runs have ended long before."""


@pytest.fixture
def stores(postgres_store_dsn: str) -> Iterator[list[PostgresStore]]:
    """Stores with their own connections to one database, which repeat nothing that has failed."""
    # A session that waits searches for a deadlock after this time. The default is a second.
    dsn = postgres_store_dsn + "&options=-c%20deadlock_timeout%3D50ms"
    stores = [PostgresStore(dsn) for _ in range(4)]
    for store in stores:
        for part in (store.gates, store.queue, store.runs, store.pauses, store.maintenance):
            for name, operation in list(vars(part).items()):
                if hasattr(operation, "__wrapped__"):
                    setattr(part, name, operation.__wrapped__)
    yield stores
    for store in stores:
        store.close()


class Owner:
    """A thread that claims visits of runs, and asks for slots before each."""

    def __init__(self, store: PostgresStore, runs: list[Run], seed: int) -> None:
        self.store = store
        self.runs = runs
        self.random = Random(seed)
        self.most_held = dict.fromkeys((*SIZES, OF_RUNS), 0)

    def work(self) -> None:
        """Claim visits of runs in a random order, until all have ended."""
        for _ in range(MAX_ROUNDS):
            self.runs = [run for run in self.runs if not self.has_ended(run)]
            if not self.runs:
                return
            run = self.random.choice(self.runs)
            if self.random.random() < 0.2:
                self.pause(run)
            if self.random.random() < 0.1:
                self.store.maintenance.sweep(1.0)  # It deletes gates that are not used.
            claim = self.store.queue.claim(run.id, LEASE, 1.0)
            if claim is not None:
                self.perform(claim)
            for key in self.store.gates.stalled(10):
                self.store.gates.grant(key, 1.0)

    def has_ended(self, run: Run) -> bool:
        return self.store.runs.positions([run.id])[run.id].status.is_final

    def pause(self, run: Run) -> None:
        with suppress(RejectedError):
            self.store.pauses.pause(run.id, 1.0)
        with suppress(RejectedError):
            self.store.pauses.unpause(run.id, 1.0)

    def perform(self, claim: Claim) -> None:
        """Ask for slots of the run and of a claimed visit, and end the visit if it has them."""
        if claim.visit.step == END:
            self.store.queue.finish(claim, RunEnding(RunStatus.SUCCEEDED, None, []), 1.0)
            self.store.gates.grant(OF_RUNS, 1.0)
            return
        keys = sorted(self.random.sample(list(SIZES), 2))
        of_visit = [SlotRequest(key, "l", SIZES[key], flow=self.random.choice("ab")) for key in keys]
        owner = SlotOwner(claim.run.id)
        slots = self.store.gates.acquire(claim, owner, [SlotRequest(OF_RUNS, "l", 4)], 1.0)
        if slots[-1].is_held:
            slots = self.store.gates.acquire(claim, SlotOwner(claim.run.id, claim.visit.id), of_visit, 1.0)
        if not slots[-1].is_held:
            self.store.queue.commit(wait_for_slot(claim.visit, slots[-1], NEVER, 1.0), 1.0)
            return
        for key in self.most_held:
            gate = self.store.gates.gate(key)
            self.most_held[key] = max(self.most_held[key], 0 if gate is None else gate.held)
        commit = replace(succeed(self.store, claim), gives_back=True, may_have_children=True)
        self.store.queue.commit(commit, 1.0)
        for key in keys:
            self.store.gates.grant(key, 1.0)


@pytest.mark.timeout(300)
def test_concurrent_owners_respect_limits_without_deadlocks(stores: list[PostgresStore]) -> None:
    runs = [start_run(stores[0], CHAIN) for _ in range(10)]
    owners = [Owner(stores[index % 4], runs, index) for index in range(8)]
    run_concurrently(8, lambda index: owners[index].work())
    for key, size in {**SIZES, OF_RUNS: 4}.items():
        most = max(owner.most_held[key] for owner in owners)
        assert 0 < most <= size
        assert stores[0].gates.gate(key) is None
    states = [owner.has_ended(run) for owner in owners[:1] for run in runs]
    assert all(states)
    assert failed_checks(stores[0]) == []


@pytest.mark.timeout(300)
def test_a_parent_stops_while_its_child_runs_get_slots(stores: list[PostgresStore]) -> None:
    """Both lock the child run and the gate, and the parent locks itself before."""
    key = next(iter(SIZES))
    for _ in range(10):
        parent = start_run(stores[0])
        claim = stores[0].queue.claim(parent.id, LEASE, 1.0)
        assert claim is not None
        children = [
            start_child(stores[0], parent, wait_key(claim, f"w{number}"), f"{parent.id}-{number}")
            for number in range(4)
        ]
        claims = []
        for child in children:
            child_claim = stores[0].queue.claim(child.queue, LEASE, 1.0)
            assert child_claim is not None
            claims.append(child_claim)
        held = stores[0].gates.acquire(
            claim, SlotOwner(parent.id, claim.visit.id), [SlotRequest(key, "l", 1)], 1.0
        )
        assert held[0].is_held
        release = replace(succeed(stores[0], claim), gives_back=True, may_have_children=True)

        def work(index: int) -> None:
            store = stores[index % 4]
            if index == 0:
                store.queue.commit(release, 2.0)  # noqa: B023
                store.gates.grant(key, 2.0)
                return
            child_claim = claims[index - 1]  # noqa: B023
            owner = SlotOwner(child_claim.run.id, child_claim.visit.id)
            (slot,) = store.gates.acquire(child_claim, owner, [SlotRequest(key, "l", 1)], 1.0)
            if slot.is_held:
                commit = replace(succeed(store, child_claim), gives_back=True)
            else:
                commit = wait_for_slot(child_claim.visit, slot, NEVER, 1.0)
            store.queue.commit(commit, 2.0)
            store.gates.grant(key, 2.0)

        run_concurrently(5, work)
        slots = [slot for child in children for slot in stores[0].gates.slots_of(child.id)]
        visits = [visit for child in children for visit in stores[0].runs.visits(child.id)]
        assert slots == []
        assert VisitStatus.WAITING not in {visit.status for visit in visits}
        assert stores[0].gates.gate(key) is None


GIVING_BACK = {"statements": (statements_of_slots, True), "transaction": (shared_slots, False)}
"""The modules that order the gates of a commit, and whether their commits name the slots that are held."""


def commit_in_pairs(
    stores: Sequence[PostgresStore], observer: LockObserver, *, names_slots: bool
) -> list[BaseException | None]:
    """Let two visits give back slots at the same three gates at once. Return the errors of their commits.

    Both commits wait for a gate while the one in the middle is locked. So each has locked what is before it.
    """
    commits = []
    for store in stores:
        claim = store.queue.claim(start_run(store).id, LEASE, 1.0)
        assert claim is not None
        requests = [SlotRequest(key, "l", 2) for key in SIZES]
        slots = store.gates.acquire(claim, SlotOwner(claim.run.id, claim.visit.id), requests, 1.0)
        assert all(slot.is_held for slot in slots)
        held = tuple(slots) if names_slots else ()
        commits.append(replace(succeed(store, claim), gives_back=True, held_slots=held))
    observer.lock_gate(sorted(SIZES)[1])
    with ThreadPoolExecutor() as pool:
        pairs = zip(stores, commits, strict=True)
        futures = [pool.submit(store.queue.commit, commit, 2.0) for store, commit in pairs]
        observer.wait_for_blocked(len(futures))
        observer.release_locks()
        return [future.exception() for future in futures]


def make_unsorted() -> Callable[..., list[Any]]:
    """Return a wrong `sorted`: every second call returns the reverse order."""
    calls = count()

    def sort(values: Any, **options: Any) -> list[Any]:
        return sorted(values, reverse=next(calls) % 2 == 1, **options)

    return sort


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("giving_back", GIVING_BACK.values(), ids=GIVING_BACK)
def test_the_order_of_gates_excludes_a_deadlock(
    stores: list[PostgresStore],
    postgres_store_dsn: str,
    giving_back: tuple[ModuleType, bool],
    is_sorted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control is a commit that locks its gates in the reverse order."""
    module, names_slots = giving_back
    if not is_sorted:
        monkeypatch.setattr(module, "sorted", make_unsorted(), raising=False)
    observer = LockObserver(postgres_store_dsn)
    with closing(observer.connection):
        errors = commit_in_pairs(stores[:2], observer, names_slots=names_slots)
    causes = [type(error.__cause__) for error in errors if error is not None]
    assert causes == ([] if is_sorted else [psycopg.errors.DeadlockDetected])
    assert [stores[0].gates.gate(key) is None for key in SIZES] == [is_sorted] * 3
    assert failed_checks(stores[0]) == []


def exchange_slots(stores: Sequence[PostgresStore], observer: LockObserver) -> list[BaseException | None]:
    """Let two chains go on at once, each from one of two gates to the other. Return their errors.

    The second gate is locked until both commits wait. That of the chain which leaves it comes first.
    """
    first, second, _ = SIZES
    commits = []
    for store, given, taken in ((stores[0], second, first), (stores[1], first, second)):
        claim = store.queue.claim(start_run(store, CHAIN).id, LEASE, 1.0)
        assert claim is not None
        owner = SlotOwner(claim.run.id, claim.visit.id)
        slots = store.gates.acquire(claim, owner, [SlotRequest(given, "l", 2)], 1.0)
        requests = (SlotRequest(taken, "l", 2, queues=False),)
        commit = replace(succeed(store, claim), gives_back=True, held_slots=tuple(slots), requests=requests)
        commits.append((store, commit))
    observer.lock_gate(second)
    with ThreadPoolExecutor() as pool:
        futures = []
        for number, (store, commit) in enumerate(commits, start=1):
            futures.append(pool.submit(store.queue.commit, commit, 2.0, LEASE))
            observer.wait_for_blocked(number)
        observer.release_locks()
        return [future.exception() for future in futures]


@pytest.mark.parametrize("is_sorted", [True, False])
def test_the_order_of_gates_in_one_statement_excludes_a_deadlock(
    stores: list[PostgresStore], postgres_store_dsn: str, is_sorted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control is a statement that gives back at the later gate before it takes at the earlier one."""

    def sort(changes: list[Any]) -> list[Any]:
        return sorted(changes) if is_sorted else changes

    monkeypatch.setattr(statements_of_slots, "sorted", sort, raising=False)
    observer = LockObserver(postgres_store_dsn)
    with closing(observer.connection):
        errors = exchange_slots(stores[:2], observer)
    causes = [type(error.__cause__) for error in errors if error is not None]
    assert causes == ([] if is_sorted else [psycopg.errors.DeadlockDetected])
    assert failed_checks(stores[0]) == []


def test_a_full_gate_reads_no_slot_of_a_long_queue(stores: list[PostgresStore]) -> None:
    store = stores[0]
    hold(store)
    queue_up(store)
    with store.database.transaction() as db:
        # A copy of the slot that waits has all columns, also later ones.
        copied = "(jsonb_populate_record(slots, jsonb_build_object('run_id', 'r' || n))).*"
        db.execute(
            f"insert into slots select {copied} from slots cross join generate_series(1, 5000) n"
            " where held_at is null"
        )
        db.execute("analyze slots, gates")
    statement = STATEMENTS.find("gates.find_head").text_without(frozenset())
    (row,) = store.database.fetch_all(f"explain (analyze, format json) {statement}", **OWN._asdict())
    reads = [node["Actual Loops"] for node in _nodes(row["QUERY PLAN"][0]["Plan"]) if reads_slots(node)]
    assert reads
    assert set(reads) == {0}


def _read_without_lock(db: Writer, request: SlotRequest) -> Result:
    """Read the gate of a request as `_send_lock` does, but without its lock."""
    return db.execute("gates.get", id=request.gate.id, tenant=request.gate.tenant)


@pytest.mark.parametrize("is_locked", [True, False], ids=["with the lock", "a ticket outside the lock"])
def test_a_release_while_a_slot_joins_the_queue_is_not_missed(
    stores: list[PostgresStore], monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    """The owner finds a full gate, and its holder releases it then. Without the lock, the run is stuck."""
    owner_store, holder_store = stores[:2]
    holder, waiting = hold(holder_store), claim_visit(owner_store, start_run(owner_store))
    has_read, has_released = Event(), Event()
    read_locked = sql_gates._read_locked

    def pause_after_reading(row: Any, request: SlotRequest) -> Gate:
        gate = read_locked(row, request)
        has_read.set()
        assert has_released.wait(0.5 if is_locked else 30.0) is not is_locked
        return gate

    def work(index: int) -> list[Slot]:
        if index == 0:
            return acquire(owner_store, waiting)
        assert has_read.wait(30)
        for key in give_back(holder_store, holder):
            holder_store.gates.grant(key, 2.0)
        has_released.set()
        return []

    with monkeypatch.context() as patch:
        patch.setattr(sql_gates, "_read_locked", pause_after_reading)
        if not is_locked:
            patch.setattr(sql_gates, "_send_lock", _read_without_lock)
        (slot,) = run_concurrently(2, work)[0]
    assert not slot.is_held
    suspend_queued(owner_store, waiting, slot, 3.0)
    grant_stalled(owner_store)
    again = owner_store.queue.claim(waiting.run.queue, LEASE, 4.0)
    checks = {finding.check for finding in owner_store.maintenance.check_consistency()}
    assert (again is not None, checks) == ((True, set()) if is_locked else (False, {"counters of gates"}))
    if again is not None:
        assert acquire(owner_store, again)[-1].is_held


def count_gates(store: PostgresStore) -> int:
    """Return the number of rows of gates, also of those that readers do not see."""
    return int(store.database.fetch_one("select count(*) as number from gates")["number"])


def test_a_gate_without_slots_is_kept_until_a_sweep(stores: list[PostgresStore]) -> None:
    """Readers do not see it. The next owner finds it."""
    store = stores[0]
    for size in (2, 3):
        claim = hold(store, SlotRequest(OWN, "l", size))
        gate = store.gates.gate(OWN)
        assert gate is not None
        assert (gate.units, gate.held, gate.ceiling) == (size, 1, size)
        slots = store.gates.slots_of(claim.run.id, claim.visit.id)
        commit = replace(succeed(store, claim), gives_back=True, held_slots=tuple(slots))
        store.queue.commit(commit, 2.0, LEASE)
        assert store.gates.gate(OWN) is None
        assert store.gates.find("default", named=False) == ([], None)
        assert count_gates(store) == 1
        assert failed_checks(store) == []
    store.maintenance.sweep(3.0)
    assert count_gates(store) == 0


def test_a_sweep_keeps_gates_that_are_used_or_locked(
    stores: list[PostgresStore], postgres_store_dsn: str
) -> None:
    """Sweeps have no order of gates, so they wait for none."""
    store = stores[0]
    used, idle, locked = SIZES
    hold(store, SlotRequest(used, "l", 2))
    for key in (idle, locked):
        claim = hold(store, SlotRequest(key, "l", 2))
        slots = store.gates.slots_of(claim.run.id, claim.visit.id)
        commit = replace(succeed(store, claim), gives_back=True, held_slots=tuple(slots))
        store.queue.commit(commit, 2.0, LEASE)
    observer = LockObserver(postgres_store_dsn)
    with closing(observer.connection):
        observer.lock_gate(locked)
        store.maintenance.sweep(3.0)
        assert {row["id"] for row in store.database.fetch_all("select id from gates")} == {used.id, locked.id}
        observer.release_locks()
    store.maintenance.sweep(3.0)
    assert [row["id"] for row in store.database.fetch_all("select id from gates")] == [used.id]


def test_no_index_has_the_columns_of_gates_that_commits_change(stores: list[PostgresStore]) -> None:
    """Commits then write no index of gates (a HOT update)."""
    query = "select indexdef from pg_indexes where tablename = 'gates'"
    texts = [row["indexdef"] for row in stores[0].database.fetch_all(query)]
    assert len(texts) == 2
    changed = ("held", "units", "ceiling", "edition", "rate", "idle_at")
    assert [text for text in texts if any(name in text for name in changed)] == []


@pytest.mark.parametrize(
    ("query", "index", "key"),
    [
        ("select 1 from slots where {slot} and {is_held}", "slots_pkey", "visit_id"),
        (
            "select 1 from gates where id = :gate_id and tenant = :gate_tenant and {is_not_hidden}",
            "gates_pkey",
            "shared.id|(id = gates.id)",
        ),
    ],
)
def test_a_commit_reads_one_slot_and_one_shared_gate(
    stores: list[PostgresStore], query: str, index: str, key: str
) -> None:
    """They are found by their keys, also while the statistics say that their tables are empty."""
    owner = {"run_id": "r1", "visit_id": "v1"} if "slots" in query else {}
    rows = stores[0].database.fetch_all(
        f"explain (format json) {query}", gate_id=OWN.id, gate_tenant=OWN.tenant, **owner
    )
    nodes = list(_nodes(rows[0]["QUERY PLAN"][0]["Plan"]))
    assert {node["Index Name"] for node in nodes if "Index Name" in node} == {index}
    assert any(text in node.get("Index Cond", "") for node in nodes for text in key.split("|"))


def reads_slots(node: dict[str, Any]) -> bool:
    """Return whether a node of a plan reads the table of slots."""
    return node.get("Relation Name") == "slots"


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all nodes of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def test_the_statements_of_a_commit_take_gates_in_the_order_of_their_keys() -> None:
    """Return of a slot before the next visit takes one, at a gate where both happen."""
    first, second, third = (own_gate("default", "play", name, 0, None) for name in "abc")
    done = Visit("v1", "r1", "a", VisitStatus.SUCCEEDED, 1, {}, fence=1, finished_at=1.0)
    following = Visit("v2", "r1", "b", VisitStatus.RUNNING, 2, {}, fence=1, worker="w")
    requests = tuple(SlotRequest(key, "l", 2, queues=False) for key in (first, second))
    held = tuple(Slot(key, SlotOwner("r1", "v1"), "l", 1, 0.0, held_at=0.0) for key in (second, third))
    commit = Commit(done, gives_back=True, held_slots=held, requests=requests)
    statements = SlotStatements(commit, following, 1.0).statements
    assert [(query, values.get("gate_id", values.get("held_id"))) for query, values in statements] == [
        ("gates.take_own", first.id),
        ("gates.give", second.id),
        ("gates.take_own", second.id),
        ("gates.give", third.id),
    ]
