"""Waiting runs and a long loop, their memory and delay: `python -m benchmarks.waiting`.

In SQLite, every run waits for its own time; the times are spread over `SPREAD_SECONDS`. The measurement is in
this process, so its memory includes the worker, the store and the start of the runs.

In SQLite and Postgres, all runs wait for the same time. From then on, a new run starts every `START_SECONDS`.
The delay of its first step is measured, until no run waits any more, or for `NEW_SECONDS`.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.run_copies import check_runs, copy_run
from noetl.executor.actions import catalogue
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import Run, RunStatus, VisitStatus
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.executor.worker import Worker, WorkerSettings
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from noetl.planner.plan import Plan
from tests.postgres import empty_database, running_server

RUNS = 10_000
ITEMS = 100_000
SPREAD_SECONDS = 100.0
THREADS = 8
FOLDER = Path(__file__).parent
START_SECONDS = 0.1
NEW_SECONDS = 30.0
"""How long new runs start, unless no run waits any more."""

RUNS_A_SECOND = 40
"""How many runs a machine executes until they wait, at least."""

NEW = "name: new\nsteps: [{name: a, run: [{action: set, set: {x: 1}}]}]"
WAIT = """
name: patient
input: {until: string}
steps:
- {name: a, run: [{action: wait, until: "{{ until }}"}, {action: set, set: {x: 1}}]}
"""
LOOP = """
name: long
input: {count: integer}
steps:
- name: each
  loop: {items: "{{ range(count) | list }}", batch: 1000}
  run: [{action: set, set: {x: "{{ item }}"}}]
  rule: [{case: default, run: [tell]}]
- name: tell
  run: [{action: set, set: {done: "{{ steps.each.result | length }}", last: "{{ steps.each.result[-1].x }}"}}]
output: {done: "{{ done }}", last: "{{ last }}"}
"""


def measure(runs: int = RUNS, items: int = ITEMS, spread_seconds: float = SPREAD_SECONDS) -> dict[str, Any]:
    """Measure waiting runs and a loop. Times are in seconds, memory in MiB."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        store = open_store(f"sqlite:///{folder}/noetl.db")
        worker = Worker(store, WorkerSettings(local_run_capabilities(FOLDER), threads=THREADS))
        try:
            return {**_loop(store, worker, items), **_wait(store, worker, runs, spread_seconds)}
        finally:
            worker.stop()
            store.close()


def measure_due_together(store: SqlStore, runs: int = RUNS, wait_seconds: float = 10.0) -> dict[str, Any]:
    """Measure the first steps of new runs while runs are due that have all waited for the same time.

    One run is executed until it waits, and then copied.
    """
    worker = Worker(store, WorkerSettings(local_run_capabilities(FOLDER), threads=THREADS))
    worker.start()
    try:
        wait, new = _plan(store, WAIT), _plan(store, NEW)
        due_at = store.clock() + wait_seconds
        given = {"until": datetime.fromtimestamp(due_at, UTC).isoformat()}
        run = store.runs.create(*new_run(wait.header, wait.hash, StartRequest(given), now=store.clock()))
        while not _waits(store, run.id):
            time.sleep(0.01)
        copy_run(store, run.id, runs - 1)
        have_waited = store.clock() < due_at
        time.sleep(max(due_at - store.clock(), 0.0))
        started: list[Run] = []
        while not started or (
            store.clock() < due_at + NEW_SECONDS and store.queue.next_due("service") is not None
        ):
            start = new_run(new.header, new.hash, StartRequest({}), now=store.clock())
            started.append(store.runs.create(*start))
            time.sleep(START_SECONDS)
        took = store.clock() - due_at
        while any(_is_queued(store, run.id) for run in started):
            time.sleep(START_SECONDS)
        late = [_first_started_at(store, run.id) - run.created_at for run in started]
    finally:
        worker.stop()
    check_runs(store)
    return {
        "due_together": runs,
        "all_waited_at_once": have_waited,
        "seconds": took,
        "new_runs": len(started),
        "first_step_seconds_median": median(late),
        "first_step_seconds_worst": max(late),
    }


def _is_queued(store: Store, run_id: str) -> bool:
    return store.runs.positions([run_id])[run_id].status is RunStatus.QUEUED


def _waits(store: Store, run_id: str) -> bool:
    return any(visit.status is VisitStatus.WAITING for visit in store.runs.visits(run_id))


def _first_started_at(store: Store, run_id: str) -> float:
    return next(event.at for event in store.runs.events(run_id) if event.type == "step.started")


def _print(row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        print(f"{name:<28}{value:,.2f}" if isinstance(value, float) else f"{name:<28}{value}")


def _loop(store: Store, worker: Worker, items: int) -> dict[str, Any]:
    plan = _plan(store, LOOP)
    before = _memory()
    run = store.runs.create(*new_run(plan.header, plan.hash, StartRequest({"count": items}), now=time.time()))
    started = time.perf_counter()
    worker.start()
    ended = worker.wait_until_finished(run.tenant, run.id)
    took = time.perf_counter() - started
    assert ended.result == {"done": items, "last": items - 1}, ended.errors
    return {
        "items": items,
        "loop_seconds": took,
        "items_per_second": items / took,
        "loop_mib": _memory() - before,
    }


def _wait(store: Store, worker: Worker, runs: int, spread_seconds: float) -> dict[str, Any]:
    plan = _plan(store, WAIT)
    begun = time.time()
    # All runs wait before the first is due.
    first_due = begun + runs / RUNS_A_SECOND + 2
    due = {}
    for index in range(runs):
        due_at = first_due + spread_seconds * index / runs
        given = {"until": datetime.fromtimestamp(due_at, UTC).isoformat()}
        due[store.runs.create(*new_run(plan.header, plan.hash, StartRequest(given), now=time.time())).id] = (
            due_at
        )
    while (next_due := store.queue.next_due("service")) is not None and next_due < first_due:
        time.sleep(0.1)
    threads, memory, waiting_at = threading.active_count(), _memory(), time.time()
    while store.queue.next_due("service") is not None:
        time.sleep(0.5)
    late = sorted(_resumed_at(store, id) - due_at for id, due_at in due.items())
    return {
        "runs": runs,
        "threads": threads,
        "all_waited_at_once": waiting_at < first_due,
        "memory_mib_while_all_wait": memory,
        "memory_mib_at_the_end": _memory(),
        "late_seconds_median": median(late),
        "late_seconds_worst": late[-1],
    }


def _resumed_at(store: Store, run_id: str) -> float:
    return next(event.at for event in store.runs.events(run_id) if event.type == "step.completed")


def _plan(store: Store, text: str) -> Plan:
    plan = compile_playbook(text, catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    return plan


def _memory() -> float:
    """Return the maximum memory of this process so far, in MiB."""
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum / 1024**2 if sys.platform == "darwin" else maximum / 1024


if __name__ == "__main__":
    _print(measure())
    with (
        tempfile.TemporaryDirectory(dir=FOLDER) as folder,
        closing(SqliteStore(f"{folder}/noetl.db")) as sqlite,
    ):
        _print({"store": "SQLite", **measure_due_together(sqlite)})
    with running_server() as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        with closing(PostgresStore(dsn, threads=THREADS)) as postgres:
            _print({"store": "Postgres", **measure_due_together(postgres)})
