"""Concurrent workers on Postgres: their runs end as with one worker."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import psycopg
import pytest

from noetl.executor.actions import temporary_types
from noetl.executor.actions.action import Call
from noetl.executor.errors import FencedError, RejectedError, StoreError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import END, Lease, Run, RunEnding, RunStatus, VisitStatus, WaitKey
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.plan_uses import UNUSED_SECONDS
from noetl.executor.stores.postgres.database import PostgresDatabase
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql import facts
from noetl.executor.stores.sql.consistency import check_consistency
from noetl.executor.worker import Worker, WorkerSettings
from noetl.planner.catalogue import LIVE, ActionDeclaration
from noetl.planner.plan import Plan
from noetl.testing.actions import ScriptedAction
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract.aliases import promote
from noetl.testing.store_contract.operations import (
    CHAIN,
    DIAMOND,
    LEASE,
    claim_visit,
    current_run,
    end_run,
    fail,
    open_wait,
    run_concurrently,
    start_child,
    start_run,
    start_waiting_run,
    succeed,
    suspend_claim,
)
from noetl.testing.store_contract.plan_deletion import save_plan, start_saved
from noetl.testing.store_contract.triggers import declare, register
from tests.contract.lock_observer import LockObserver
from tests.contract.sql_damage import SqlDamage

ROUNDS = 12
TERMINAL = {"workflow.completed", "workflow.failed", "workflow.cancelled", "workflow.timed_out"}


@pytest.fixture
def stores(postgres_store_dsn: str) -> Iterator[list[PostgresStore]]:
    """Stores with their own connections to one database, as in several processes."""
    stores = [PostgresStore(postgres_store_dsn) for _ in range(4)]
    yield stores
    for store in stores:
        store.close()


@pytest.fixture
def store(stores: list[PostgresStore]) -> PostgresStore:
    return stores[0]


@pytest.fixture
def observer(stores: list[PostgresStore], postgres_store_dsn: str) -> Iterator[LockObserver]:
    observer = LockObserver(postgres_store_dsn)
    yield observer
    observer.connection.close()


@pytest.fixture
def run_in_thread() -> Iterator[Callable[..., Future[Any]]]:
    """Function that starts a call in a thread."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def run_workers(stores: list[PostgresStore], run: Run, *, threads: int = 2) -> Run:
    """Execute a run with workers of all stores until it has ended, and return it."""
    workers = [
        Worker(store, WorkerSettings(local_run_capabilities(Path.cwd()), threads=threads, queue=run.queue))
        for store in stores
    ]
    for worker in workers:
        worker.start()
    finished = workers[0].wait_until_finished(run.tenant, run.id)
    for worker in workers:
        worker.stop()
    return finished


def is_sound(store: PostgresStore, *runs: Run) -> bool:
    """Check that the store is consistent and that each run has ended once."""
    assert check_consistency(store.database) == []
    for run in runs:
        ends = [event.type for event in store.runs.events(run.id, limit=10_000) if event.type in TERMINAL]
        assert len(ends) == 1 + current_run(store, run).resumes, ends
    return True


def is_complete(store: PostgresStore, run: Run, visits: int) -> bool:
    """Check that a run has `visits` visits, and that each succeeded once."""
    finished = [visit for visit in store.runs.visits(run.id) if not visit.step.startswith("@")]
    assert Counter(visit.status for visit in finished) == {VisitStatus.SUCCEEDED: visits}
    assert max(Counter((visit.step, visit.number) for visit in finished).values()) == 1
    with store.database.transaction() as db:
        joins = db.execute("select sum(live) as live from joins where run_id = :id", id=run.id).fetchone()
        arrivals = db.execute(
            "select count(*) as arrivals from arrivals where run_id = :id", id=run.id
        ).fetchone()
    assert (joins["live"], arrivals["arrivals"], current_run(store, run).live) == (0, 0, 0)
    return is_sound(store, run)


def build_fork(branches: int) -> str:
    """Return a playbook with a fork of `branches` branches and their join."""
    names = ", ".join(f"b{index}" for index in range(branches))
    steps = [
        f"- {{name: b{index}, run: [{{action: set, set: {{v{index}: {index}}}}}],"
        " rule: [{case: default, run: [c]}]}"
        for index in range(branches)
    ]
    total = f"v0 + v{branches - 1}"
    return "\n".join([
        "name: fork", "steps:", f"- {{name: a, rule: [{{case: default, run: [{names}]}}]}}", *steps,
        f'- {{name: c, run: [{{action: set, set: {{total: "{{{{ {total} }}}}"}}}}]}}',
        'output: {total: "{{ total }}"}',
    ])  # fmt: skip


def build_nested_forks(depth: int) -> tuple[str, int]:
    """Return a playbook with nested forks of three branches and their joins, and its number of steps."""
    steps: list[str] = []

    def add_fork(name: str, depth_left: int, after: str | None) -> str:
        rule = f", rule: [{{case: default, run: [{after}]}}]" if after else ""
        if depth_left == 0:
            steps.append(f"- {{name: {name}, run: [{{action: set, set: {{{name}_seen: 1}}}}]{rule}}}")
            return name
        join = f"{name}_join"
        branches = [add_fork(f"{name}_{index}", depth_left - 1, join) for index in range(3)]
        steps.append(f"- {{name: {name}, rule: [{{case: default, run: [{', '.join(branches)}]}}]}}")
        steps.append(f"- {{name: {join}, run: [{{action: set, set: {{{join}_seen: 1}}}}]{rule}}}")
        return name

    add_fork("f", depth, None)
    steps.sort(key=lambda step: not step.startswith("- {name: f,"))
    return "\n".join(["name: nested", "steps:", *steps]), len(steps)


def test_eight_workers_reach_one_join(stores: list[PostgresStore]) -> None:
    run = start_run(stores[0], build_fork(200))
    finished = run_workers(stores, run)
    assert (finished.status, finished.result) == ("succeeded", {"total": 199})
    assert is_complete(stores[0], run, 202)


def test_eight_workers_reach_nested_joins(stores: list[PostgresStore]) -> None:
    text, steps = build_nested_forks(4)
    run = start_run(stores[0], text)
    assert run_workers(stores, run).status is RunStatus.SUCCEEDED
    assert is_complete(stores[0], run, steps)


def test_only_one_commit_of_each_visit_is_accepted(stores: list[PostgresStore]) -> None:
    """Leases expire at once, so several workers claim each visit. One commit of each is accepted."""
    run = start_run(stores[0], build_fork(24))
    accepted: list[str] = []

    def work(index: int) -> None:
        store = stores[index % len(stores)]
        while not current_run(store, run).status.is_final:
            claim = store.queue.claim(run.queue, Lease(str(index), 0.0), 2.0)
            if claim is None:
                continue
            with suppress(FencedError):
                if claim.visit.step == END:
                    store.queue.finish(claim, RunEnding(RunStatus.SUCCEEDED, None, []), 2.0)
                else:
                    store.queue.commit(succeed(store, claim, case=0), 2.0)
                accepted.append(claim.visit.id)

    run_concurrently(8, work)
    assert max(Counter(accepted).values()) == 1
    assert max(visit.claims for visit in stores[0].runs.visits(run.id)) > 1
    assert is_complete(stores[0], run, 26)


def run_both(first: Callable[[], object], second: Callable[[], object]) -> None:
    """Call two functions at the same time."""
    run_concurrently(2, lambda index: (first, second)[index]())


def test_an_answer_and_a_suspension_at_the_same_time(stores: list[PostgresStore]) -> None:
    for index in range(ROUNDS):
        run = start_run(stores[0])
        claim = claim_visit(stores[0], run)
        key = open_wait(stores[0], claim, f"token {index}")
        suspension = suspend_claim(claim, key.id)
        run_both(
            partial(stores[0].queue.commit, suspension, 5.0),
            partial(stores[1].waits.answer, f"token {index}", index, 5.0),
        )
        again = claim_visit(stores[0], run, 5.0)
        assert (again.visit.id, stores[0].waits.wait(key).answer) == (claim.visit.id, index)
    assert check_consistency(stores[0].database) == []


def test_one_of_concurrent_answers_is_accepted(stores: list[PostgresStore]) -> None:
    _, key = start_waiting_run(stores[0])

    def answer(index: int) -> int | None:
        try:
            stores[index % 4].waits.answer("t", index, 5.0)
        except RejectedError:
            return None
        return index

    accepted = [index for index in run_concurrently(8, answer) if index is not None]
    assert accepted == [stores[0].waits.wait(key).answer]


def test_a_child_ends_while_its_parent_is_cancelled(stores: list[PostgresStore]) -> None:
    for index in range(ROUNDS):
        parent, key = start_waiting_run(stores[0], f"token {index}")
        child_run = start_child(
            stores[0], parent, WaitKey(parent.id, key.visit_id, "child"), f"child {index}", queue=f"q{index}"
        )
        for _ in range(3):
            claim = stores[0].queue.claim(f"q{index}", LEASE, 2.0)
            assert claim is not None
            stores[0].queue.commit(succeed(stores[0], claim), 2.0)
        last = stores[0].queue.claim(f"q{index}", LEASE, 2.0)
        assert last is not None and last.visit.step == END
        run_both(
            partial(stores[0].queue.finish, last, RunEnding(RunStatus.SUCCEEDED, None, []), 3.0),
            partial(stores[1].runs.stop, parent.id, RunStatus.CANCELLED, 3.0),
        )
        end_run(stores[0], parent, RunStatus.CANCELLED, 4.0)
        assert is_sound(stores[0], parent, child_run)


@pytest.mark.parametrize("how", ["finish", "resume"])
def test_a_parent_is_locked_before_its_child(
    store: PostgresStore, observer: LockObserver, run_in_thread: Callable[..., Future[Any]], how: str
) -> None:
    """A cancellation locks the parent first too. Another order would cause a deadlock."""
    parent, key = start_waiting_run(store)
    child_run = start_child(store, parent, WaitKey(parent.id, key.visit_id, "child"), "child", queue="inner")
    store.runs.stop(child_run.id, RunStatus.CANCELLED, 2.0)
    last = store.queue.claim("inner", LEASE, 2.0)
    assert last is not None

    def finish() -> None:
        store.queue.finish(last, RunEnding(RunStatus.CANCELLED, None, []), 3.0)

    if how == "resume":
        finish()
    observer.lock_run(parent)
    future = (
        run_in_thread(finish)
        if how == "finish"
        else run_in_thread(store.runs.resume, "child", 4.0, deadline_at=None, values={})
    )
    observer.wait_for_blocked()
    observer.connection.execute("select 1 from runs where id = 'child' for update nowait")
    observer.release_locks()
    future.result()
    assert check_consistency(store.database) == []


@pytest.mark.parametrize(
    "change", ["fence = fence + 1", "status = 'parked'", "due_at = 9e9", "attempt = 2", None]
)
def test_a_claim_that_waited_for_a_lock_checks_the_visit_again(
    store: PostgresStore,
    observer: LockObserver,
    run_in_thread: Callable[..., Future[Any]],
    change: str | None,
) -> None:
    """The claim checks the visit as it is after the lock was acquired."""
    run = start_run(store, now=1.0)
    observer.lock_run(run)
    future = run_in_thread(store.queue.claim, run.queue, LEASE, 2.0)
    observer.wait_for_blocked()
    if change is not None:
        observer.connection.execute(f"update visits set {change}".encode())
    observer.connection.execute("commit")
    claim = future.result()
    if change in ("status = 'parked'", "due_at = 9e9"):
        assert claim is None
        assert current_run(store, run).status is RunStatus.QUEUED
        assert len(store.runs.events(run.id)) == 1
    else:
        expected = {None: (1, 1), "fence = fence + 1": (2, 1), "attempt = 2": (1, 2)}[change]
        assert (claim.visit.fence, claim.visit.attempt) == expected
        assert [event.attempt for event in store.runs.events(run.id)] == [None, claim.visit.attempt]


@pytest.mark.parametrize("change", ["fence = fence + 1", "status = 'ready'"])
def test_a_commit_that_waited_for_a_lock_is_fenced(
    store: PostgresStore, observer: LockObserver, run_in_thread: Callable[..., Future[Any]], change: str
) -> None:
    run = start_run(store)
    claim = claim_visit(store, run)
    observer.lock_run(run)
    future = run_in_thread(store.queue.commit, succeed(store, claim), 2.0, LEASE)
    observer.wait_for_blocked()
    observer.connection.execute(f"update visits set {change}".encode())
    observer.connection.execute("commit")
    assert isinstance(future.exception(), FencedError)
    assert [visit.step for visit in store.runs.visits(run.id)] == ["a"]


def test_a_stop_while_branches_commit(stores: list[PostgresStore]) -> None:
    for _ in range(ROUNDS):
        run = start_run(stores[0], DIAMOND)
        stores[0].queue.commit(succeed(stores[0], claim_visit(stores[0], run)), 1.0)
        claims = [claim_visit(stores[0], run, 1.0) for _ in range(4)]

        def work(index: int, run: Run = run, claims: list[Any] = claims) -> None:
            if index == 4:
                stores[0].runs.stop(run.id, RunStatus.CANCELLED, 2.0)
            else:
                stores[index].queue.commit(succeed(stores[index], claims[index]), 2.0)

        run_concurrently(5, work)
        end_run(stores[0], run, RunStatus.CANCELLED, 3.0)
        assert is_sound(stores[0], run)
        stores[0].runs.resume(run.id, 4.0, deadline_at=None, values={})
        assert run_workers(stores[:1], run).status is RunStatus.SUCCEEDED
        assert is_complete(stores[0], run, 7)


def test_a_stop_while_a_chain_commits(stores: list[PostgresStore]) -> None:
    """The next step is parked, whichever transaction is first."""
    for _ in range(ROUNDS):
        run = start_run(stores[0])
        claim = claim_visit(stores[0], run)
        run_both(
            partial(stores[0].queue.commit, succeed(stores[0], claim), 2.0),
            partial(stores[1].runs.stop, run.id, RunStatus.CANCELLED, 2.0),
        )
        states = {(visit.step, visit.status.value) for visit in stores[0].runs.visits(run.id)}
        assert states == {("a", "succeeded"), ("b", "parked"), (END, "ready")}
        end_run(stores[0], run, RunStatus.CANCELLED, 3.0)
        assert is_sound(stores[0], run)


def test_concurrent_resumes_resume_once(stores: list[PostgresStore]) -> None:
    run = start_run(stores[0], DIAMOND)
    stores[0].queue.commit(succeed(stores[0], claim_visit(stores[0], run)), 1.0)
    stores[0].queue.commit(fail(stores[0], claim_visit(stores[0], run, 1.0)), 2.0)
    end_run(stores[0], run, RunStatus.FAILED, 3.0)
    resumed = run_concurrently(
        8, lambda index: stores[index % 4].runs.resume(run.id, 4.0, deadline_at=None, values={})
    )
    assert {run.resumes for run in resumed} == {1}
    assert run_workers(stores, run).status is RunStatus.SUCCEEDED
    assert is_complete(stores[0], run, 7)


def test_a_wait_is_closed_while_the_child_resumes(
    store: PostgresStore, observer: LockObserver, run_in_thread: Callable[..., Future[Any]]
) -> None:
    """The resume deletes the answer of the child."""
    parent, key = start_waiting_run(store)
    wait = WaitKey(parent.id, key.visit_id, "child")
    child_run = start_child(store, parent, wait, "child", queue="inner")
    store.runs.stop(child_run.id, RunStatus.CANCELLED, 2.0)
    last = store.queue.claim("inner", LEASE, 2.0)
    assert last is not None
    store.queue.finish(last, RunEnding(RunStatus.CANCELLED, None, []), 3.0)
    observer.lock_run(parent)
    futures = [
        run_in_thread(store.runs.resume, "child", 4.0, deadline_at=None, values={}),
        run_in_thread(store.waits.close_wait, wait, 5.0),
    ]
    observer.wait_for_blocked(2)
    observer.release_locks()
    assert [future.exception() for future in futures] == [None, None]


def test_one_idempotency_key_in_several_processes(stores: list[PostgresStore]) -> None:
    runs = run_concurrently(8, lambda index: start_run(stores[index % 4], key=("k", "body")).id)
    assert len(set(runs)) == 1
    assert [run.id for run in stores[0].runs.find(RunFilter())[0]] == runs[:1]
    assert check_consistency(stores[0].database) == []


def test_concurrent_registrations_get_different_versions(stores: list[PostgresStore]) -> None:
    plans = [compile_text(dedent(CHAIN.replace("n: 1", f"n: {index}"))) for index in range(8)]
    for plan in plans:
        stores[0].plans.save(plan)

    def register(index: int) -> str | None:
        return (
            stores[index % 4]
            .registry.register(RegisteredPlaybook("default", "p", None, plans[index].hash, 1.0))
            .version
        )

    assert sorted(map(str, run_concurrently(8, register))) == [str(number) for number in range(1, 9)]
    assert check_consistency(stores[0].database) == []


def test_triggers_are_those_of_the_live_version_at_each_moment(stores: list[PostgresStore]) -> None:
    """Two processes promote and register at once. Each snapshot that a third one reads is consistent."""
    for number in range(3):
        register(stores[0], declare(f"t{number}"), version=f"v{number}", now=float(number))
    are_changing = threading.Event()
    are_changing.set()

    def read() -> int:
        snapshots = 0
        while are_changing.is_set() or snapshots == 0:
            rows = stores[3].database.fetch_all("consistency.lost_triggers", limit=10)
            assert rows == []
            snapshots += 1
        return snapshots

    def change(index: int) -> None:
        store = stores[index % 2]
        for number in range(20):
            now = 10.0 + number
            if index == 0:
                register(store, declare(f"n{number}"), version=f"n{number}", now=now)
            elif index == 1:
                promote(store, f"v{number % 3}", now=now)
            else:
                store.registry.remove_alias("default", "p", LIVE, now=now)

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            run_concurrently(3, change)
        finally:
            are_changing.clear()
        assert reader.result() > 0
    live = stores[2].registry.get("default", "p", alias=LIVE)
    assert live is not None
    assert {trigger.version for trigger in stores[2].triggers.find("default", "p")[0]} == {live.version}
    assert check_consistency(stores[0].database) == []


def test_concurrent_folds_count_each_fact_once(
    stores: list[PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "MAX_FOLDED", 3)

    def start_and_read(index: int) -> None:
        for _ in range(10):
            start_run(stores[index % 4])
            stores[index % 4].facts.read("default", 0.0)

    run_concurrently(8, start_and_read)
    metrics = stores[0].facts.read("default", 0.0)
    assert metrics is not None
    assert [(total.kind, total.count) for total in metrics.totals] == [("start", 80)]


@pytest.fixture
def unused_plan(stores: list[PostgresStore]) -> Plan:
    """A plan that nothing has named or used for longer than it is kept."""
    for store in stores:
        store.context.retention_seconds = 100.0
    plan = save_plan(stores[0], "unused")
    SqlDamage().age_plans(stores[0], UNUSED_SECONDS + 60.0)
    return plan


def test_a_deletion_waits_for_a_start_of_the_plan(
    stores: list[PostgresStore],
    unused_plan: Plan,
    observer: LockObserver,
    run_in_thread: Callable[..., Future[Any]],
) -> None:
    now = stores[0].clock()
    with stores[0].database.transaction() as db:
        stores[0].plans.touch(db, unused_plan.hash, now)
        deletion = run_in_thread(stores[1].maintenance.delete_old, now)
        observer.wait_for_blocked()
    assert deletion.result() is False
    assert start_saved(stores[2], unused_plan, "run").plan_hash == unused_plan.hash
    assert check_consistency(stores[0].database) == []


def test_a_start_waits_for_a_deletion_of_its_plan(
    stores: list[PostgresStore],
    unused_plan: Plan,
    observer: LockObserver,
    run_in_thread: Callable[..., Future[Any]],
) -> None:
    with stores[0].database.transaction() as db:
        assert db.execute("plans.delete_unused", ids=[unused_plan.hash], before=stores[0].clock()).rowcount
        start = run_in_thread(start_saved, stores[1], unused_plan, "run")
        saving = run_in_thread(stores[2].plans.save, unused_plan)
        observer.wait_for_blocked(2)
        db.execute("plans.delete_parts", hash=unused_plan.hash, limit=sys.maxsize)
    assert isinstance(start.exception(), StoreError)
    assert saving.exception() is None
    assert stores[3].plans.get(unused_plan.hash).to_json() == unused_plan.to_json()
    assert check_consistency(stores[0].database) == []


def test_a_deadlock_is_retried(
    postgres_store_dsn: str,
    store: PostgresStore,
    observer: LockObserver,
    run_in_thread: Callable[..., Future[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Postgres rolls back one of them, which is retried without an error."""
    seen: list[str | None] = []
    may_retry = PostgresDatabase._may_retry

    def record_error(self: PostgresDatabase, error: psycopg.Error, *more: Any) -> bool:
        seen.append(error.sqlstate)
        return may_retry(self, error, *more)

    monkeypatch.setattr(PostgresDatabase, "_may_retry", record_error)
    impatient = PostgresStore(postgres_store_dsn + "&options=-c%20deadlock_timeout%3D1s")
    parent, key = start_waiting_run(store)
    child_run = start_child(store, parent, WaitKey(parent.id, key.visit_id, "child"), "child", queue="inner")
    observer.lock_run(child_run)
    future = run_in_thread(impatient.runs.stop, parent.id, RunStatus.CANCELLED, 2.0)
    observer.wait_for_blocked()
    observer.lock_run(parent)
    observer.release_locks()
    assert future.result().stop is RunStatus.CANCELLED
    assert seen == ["40P01"]
    assert {current_run(store, run).stop for run in (parent, child_run)} == {RunStatus.CANCELLED}
    assert check_consistency(store.database) == []
    impatient.close()


def test_two_workers_do_cached_work_once(stores: list[PostgresStore]) -> None:
    text = """
        steps:
        - name: a
          run: [{action: count, cache: 1h, as: x}]
          rule: [{case: default, run: [b]}]
        - name: b
          cache: 1h
          run: [{action: count, as: y}]
    """
    calls: list[str] = []
    started = threading.Event()

    def count(call: Call) -> int:
        calls.append(call.idempotency_key)
        # The other run asks for the result while it is computed.
        started.set()
        time.sleep(0.2)
        return len(calls)

    declaration = ActionDeclaration("count", "Counts its calls.", reads_only=True)
    with temporary_types(ScriptedAction(declaration, answer=count)):
        runs = [start_run(stores[0], text, queue=f"q{number}") for number in range(3)]
        workers = [
            Worker(store, WorkerSettings(local_run_capabilities(Path.cwd()), threads=1, queue=run.queue))
            for store, run in zip(stores, runs, strict=False)
        ]
        workers[0].start()
        assert started.wait(60)
        for worker in workers[1:]:
            worker.start()
        ended = [workers[0].wait_until_finished(run.tenant, run.id) for run in runs]
        for worker in workers:
            worker.stop()
    assert [run.result for run in ended] == [{"x": 1, "y": 2}] * 3
    assert len(calls) == 2
    assert is_sound(stores[0], *ended)
