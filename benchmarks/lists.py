"""Cost of lists of runs and of the status of a run: `python -m benchmarks.lists`.

Measures on SQLite and Postgres: the memory and the time of a list of 200 runs with input and result of 0.9 MB
each; a page of 20 runs with each filter among 5,000 and 50,000 runs; and the status of a run with 1 and with
2,000 visits. Memory is that of Python objects (`tracemalloc`), and a time is the median of several calls.
Bytes and statements are counted where the store passes them to its database.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from benchmarks import report
from benchmarks.growth import CountingDatabase, DatabaseUsage
from benchmarks.speed import FOLDER
from noetl.api.service.services import TenantServices, create_services
from noetl.executor.actions import catalogue
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from noetl.planner.plan import Plan
from tests.postgres import empty_database, running_server

Measurement: TypeAlias = Callable[[TenantServices, str], list[report.Row]]

PAYLOAD_BYTES = 900_000
PAYLOAD_RUNS = 200
RUNS = (5_000, 50_000)
VISITS = (1, 2_000)
REPETITIONS = 5
OPEN_RUNS = 100
"""The first runs of a store are open. They have no plan, so no worker may meet them."""

RARE = 5_000
"""One run in this many has the rare tag, playbook and status."""

TEXT = """
name: play
input: {text: {type: string, default: ""}}
steps:
- {name: a, max_visits: 3000, run: [{action: set, set: {n: 1}}], rule: [{case: "{{ n == 0 }}", run: [a]}]}
"""
FILTERS: Sequence[tuple[str, RunFilter]] = (
    ("first page", RunFilter(limit=20)),
    ("status failed, rare", RunFilter(statuses=(RunStatus.FAILED,), limit=20)),
    ("status waiting", RunFilter(statuses=(RunStatus.WAITING,), limit=20)),
    ("tag, rare", RunFilter(tags=("rare",), limit=20)),
    ("playbook, rare", RunFilter(playbook="rare", limit=20)),
    ("oldest first", RunFilter(is_oldest_first=True, limit=20)),
    ("several statuses", RunFilter(statuses=(RunStatus.FAILED, RunStatus.TIMED_OUT), limit=20)),
    ("key of a tag, rare", RunFilter(tags=("key",), limit=20)),
    ("two tags, one rare", RunFilter(tags=("often", "rare"), limit=20)),
    ("text in a playbook, rare", RunFilter(text="RAR", limit=20)),
    ("text of no run", RunFilter(text="nothing", limit=20)),
)
COUNTED_STEPS: Sequence[float | None] = (None, max(RUNS) / 100)
"""The steps of the two requests that count runs. None counts them by status only."""

MEMORY_COLUMNS: Sequence[report.Column] = (
    ("store", lambda row: row["store"]),
    ("request", lambda row: row["request"]),
    ("objects", lambda row: f"{row['bytes'] / 2**20:,.1f} MiB"),
    ("time", lambda row: f"{row['seconds'] * 1e3:,.1f} ms"),
)
FILTER_COLUMNS: Sequence[report.Column] = (
    ("store", lambda row: row["store"]),
    ("filter", lambda row: row["filter"]),
    *((f"{count:,} runs", lambda row, key=str(count): f"{row[key] * 1e3:,.2f} ms") for count in RUNS),
)
STATUS_COLUMNS: Sequence[report.Column] = (
    ("store", lambda row: row["store"]),
    ("visits", lambda row: f"{row['visits']:,}"),
    ("statements", lambda row: f"{row['statements']}"),
    ("bytes", lambda row: f"{row['bytes']:,}"),
    ("time", lambda row: f"{row['seconds'] * 1e3:,.2f} ms"),
)


def measure_payloads(services: TenantServices, name: str) -> list[report.Row]:
    """Return the memory and the time of a list, a status and a probe, with large payloads."""
    store, plan = _sql_store(services), _plan()
    for number in range(PAYLOAD_RUNS):
        request = StartRequest({"text": "x" * PAYLOAD_BYTES})
        run = store.runs.create(*new_run(plan.header, plan.hash, request, now=float(number)))
    with store.database.transaction() as db:
        db.execute("update runs set result = :result", result=json.dumps("y" * PAYLOAD_BYTES))
    requests: dict[str, Callable[[], object]] = {
        f"list of {PAYLOAD_RUNS}": lambda: services.runs.find(RunFilter(limit=PAYLOAD_RUNS)),
        "status": lambda: services.runs.report(run.id),
        "readyz": store.maintenance.probe,
    }
    return [
        {"store": name, "request": title, "bytes": _peak_bytes(read), "seconds": _median_seconds(read)}
        for title, read in requests.items()
    ]


def measure_filters(services: TenantServices, name: str) -> list[report.Row]:
    """Return the time of a page with each filter, among each number of runs."""
    titles = [title for title, _ in FILTERS] + ["counts", "histogram"]
    rows: list[report.Row] = [{"store": name, "filter": title} for title in titles]
    added = 0
    for count in RUNS:
        add_runs(_sql_store(services), range(added, count))
        added = count
        for row, (_, run_filter) in zip(rows, FILTERS, strict=False):
            row[str(count)] = _median_seconds(lambda: services.lists.page(run_filter))  # noqa: B023
        for row, step in zip(rows[len(FILTERS) :], COUNTED_STEPS, strict=True):
            row[str(count)] = _median_seconds(lambda: _count(services, step))  # noqa: B023
    return rows


def _count(services: TenantServices, step: float | None) -> object:
    """Count all runs, in intervals of a step that hold them all."""
    if step is None:
        return services.lists.counts(RunFilter())
    return services.lists.histogram(RunFilter(since=0.0, until=float(max(RUNS))), step)


def measure_status(services: TenantServices, name: str) -> list[report.Row]:
    """Return what the status of a run costs, with each number of visits."""
    store, plan = _sql_store(services), _plan()
    rows: list[report.Row] = []
    for count in VISITS:
        run, first = new_run(plan.header, plan.hash, StartRequest(), now=1.0)
        store.runs.create(run, first)
        saved = json.dumps({"n": "x" * 200})
        with store.database.transaction() as db:
            db.execute("delete from visits where run_id = :run_id", run_id=run.id)
            columns = "run_id, id, step, queue, status, position, clock, names, number, due_at, started_at"
            db.executemany(
                f"insert into visits ({columns}, finished_at, saved, result) values (:run_id, :id, 'a', 'q',"
                " 'succeeded', :position, :position, '{}', :position, 1, 1, 2, :saved, '=')",
                [
                    {"run_id": run.id, "id": str(number), "position": number, "saved": saved}
                    for number in range(1, count + 1)
                ],
            )
        services.runs.report(run.id)  # reads the plan
        usage = DatabaseUsage()
        database = store.context.database
        counted: Any = CountingDatabase(database, usage)
        store.context.database = counted
        services.runs.report(run.id)
        store.context.database = database
        seconds = _median_seconds(lambda: services.runs.report(run.id))  # noqa: B023
        values = {"statements": usage.statements, "bytes": usage.bytes, "seconds": seconds}
        rows.append({"store": name, "visits": count, **values})
    return rows


def add_runs(store: SqlStore, numbers: Sequence[int]) -> None:
    """Add ended runs. One in RARE is rare, and a hundred of all are open and wait."""
    plan = _plan()
    run, _ = new_run(plan.header, plan.hash, StartRequest(), now=1.0)
    data = dict.fromkeys(("input", "environment", "variables"), "{}")
    rows, tags = [], []
    for number in numbers:
        is_rare, is_open = number % RARE == 7, number < OPEN_RUNS
        rows.append(
            {
                "id": f"r{number}",
                "playbook": "rare" if is_rare else "play",
                "hash": run.plan_hash,
                "status": "running" if is_open else "failed" if is_rare else "succeeded",
                "tags": '["often","rare","key=1"]' if is_rare else '["often"]',
                "at": float(number),
                "ended": None if is_open else float(number),
            }
        )
        names = ('"often"', '"rare"', '"key=1"', '"key"') if is_rare else ('"often"',)
        tags += [{"tag": tag, "at": float(number), "id": f"r{number}"} for tag in names]
    with store.database.transaction() as db:
        db.executemany(
            "insert into runs (id, tenant, playbook, plan_hash, status, origin, queue, {data_columns}"
            " tags, created_at, finished_at, live) values (:id, 'default', :playbook, :hash, :status,"
            " 'service', 'service', {data_values} :tags, :at, :ended, 0)",
            [{**row, **db.columns_of_run(data)} for row in rows],
        )
        for row in rows:
            db.write_run_data(str(row["id"]), data)
        db.executemany(
            "insert into visits (run_id, id, step, queue, status, position, clock, names, number, due_at)"
            " values (:id, 'v', 'a', 'service', 'waiting', 1, 1, '{}', 1, 1e9)",
            [{"id": row["id"]} for row in rows if row["ended"] is None],
        )
        tag = "json_extract(:tag, '$')" if isinstance(store, SqliteStore) else ":tag"
        db.executemany(f"insert into run_tags values ('default', {tag}, :at, :id)", tags)
    with store.database.transaction() as db:
        db.execute("analyze runs")


def _plan() -> Plan:
    plan = compile_playbook(TEXT, catalogue()).plan
    assert plan is not None
    return plan


def _sql_store(services: TenantServices) -> SqlStore:
    assert isinstance(services.store, SqlStore)
    services.store.plans.save(_plan())
    return services.store


def _peak_bytes(operation: Callable[[], object]) -> int:
    operation()
    tracemalloc.start()
    operation()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def _median_seconds(operation: Callable[[], object]) -> float:
    operation()
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        operation()
        times.append(time.perf_counter() - began)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lists", description=__doc__)
    parser.add_argument("only", nargs="*", help="what to measure")
    chosen = parser.parse_args().only or list(MEASUREMENTS)
    with running_server() as server:
        for name in chosen:
            title, columns, measure = MEASUREMENTS[name]
            with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
                rows = _measure(f"sqlite:///{Path(folder) / 'noetl.db'}", "SQLite", measure)
            with empty_database(server.dsn) as dsn:
                upgrade(dsn)
                rows += _measure(dsn, "Postgres", measure)
            print(report.table(title, columns, rows), flush=True)


def _measure(url: str, name: str, measure: Measurement) -> list[report.Row]:
    store = open_store(url)
    try:
        return measure(create_services(store, catalogue()), name)
    finally:
        store.close()


MEASUREMENTS: Mapping[str, tuple[str, Sequence[report.Column], Measurement]] = {
    "payloads": (
        f"{PAYLOAD_RUNS} runs with input and result of {PAYLOAD_BYTES:,} bytes each",
        MEMORY_COLUMNS,
        measure_payloads,
    ),
    "filters": ("A page of 20 runs", FILTER_COLUMNS, measure_filters),
    "status": ("The status of a run", STATUS_COLUMNS, measure_status),
}


if __name__ == "__main__":
    main()
