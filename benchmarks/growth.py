"""Growth of the cost of a step with the length of a run: `python -m benchmarks.growth`.

Measures the tenth and the ten thousandth step of a chain on SQLite and Postgres, and a branch of a fork of
ten and of a thousand branches with one join, with four workers on Postgres. Statements and bytes are
counted where the store passes them to its database. Bytes are those of the values of statements and of the
returned rows. For DynamoDB, `python -m benchmarks.cost` counts the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.floors import postgres_row
from benchmarks.playbooks import fan_out, set_chain
from benchmarks.speed import DURABLE, FOLDER, running_workers, wait_until_ended
from noetl.executor.actions import catalogue
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import Lease, RunStatus
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.stores.sql.store import SqlStore
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from noetl.planner.gc_control import gc_paused
from tests.postgres import empty_database, running_server

STEPS = 10_000
MEDIAN_STEPS = 50
"""Number of consecutive steps whose median is a row."""

COLUMNS: Sequence[report.Column] = (
    ("store", lambda row: row["store"]),
    ("step", lambda row: f"{row['step']:,}"),
    ("statements", lambda row: f"{row['statements']:g}"),
    ("bytes", lambda row: f"{row['bytes']:,.0f}"),
    ("time", lambda row: f"{row['seconds'] * 1e6:,.0f} µs"),
)
BRANCHES = {10: 25, 100: 9, 1_000: 5}
"""Numbers of branches, with the number of repetitions."""
WORKERS = 4
FORK_COLUMNS: Sequence[report.Column] = (
    ("branches", lambda row: f"{row['branches']:,}"),
    ("row", lambda row: f"{row['row'] * 1e6:,.0f} µs"),
    ("a branch", lambda row: f"{row['branch'] * 1e6:,.0f} µs"),
    ("branch/row", lambda row: f"{row['rows_per_branch']:.1f}"),
)


@dataclass
class DatabaseUsage:
    """Statements sent to a database, and bytes sent and returned."""

    statements: int = 0
    bytes: int = 0

    def add(self, values: Mapping[str, Any], rows: Any = ()) -> None:
        self.statements += 1
        self.bytes += sum(len(str(value)) for value in values.values() if value is not None)
        self.bytes += sum(
            len(str(value)) for row in rows for value in dict(row).values() if value is not None
        )


class CountingDatabase:
    """A database, or a transaction of it, that counts its use."""

    def __init__(self, database: Any, usage: DatabaseUsage) -> None:
        self._database = database
        self._usage = usage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @contextmanager
    def transaction(self, *arguments: Any) -> Iterator[Any]:
        with self._database.transaction(*arguments) as db:
            yield CountingDatabase(db, self._usage)

    def execute(self, query: str, /, **values: Any) -> Any:
        self._usage.add(values)
        return self._database.execute(query, **values)

    def executemany(self, query: str, rows: Any, /) -> Any:
        for row in (listed := list(rows)):
            self._usage.add(row)
        return self._database.executemany(query, listed)

    def fetch_all(self, query: str, /, **values: Any) -> Any:
        rows = self._database.fetch_all(query, **values)
        self._usage.add(values, rows)
        return rows

    def fetch_one(self, query: str, /, **values: Any) -> Any:
        row = self._database.fetch_one(query, **values)
        self._usage.add(values, [row])
        return row

    def execute_returning(self, query: str, /, **values: Any) -> Any:
        row = self._database.execute_returning(query, **values)
        self._usage.add(values, [] if row is None else [row])
        return row


def measure(url: str, name: str, steps: int = STEPS) -> list[report.Row]:
    """Return a row for each decade of the steps of a chain."""
    store = open_store(url)
    assert isinstance(store, SqlStore)
    usage = DatabaseUsage()
    counted: Any = CountingDatabase(store.database, usage)
    store.context.database = counted
    if hasattr(store.queue, "_database"):
        store.queue._database = counted  # noqa: SLF001
    plan = compile_playbook(set_chain(steps), catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    run = store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=time.time()))
    lease = Lease("growth", 600.0)
    executor = VisitExecutor(store, lease, local_run_capabilities(FOLDER))
    claim = store.queue.claim(run.queue, lease, time.time())
    measurements: list[tuple[int, int, float]] = []
    with gc_paused():
        while claim is not None:
            usage.statements = usage.bytes = 0
            began = time.perf_counter()
            claim = executor.execute(claim)
            measurements.append((usage.statements, usage.bytes, time.perf_counter() - began))
    ended = store.runs.get(run.tenant, run.id)
    assert ended is not None
    assert ended.status is RunStatus.SUCCEEDED
    store.close()
    decades = [number for number in (10, 100, 1_000, 10_000) if number <= steps]
    return [_row(name, number, measurements[:steps], steps) for number in decades]


def _row(name: str, number: int, measurements: list[tuple[int, int, float]], steps: int) -> report.Row:
    # The first and the last step also start and end the run.
    first = max(1, min(number - 1, steps - 1 - MEDIAN_STEPS))
    part = measurements[first : min(first + MEDIAN_STEPS, steps - 1)]
    statements, amount, seconds = (median(column) for column in zip(*part, strict=True))
    return {"store": name, "step": number, "statements": statements, "bytes": amount, "seconds": seconds}


def measure_forks(
    dsn: str, branches: Mapping[int, int] = BRANCHES, workers: int = WORKERS
) -> list[report.Row]:
    """Return a row for every width of a fork: the time between the ends of two branches.

    The widths alternate.
    """
    store = open_store(dsn)
    plans = {width: compile_playbook(fan_out(width), catalogue()).plan for width in branches}
    times_by_width: dict[int, list[tuple[float, float]]] = {width: [] for width in branches}
    with running_workers(dsn, workers):
        for repetition in range(max(branches.values()) + 1):
            for width, plan in plans.items():
                assert plan is not None
                if repetition == 0:
                    store.plans.save(plan)
                elif repetition > branches[width]:
                    continue
                run = store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=time.time()))
                wait_until_ended(store, [run.id])
                ends = [time_ for step, time_ in _completed(store, run.id) if step.startswith("b")]
                assert len(ends) == width
                # The first run of a plan reads its steps and compiles its expressions.
                if repetition:
                    times_by_width[width].append((postgres_row(dsn), (max(ends) - min(ends)) / (width - 1)))
    store.close()
    return [
        {
            "branches": width,
            "row": median(row for row, _ in times),
            "branch": median(branch for _, branch in times),
            "rows_per_branch": median(branch / row for row, branch in times),
        }
        for width, times in times_by_width.items()
    ]


def _completed(store: Store, run_id: str) -> Iterator[tuple[str, float]]:
    after = None
    while events := store.runs.events(run_id, after, 10_000):
        yield from ((event.step or "", event.at) for event in events if event.type == "step.completed")
        after = events[-1].id


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="number of steps of the chain")
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        rows = measure(f"sqlite:///{Path(folder) / 'noetl.db'}", "SQLite", steps)
    with running_server(**DURABLE) as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        rows += measure(dsn, "Postgres", steps)
        print(report.table(f"A step of a chain of {steps:,}", COLUMNS, rows))
        comparison = f"{WORKERS} workers on Postgres, compared with one committed row"
        title = f"A branch of a fork with one join, {comparison}"
        print(report.table(title, FORK_COLUMNS, measure_forks(dsn)))


if __name__ == "__main__":
    main()
