"""Costs of showing long runs, compared with short ones: `python -m benchmarks.reading`.

Measures a run at a glance, its status, its steps as a page of runs reads them, and one of its visits, with 1
and with 2,000 visits. Also a full page of failed items of a loop with 100 and with 10,000 items. The stores
are SQLite and Postgres. A time is the least processor time of the process in several calls, without HTTP.
Postgres works in processes of its own, so there the time elapses. For DynamoDB, in an emulator, it counts
requests, read units and bytes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import report
from benchmarks.cost import create_bucket, emulated_account
from benchmarks.meter import AwsMeter
from benchmarks.speed import DURABLE, FOLDER
from noetl.api.service.loop_items import ItemQuery
from noetl.api.service.loop_states import ItemState
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import Store
from noetl.infra.migrations import upgrade
from noetl.testing.run_harness import RunHarness
from tests.postgres import empty_database, running_server

VISITS = (1, 2_000)
ITEMS = (100, 10_000)
CALLS = 30
CYCLE = """
name: cycle
input: {rounds: integer}
steps:
  - name: a
    max_visits: 3000
    run: [{action: set, set: {n: "{{ (n | default(0)) + 1 }}"}}]
    rule: [{case: "{{ n < rounds }}", run: [a]}]
"""
LOOP = """
name: loop
input: {count: integer}
steps:
  - name: a
    loop: {items: "{{ range(1, count + 1) | list }}", on_error: continue}
    run: [{action: fail, message: "no {{ item }}"}]
"""
COLUMNS: Sequence[report.Column] = (
    ("store", lambda row: row["store"]),
    ("read", lambda row: row["read"]),
    ("short", lambda row: f"{row['short'] * 1e3:.2f} ms"),
    ("long", lambda row: f"{row['long'] * 1e3:.2f} ms"),
    ("ratio", lambda row: f"{row['long'] / row['short']:.1f}"),
)
DYNAMO_COLUMNS: Sequence[report.Column] = (
    ("read", lambda row: row["read"]),
    *(
        column
        for name in ("short", "long")
        for column in (
            (f"{name}: requests", lambda row, name=name: f"{row[name].requests.total()}"),
            ("units", lambda row, name=name: f"{row[name].read_units:g}"),
            ("received", lambda row, name=name: f"{row[name].received_bytes:,} B"),
        )
    ),
)


def measure(url: str, name: str, clock: Callable[[], float]) -> list[report.Row]:
    """Return a row for each kind of read, with its time for a short and for a long run."""
    store = open_store(url)
    rows: list[report.Row] = []
    for read, calls in make_reads(store).items():
        short, long = (_least_seconds(call, clock) for call in calls)
        rows.append({"store": name, "read": read, "short": short, "long": long})
    store.close()
    return rows


def make_reads(store: Store) -> dict[str, list[Callable[[], object]]]:
    """Execute short and long runs. Return two calls for each kind of read: of a short and of a long run."""
    services = create_services(store, catalogue())
    runs = [RunHarness(store, CYCLE, {"rounds": rounds}).finish() for rounds in VISITS]
    loops = [RunHarness(store, LOOP, {"count": count}).finish() for count in ITEMS]
    query = ItemQuery("a", state=ItemState.FAILED)
    return {
        "run at a glance": [partial(services.data.details, run.id) for run in runs],
        "status": [partial(services.runs.report, run.id) for run in runs],
        "steps for a page": [partial(store.visits.overviews, run.tenant, [run.id]) for run in runs],
        "first visit": [partial(services.data.step, run.id, "a", 1) for run in runs],
        "latest visit": [partial(services.data.step, run.id, "a") for run in runs],
        "page of failed items": [partial(services.items.page, run.id, query) for run in loops],
    }


def count_requests() -> list[report.Row]:
    """Return a row for each kind of read on DynamoDB, with what it uses for a short and for a long run."""
    with ExitStack() as stack:
        stack.enter_context(emulated_account())
        store = DynamoStore("noetl", bucket=create_bucket())
        meter = stack.enter_context(AwsMeter().attached())
        rows: list[report.Row] = []
        for read, calls in make_reads(store).items():
            uses = []
            for call in calls:
                call()
                meter.read()
                call()
                uses.append(meter.read())
            rows.append({"read": read, "short": uses[0], "long": uses[1]})
        return rows


def _least_seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    call()
    seconds = []
    for _ in range(CALLS):
        began = clock()
        call()
        seconds.append(clock() - began)
    return min(seconds)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        rows = measure(f"sqlite:///{Path(folder) / 'noetl.db'}", "SQLite", time.thread_time)
    with running_server(**DURABLE) as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        rows += measure(dsn, "Postgres", time.perf_counter)
    print(report.table("Reads of long runs", COLUMNS, rows))
    print(report.table("The same on DynamoDB", DYNAMO_COLUMNS, count_requests()))


if __name__ == "__main__":
    main()
