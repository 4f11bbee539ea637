"""The cost of each guard of a step where nothing goes wrong: `python -m benchmarks.step_guards`.

A guard is code that a healthy step passes, and that serves a sick store, a wrong clock or a careless
neighbour. A chain is executed as a thread of a worker executes it. Blocks of five steps have a guard or lack
it, and two blocks that follow each other are a pair. So the load of the machine changes both times alike. The
order of a pair is random, because a store does some of its work once in so many steps. A row has the median
ratio of the pairs, and bounds of this median with a confidence of 95 %, by order statistics. More runs narrow
them. The row `nothing` changes nothing: it shows what the method itself finds.

The databases are in memory if the system has a file system there. Then a commit costs only processor time,
and the share of a guard is at its greatest. The time of a step on Postgres has the work of the server, too.

Some guards act at intervals and not in a step. For these, one call and its share of the interval are
measured. For DynamoDB, requests are counted.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import median, median_low
from typing import Any

import pytest

from benchmarks import report
from benchmarks.cost import QUEUE_OPERATIONS, emulated_account
from benchmarks.measure import median_seconds
from benchmarks.meter import AwsMeter
from benchmarks.playbooks import set_chain
from noetl.executor import worker
from noetl.executor.actions import catalogue
from noetl.executor.clients import aws_retry
from noetl.executor.engine import invocation, scope
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import new_run
from noetl.executor.model import outcome
from noetl.executor.model.memory_budget import MemoryBudget
from noetl.executor.model.run import Claim, Lease, Run, RunStatus
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.worker_identity import process_name
from noetl.executor.precedence import PrecedenceLock, StoreOperation, working_for
from noetl.executor.runtime import persistent_store
from noetl.executor.runtime.lease_keeper import LeaseKeeper
from noetl.executor.runtime.store_failures import StoreFailures
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo.date_clock import DateClock
from noetl.executor.stores.interface import Store
from noetl.executor.stores.postgres.database import PostgresWriter
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql.due_floor import NO_FLOOR, DueFloor
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.file import SqliteWriter
from noetl.executor.stores.sqlite.file_identity import FileIdentity
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.executor.stores.store_clock import MAX_AGE_SECONDS, StoreClock
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from noetl.planner.gc_control import gc_paused
from noetl.planner.plan import Plan
from tests.postgres import empty_database, running_server

STEPS = 2_000
BLOCK_STEPS = 5
"""Steps in a row that are executed alike, after one that is not measured."""

RESULT_BYTES = 1024
LEASE_SECONDS = 30.0
IN_MEMORY = Path("/dev/shm")

Patch = tuple[object, str, object]
"""An object, the name of an attribute, and the value that it has without a guard."""


@dataclass(frozen=True)
class StepGuard:
    """A guard, and what replaces it in a store: nothing if the store does not have it."""

    name: str
    patches: Callable[[Store], Sequence[Patch]]


def _nothing(*_: Any, **__: Any) -> None:
    """Return at once."""


def _patches_of_refusals(_: Store) -> Sequence[Patch]:
    return [(persistent_store, "make_persistent", lambda store, _: store)]


def _patches_of_leases(_: Store) -> Sequence[Patch]:
    return [(LeaseKeeper, "execute", lambda _, executor, claim: executor.execute(claim))]


def _patches_of_files(store: Store) -> Sequence[Patch]:
    names = ("check_for_read", "check_for_write")
    return [(FileIdentity, name, _nothing) for name in names] if isinstance(store, SqliteStore) else []


def _patches_of_floors(store: Store) -> Sequence[Patch]:
    if not isinstance(store, SqlStore):
        return []
    names = {"known": lambda *_: NO_FLOOR, "begin": lambda *_: NO_FLOOR, "learn": _nothing}
    return [(DueFloor, name, value) for name, value in names.items()]


def _patches_of_clocks(store: Store) -> Sequence[Patch]:
    if isinstance(store, PostgresStore):
        return [(StoreClock, "__call__", lambda _: time.time())]
    return [] if isinstance(store, SqlStore) else [(DateClock, "observe", lambda _, call: call())]


def _patches_of_retries(store: Store) -> Sequence[Patch]:
    if not isinstance(store, SqlStore):
        return [(aws_retry, "each_try", lambda: iter([1]))]
    parts = [store.plans, store.runs, store.queue, store.maintenance]
    return [
        (part, name, method.__wrapped__)
        for part in parts
        for name, method in vars(part).items()
        if hasattr(method, "__wrapped__") and hasattr(type(part), name)
    ]


def _patches_of_frozen_servers(store: Store) -> Sequence[Patch]:
    if not isinstance(store, PostgresStore):
        return []
    import psycopg

    from noetl.executor.stores.postgres.patient_connection import PatientConnection

    return [(PatientConnection, "wait", psycopg.Connection.wait)]


def _patches_of_ended_sessions(store: Store) -> Sequence[Patch]:
    if not isinstance(store, PostgresStore):
        return []
    return [(store.postgres._pool, "_check", None)]  # noqa: SLF001


def _patches_of_memory(_: Store) -> Sequence[Patch]:
    patches: list[Patch] = [(MemoryBudget, name, _nothing) for name in ("reserve", "reserve_commit", "count")]
    patches += [(module, "json_size", lambda _: 0) for module in (scope, outcome)]
    return [
        *patches,
        (invocation, "strict_reads", nullcontext),
        (invocation, "keep_reads", _nothing),
        (invocation, "carry_reads", _nothing),
    ]


def _patches_of_precedence(_: Store) -> Sequence[Patch]:
    names = ("__enter__", "__exit__")
    return [(block, name, _nothing) for block in (StoreOperation, PrecedenceLock) for name in names]


GUARDS = (
    StepGuard("nothing", lambda _: []),
    StepGuard("an outcome that the store refuses is kept", _patches_of_refusals),
    StepGuard("a lease is renewed, and a stop is noticed", _patches_of_leases),
    StepGuard("a file that was replaced is noticed", _patches_of_files),
    StepGuard("claims begin after dead entries", _patches_of_floors),
    StepGuard("the clock is that of the store", _patches_of_clocks),
    StepGuard("what was not written is tried again", _patches_of_retries),
    StepGuard("a frozen server is given up", _patches_of_frozen_servers),
    StepGuard("a session that has ended is replaced", _patches_of_ended_sessions),
    StepGuard("data is counted against a budget", _patches_of_memory),
    StepGuard("requests and short steps come first", _patches_of_precedence),
)
"""The guards that a healthy step passes."""

ALL = StepGuard("all of them", lambda store: [patch for guard in GUARDS for patch in guard.patches(store)])

COLUMNS: Sequence[report.Column] = (
    ("guard", lambda row: row["guard"]),
    ("a step", lambda row: f"{row['seconds'] * 1e6:,.0f} µs"),
    ("without", lambda row: f"{row['seconds_without'] * 1e6:,.0f} µs"),
    ("ratio", lambda row: f"{row['ratio']:.3f}"),
    ("95 %", lambda row: "{:.3f} to {:.3f}".format(*row["bounds"])),
    ("processor", lambda row: f"{row['cpu_ratio']:.3f}"),
    ("95 % ", lambda row: "{:.3f} to {:.3f}".format(*row["cpu_bounds"])),
    ("statements", lambda row: f"{row['statements']:g}"),
    ("without ", lambda row: f"{row['statements_without']:g}"),
)
INTERVAL_COLUMNS: Sequence[report.Column] = (
    ("guard", lambda row: row["guard"]),
    ("a call", lambda row: f"{row['seconds'] * 1e6:,.0f} µs"),
    ("every", lambda row: f"{row['interval']:g} s"),
    ("share", lambda row: f"{100 * row['seconds'] / row['interval']:.3f} %"),
)
REQUEST_COLUMNS: Sequence[report.Column] = (
    ("guard", lambda row: row["guard"]),
    ("requests of a step", lambda row: f"{row['requests']:g}"),
    ("without", lambda row: f"{row['requests_without']:g}"),
    ("write units", lambda row: f"{row['write_units']:g}"),
    ("without ", lambda row: f"{row['write_units_without']:g}"),
)


@contextmanager
def replaced(guard: StepGuard, store: Store, *, is_guarded: bool = False) -> Iterator[None]:
    """Replace a guard of a store in this block, or with `is_guarded` each part of it by itself.

    A change of a class empties caches of the interpreter, so both kinds of blocks make it.
    """
    with pytest.MonkeyPatch.context() as environment:
        for owner, name, value in guard.patches(store):
            environment.setattr(owner, name, vars(owner)[name] if is_guarded else value)
        yield


@contextmanager
def counted_statements() -> Iterator[list[int]]:
    """Yield a list whose only item counts the statements of SQL stores in this block."""
    count = [0]

    def counting(method: Callable[..., Any]) -> Callable[..., Any]:
        def execute(*arguments: Any, **values: Any) -> Any:
            count[0] += 1
            return method(*arguments, **values)

        return execute

    with pytest.MonkeyPatch.context() as environment:
        for owner in (SqliteWriter, PostgresWriter):
            for name in ("execute", "executemany"):
                environment.setattr(owner, name, counting(getattr(owner, name)))
        yield count


def prepare_chain(store: Store, steps: int) -> Plan:
    """Save the plan of a chain, and return it."""
    plan = compile_playbook(set_chain(steps, RESULT_BYTES), catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    return plan


class WorkerThread:
    """A worker of one thread that executes a run step by step, each with the guards that exist then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lease = Lease(f"{process_name()}/guards", LEASE_SECONDS)
        self._lease_keeper = LeaseKeeper(store, LEASE_SECONDS, store.clock)
        self._failures = StoreFailures(threading.Event())
        self._capabilities = local_run_capabilities(Path.cwd())

    def start(self, plan: Plan) -> Claim:
        """Start a run of a plan, and claim its first step."""
        run = self._store.runs.create(
            *new_run(plan.header, plan.hash, StartRequest(), now=self._store.clock())
        )
        return self.claim(run)

    def claim(self, run: Run) -> Claim:
        """Claim a visit of a run that is due. A queue of messages may be late with it."""
        deadline = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < deadline:
            claim = self._store.queue.claim(run.queue, self._lease, self._store.clock())
            if claim is not None:
                return claim
        raise TimeoutError(f"no visit of run {run.id} was due for {LEASE_SECONDS:g} s")

    def prepare(self) -> Callable[[Claim], Claim | None]:
        """Return a function that executes a claimed step, and claims the next one."""
        store = persistent_store.make_persistent(self._store, self._failures)
        executor = VisitExecutor(store, self._lease, self._capabilities, self._store.clock)
        return lambda claim: self._lease_keeper.execute(executor, claim)


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return bounds of the median of a distribution with a confidence of 95 %, from a sample.

    A value is below the median with the probability 1/2. With fewer than six values, the confidence is
    less.

    >>> median_bounds([3, 1, 2, 5, 4, 6, 7, 8, 9])
    (2, 8)
    """
    ordered, count = sorted(values), len(values)
    left_out, tail = 0, 2.0**-count
    while tail + comb(count, left_out + 1) * 2.0**-count <= 0.025:
        left_out += 1
        tail += comb(count, left_out) * 2.0**-count
    return ordered[left_out], ordered[count - 1 - left_out]


@dataclass(frozen=True)
class MeasuredStep:
    """The seconds of a step, those of the processor in its thread, and its statements."""

    seconds: float
    cpu_seconds: float
    statements: int


def measure_block(
    execute: Callable[[Claim], Claim | None], claim: Claim, statements: list[int]
) -> tuple[MeasuredStep, Claim]:
    """Execute BLOCK_STEPS steps after one that fills caches. Return the medians, and the next claim."""
    measured: list[MeasuredStep] = []
    claim = next_claim(execute, claim)
    for _ in range(BLOCK_STEPS):
        before, cpu_started, started = statements[0], time.thread_time(), time.perf_counter()
        claim = next_claim(execute, claim)
        seconds, cpu_seconds = time.perf_counter() - started, time.thread_time() - cpu_started
        measured.append(MeasuredStep(seconds, cpu_seconds, statements[0] - before))
    return MeasuredStep(
        median(step.seconds for step in measured),
        median(step.cpu_seconds for step in measured),
        median_low(step.statements for step in measured),
    ), claim


def measure_pairs(store: Store, guard: StepGuard, plan: Plan) -> list[dict[bool, MeasuredStep]]:
    """Return the times of steps of one run with a guard and without it. Its blocks alternate."""
    thread, order = WorkerThread(store), random.Random(len(guard.name))
    claim = thread.start(plan)
    with gc_paused(), counted_statements() as statements, working_for(claim.run.tenant):
        executes = {True: thread.prepare()}
        with replaced(guard, store):
            executes[False] = thread.prepare()
        pairs: list[dict[bool, MeasuredStep]] = []
        for _ in range((len(plan.steps) - 1) // (2 * BLOCK_STEPS + 2)):
            pair: dict[bool, MeasuredStep] = {}
            for is_guarded in order.sample((True, False), 2):
                with replaced(guard, store, is_guarded=is_guarded):
                    pair[is_guarded], claim = measure_block(executes[is_guarded], claim, statements)
            pairs.append(pair)
        finish(store, thread, claim)
    return pairs


def make_row(guard: StepGuard, pairs: Sequence[Mapping[bool, MeasuredStep]]) -> report.Row:
    """Return the row of a guard from pairs of steps with it and without it."""
    ratios = [pair[True].seconds / pair[False].seconds for pair in pairs]
    cpu_ratios = [pair[True].cpu_seconds / pair[False].cpu_seconds for pair in pairs]
    return {
        "guard": guard.name,
        "seconds": median(pair[True].seconds for pair in pairs),
        "seconds_without": median(pair[False].seconds for pair in pairs),
        "ratio": median(ratios),
        "bounds": median_bounds(ratios),
        "cpu_ratio": median(cpu_ratios),
        "cpu_bounds": median_bounds(cpu_ratios),
        "statements": median(pair[True].statements for pair in pairs),
        "statements_without": median(pair[False].statements for pair in pairs),
    }


def finish(store: Store, thread: WorkerThread, claim: Claim) -> None:
    """Execute the rest of a run, and check that it has succeeded."""
    run, execute = claim.run, thread.prepare()
    following: Claim | None = claim
    while following is not None:
        following = execute(following)
    if not read_summary(store, run).status.is_final:
        execute(thread.claim(run))
    assert read_summary(store, run).status is RunStatus.SUCCEEDED


def read_summary(store: Store, run: Run) -> RunSummary:
    """Return the summary of a run as it is now."""
    summary = store.runs.summary(run.tenant, run.id)
    assert summary is not None
    return summary


def measure(store: Store, steps: int = STEPS, runs: int = 1) -> list[report.Row]:
    """Return a row for each guard that a store has, and one for all of them.

    The runs of the guards alternate, so that no guard has the younger store.
    """
    plan = prepare_chain(store, steps)
    thread = WorkerThread(store)
    finish(store, thread, thread.start(plan))  # it reads the steps, and compiles their expressions
    guards = [guard for guard in (*GUARDS, ALL) if guard.patches(store) or guard is GUARDS[0]]
    pairs: dict[str, list[dict[bool, MeasuredStep]]] = {guard.name: [] for guard in guards}
    for _ in range(runs):
        for guard in guards:
            pairs[guard.name] += measure_pairs(store, guard, plan)
    return [make_row(guard, pairs[guard.name]) for guard in guards]


def measure_intervals(store: SqlStore, repetitions: int = 20) -> list[report.Row]:
    """Return what a worker does at intervals, with the time of a call while nothing is wrong."""
    calls: dict[str, tuple[float, Callable[[], object]]] = {
        "claims of dead workers are released": (
            LEASE_SECONDS / 3,
            lambda: store.queue.release_dead("service", store.clock()),
        ),
        "old runs are deleted, and a long log is cut": (
            worker.RETENTION_PAUSE_SECONDS,
            lambda: store.maintenance.delete_old(store.clock()),
        ),
        "runs without a worker are found": (
            worker.SWEEP_SECONDS,
            lambda: store.maintenance.sweep(store.clock()),
        ),
    }
    if isinstance(store, PostgresStore):
        clock = store.postgres.clock
        calls["the clock of the server is read"] = MAX_AGE_SECONDS, clock._measure  # noqa: SLF001
    return [
        {"guard": name, "interval": interval, "seconds": median_seconds(call, repetitions)}
        for name, (interval, call) in calls.items()
    ]


def measure_requests(
    store: Store, meter: AwsMeter, steps: int, guards: Sequence[StepGuard]
) -> list[report.Row]:
    """Return the requests of a step on DynamoDB, with each guard that it has and without it.

    Polls of the queue are not counted, because their number depends on its answers.
    """
    plan = prepare_chain(store, steps)
    thread = WorkerThread(store)
    finish(store, thread, thread.start(plan))

    def count() -> tuple[float, float]:
        claim, execute = thread.start(plan), thread.prepare()
        for _ in range(2):
            claim = next_claim(execute, claim)
        meter.read()
        for _ in range(steps - 4):
            claim = next_claim(execute, claim)
        usage = meter.read()
        finish(store, thread, claim)
        requests = sum(n for (_, name), n in usage.requests.items() if name not in QUEUE_OPERATIONS)
        return requests / (steps - 4), usage.write_units / (steps - 4)

    rows = []
    for guard in (guard for guard in guards if guard.patches(store)):
        requests, units = count()
        with replaced(guard, store):
            requests_without, units_without = count()
        row = {"guard": guard.name, "requests": requests, "requests_without": requests_without}
        rows.append({**row, "write_units": units, "write_units_without": units_without})
    return rows


def next_claim(execute: Callable[[Claim], Claim | None], claim: Claim) -> Claim:
    """Execute a step of a chain that is not its last one, and return the claim of the next."""
    following = execute(claim)
    assert following is not None
    return following


def measure_dynamodb(steps: int = 30, guards: Sequence[StepGuard] = (*GUARDS, ALL)) -> list[report.Row]:
    """Return the requests of a step on DynamoDB, with an emulator in this process."""
    with (
        emulated_account(),
        closing(open_store()) as store,
        AwsMeter().attached("dynamodb", "sqs") as meter,
    ):
        return measure_requests(store, meter, steps, guards)


@contextmanager
def opened_store(database: str, folder: str | None) -> Iterator[SqlStore]:
    """Open an empty store on SQLite or Postgres in a new folder of `folder`."""
    with ExitStack() as stack:
        if database == "SQLite":
            parent = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
            url = f"sqlite:///{parent}/noetl.db"
        else:
            server = stack.enter_context(running_server(parent=folder or "/tmp"))
            url = stack.enter_context(empty_database(server.dsn))
            upgrade(url)
        store = stack.enter_context(closing(open_store(url)))
        assert isinstance(store, SqlStore)
        yield store


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_guards", description=__doc__)
    databases = ("SQLite", "Postgres", "DynamoDB")
    parser.add_argument("--databases", nargs="+", choices=databases, default=databases)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of a chain for each guard")
    parser.add_argument("--runs", type=int, default=1, help="runs of the chain for each guard")
    parser.add_argument("--folder", help="a folder on a disk, where commits wait for it")
    options = parser.parse_args()
    folder = options.folder or (str(IN_MEMORY) if IN_MEMORY.is_dir() else None)
    for database in options.databases:
        if database == "DynamoDB":
            rows = measure_dynamodb()
            print(report.table("Requests of a step on DynamoDB", REQUEST_COLUMNS, rows), flush=True)
            continue
        with opened_store(database, folder) as sql_store:
            rows = measure(sql_store, options.steps, options.runs)
            print(report.table(f"Guards of a step on {database}", COLUMNS, rows), flush=True)
            rows = measure_intervals(sql_store)
            print(report.table(f"Guards at intervals on {database}", INTERVAL_COLUMNS, rows), flush=True)


if __name__ == "__main__":
    main()
