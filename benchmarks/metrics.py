"""Metrics of several processes, one of them killed: `python -m benchmarks.metrics [RUNS]`.

Two processes of the service and two workers share a Postgres database and execute mixed runs. One worker gets
SIGKILL meanwhile. Then every counter of each service must be what the tables of runs and visits say.

The second measurement is the time of a scrape of a store with 1,000 playbooks, which folds the facts of some
steps, too. `benchmarks.speed` measures the steps.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import report
from benchmarks.speed import DURABLE, FOLDER
from noetl.api.service.compiler import InlinePlaybook
from noetl.api.service.metrics import OPENMETRICS_TYPE, PROMETHEUS_TYPE, Scrape
from noetl.api.service.services import create_services
from noetl.api.service.store_latency import StoreLatency
from noetl.executor.actions import catalogue
from noetl.executor.model.metrics import BUCKET_SECONDS
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.migrations import upgrade
from tests.http_server import find_free_port
from tests.postgres import empty_database, running_server

T = TypeVar("T")

RUNS = 1_000
PLAYBOOKS = 1_000
SCRAPES = 10
FACTS_BETWEEN = 1_500
"""Facts between two scrapes: those of 100 steps a second, for 15 seconds."""

LEASE_SECONDS = "10"
MAX_SECONDS = 600.0
ACTIVE_PLAYBOOKS = 10
FORMATS = (("text", PROMETHEUS_TYPE), ("OpenMetrics", OPENMETRICS_TYPE))
KINDS = (
    ("start", ""),
    ("run", "succeeded"),
    ("run", "failed"),
    ("step", "succeeded"),
    ("step", "failed"),
    ("retry", ""),
)

MIXED = (
    """
name: chain
steps:
- {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b]}]}
- {name: b, run: [{action: set, set: {m: 2}}], rule: [{case: default, run: [c]}]}
- {name: c, run: [{action: log, message: done}]}
""",
    """
name: fork
steps:
- {name: a, rule: [{case: default, run: [b, c]}]}
- {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
- {name: c, run: [{action: set, set: {y: 1}}], rule: [{case: default, run: [d]}]}
- {name: d, run: [{action: log, message: done}]}
""",
    """
name: retries
steps:
- name: a
  retry: {attempts: 3, delay: 50ms}
  run: [{action: shell, command: "test {{ step.attempt }} -ge 3"}]
""",
    """
name: fails
steps:
- {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b]}]}
- {name: b, run: [{action: fail, message: no}]}
""",
    """
name: slow
steps:
- {name: a, run: [{action: shell, command: sleep 0.05}]}
""",
)
"""Texts of the playbooks. Their steps succeed, fail, are repeated, or hold their workers."""

HELD = "name: held\nsteps: [{name: a, run: [{action: shell, command: 'test -e %s || sleep 600'}]}]"
"""A playbook whose step holds its worker until a file exists."""

ENDED = """
    select playbook, status, started_at, finished_at from runs where finished_at is not null
"""
VISITED = """
    select playbook, visits.status, visits.attempt, visits.claims, substr(step, 1, 1) = '@' as is_pseudo,
        visits.started_at, visits.finished_at
    from visits join runs on runs.id = visits.run_id
"""


def count_in_tables(store: SqlStore) -> dict[str, float]:
    """Return what the counters of a store without open runs must be, by the tables of runs and visits."""
    counts: Counter[str] = Counter()

    def add_duration(name: str, row: Mapping[str, Any], playbook: str = "") -> None:
        seconds = row["finished_at"] - row["started_at"]
        counts[f"{name}_sum{playbook}"] += seconds
        counts[f"{name}_count{playbook}"] += 1
        for bound in BUCKET_SECONDS[bisect_left(BUCKET_SECONDS, seconds) :]:
            counts[f"{name}_bucket {bound}{playbook}"] += 1
        counts[f"{name}_bucket +Inf{playbook}"] += 1

    for row in store.database.fetch_all(ENDED):
        counts[f"noetl_runs_started_total {row['playbook']}"] += 1
        counts[f"noetl_runs_ended_total {row['playbook']} {row['status']}"] += 1
        add_duration("noetl_run_duration_seconds", row, f" {row['playbook']}")
    for row in store.database.fetch_all(VISITED):
        # Only the claims of the last attempt are known. The steps that are lost here have one attempt.
        counts[f"noetl_lost_leases_total {row['playbook']}"] += row["claims"] - 1
        if not row["is_pseudo"]:
            counts[f"noetl_step_retries_total {row['playbook']}"] += row["attempt"] - 1
            counts[f"noetl_steps_ended_total {row['playbook']} {row['status']}"] += 1
            add_duration("noetl_step_duration_seconds", row)
    return {name: value for name, value in counts.items() if value}


def read_counters(text: str) -> dict[str, float]:
    """Return the counters of runs and steps in a scrape, by name and labels, without those that are 0."""
    return {
        " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.value and family.type != "gauge" and not family.name.startswith("noetl_store")
    }


def differences(scraped: Mapping[str, float], counted: Mapping[str, float]) -> dict[str, Any]:
    """Return the series whose values differ. Sums of seconds are added up in another order."""
    names = scraped.keys() | counted.keys()
    pairs = {name: (scraped.get(name, 0.0), counted.get(name, 0.0)) for name in names}
    return {name: pair for name, pair in pairs.items() if abs(pair[0] - pair[1]) > 1e-6 * max(1.0, *pair)}


@contextmanager
def mixed_runs(dsn: str, runs: int, folder: Path) -> Iterator[tuple[list[str], PostgresStore]]:
    """Execute mixed runs by two services and two workers, one of which is killed with a claim.

    Yield the URLs of the services and the store when all runs have ended.
    """
    upgrade(dsn)
    gate = folder / "gate"
    with ExitStack() as stack:
        store = stack.enter_context(closing(PostgresStore(dsn)))
        workers = [stack.enter_context(_process(dsn, "worker", "--threads", "1")) for _ in range(2)]
        held = create_services(store, catalogue()).runs.start(InlinePlaybook(HELD % gate), StartRequest())
        pid = _wait_for(lambda: _holder(store, held.id))
        ports = [find_free_port() for _ in range(2)]
        for port in ports:
            stack.enter_context(_process(dsn, "serve", "--port", str(port)))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        with httpx.Client() as client:
            _wait_for(lambda: all(_is_ready(client, url) for url in urls))
            for number in range(runs):
                if number == runs // 2:
                    gate.touch()
                    next(worker for worker in workers if worker.pid == pid).kill()
                response = client.post(
                    f"{urls[number % 2]}/workflows/run",
                    content=MIXED[number % len(MIXED)],
                    headers={"Content-Type": "application/yaml"},
                )
                response.raise_for_status()
        open_runs = "select count(*) as open_runs from runs where finished_at is null"
        _wait_for(lambda: not store.database.fetch_one(open_runs)["open_runs"])
        yield urls, store


@contextmanager
def _process(dsn: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of noetl with a store, and end it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NOETL_")}
    environ |= {
        "NOETL_STORE": dsn,
        "NOETL_WORKERS": "1",
        "NOETL_ALLOW_SHELL": "1",
        "NOETL_LEASE_SECONDS": LEASE_SECONDS,
        "PYTHONPATH": str(FOLDER.parent),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", "from noetl.api.cli import main; main()", *command],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _holder(store: SqlStore, run_id: str) -> int | None:
    """Return the process that executes a visit of a run, or None."""
    query = "select worker from visits where run_id = :run_id and status = 'running'"
    rows = store.database.fetch_all(query, run_id=run_id)
    return int(rows[0]["worker"].split("/")[2]) if rows else None


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def _wait_for(condition: Callable[[], T]) -> T:
    """Return the value of a condition as soon as it is true."""
    deadline = time.monotonic() + MAX_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "the runs do not end"
        time.sleep(0.05)
    return value


def measure_counters(dsn: str, runs: int, folder: Path) -> dict[str, Any]:
    """Return the number of series and how many of them differ, of each service and all together."""
    with mixed_runs(dsn, runs, folder) as (urls, store):
        counted = count_in_tables(store)
        scrapes = [read_counters(httpx.get(f"{url}/metrics").text) for url in urls]
    wrong = [differences(scraped, counted) for scraped in scrapes]
    lost = sum(value for name, value in counted.items() if name.startswith("noetl_lost_leases"))
    return {"runs": runs + 1, "series": len(counted), "lost leases": lost, "wrong": wrong}


def rows_of(number: int) -> list[dict[str, Any]]:
    """Return facts about runs of a playbook."""
    return [
        {
            "tenant": "default",
            "playbook": f"playbook {number}",
            "kind": kind,
            "status": status,
            "bucket": bucket,
        }
        for kind, status in KINDS
        for bucket in range(0, len(BUCKET_SECONDS), 3)
    ]


def fill(store: SqlStore, playbooks: int, repetitions: int = 1) -> None:
    """Add facts about runs of some playbooks: ends with several statuses and durations, and steps."""
    rows = [row for number in range(playbooks) for row in rows_of(number)] * repetitions
    insert = (
        "insert into facts (tenant, playbook, kind, status, bucket, seconds)"
        " values (:tenant, :playbook, :kind, :status, :bucket, 1.0)"
    )
    with store.database.transaction() as db:
        db.executemany(insert, rows)


def measure_scrape(store: SqlStore, playbooks: int, facts: int) -> report.Row:
    """Measure scrapes of a store with some playbooks, in each format, also after about so many facts.

    The first scrapes fold all that was filled in, and are not counted.
    """
    fill(store, playbooks)
    latency = StoreLatency()
    seconds: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    text = b""
    for number in range(4 * SCRAPES + 4):
        name, media_type = FORMATS[number % 2]
        has_facts = number % 4 > 1
        if has_facts:
            fill(store, ACTIVE_PLAYBOOKS, facts // (ACTIVE_PLAYBOOKS * len(rows_of(0))))
        started_at, processor_at = time.perf_counter(), time.thread_time()
        metrics = store.facts.read("default", store.clock())
        text = Scrape(metrics, store.clock(), has_playbooks=True).text(latency, media_type)
        if number >= 4:
            suffixed = name + (" after facts" if has_facts else "")
            seconds.setdefault(suffixed, []).append(time.perf_counter() - started_at)
            processor.setdefault(suffixed, []).append(time.thread_time() - processor_at)
    return {
        "lines": text.count(b"\n"),
        "seconds": {name: median(values) for name, values in seconds.items()},
        "processor": {name: median(values) for name, values in processor.items()},
    }


def _time_of(name: str) -> report.Column:
    return name, lambda row: f"{row['seconds'][name] * 1e3:.1f} ({row['processor'][name] * 1e3:.1f}) ms"


SCRAPE: tuple[report.Column, ...] = (
    ("store", lambda row: row["store"]),
    ("lines", lambda row: f"{row['lines']:,}"),
    *(_time_of(name + suffix) for suffix in ("", " after facts") for name, _ in FORMATS),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=RUNS, help="number of mixed runs")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder, running_server(**DURABLE) as server:
        with empty_database(server.dsn) as dsn:
            print(measure_counters(dsn, runs, Path(folder)), flush=True)
        with empty_database(server.dsn) as dsn:
            upgrade(dsn)
            stores = (SqliteStore(f"{folder}/noetl.db"), PostgresStore(dsn))
            rows = []
            for name, store in zip(("SQLite", "Postgres"), stores, strict=True):
                with closing(store):
                    rows.append({"store": name, **measure_scrape(store, PLAYBOOKS, FACTS_BETWEEN)})
        print(
            report.table(
                f"Scrapes with {PLAYBOOKS:,} playbooks: median (of it, processor time of the process)",
                SCRAPE,
                rows,
            )
        )


if __name__ == "__main__":
    main()
