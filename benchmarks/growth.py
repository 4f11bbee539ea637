"""`python -m benchmarks.growth`: what the tenth and the ten thousandth step of a chain ask of SQLite and of Postgres; and what a
branch of ten and one of a thousand take, with one join and four workers on Postgres.

Statements and bytes are counted where the store hands them to its database; bytes are those of the statements' values and of
the rows that come back. On DynamoDB `python -m benchmarks.cost` counts the same.
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

from noetl.executor.actions import catalogue
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import Lease, RunStatus
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.stores.sql.store import SqlStore
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from noetl.planner.gc_control import gc_paused

from benchmarks import report
from benchmarks.floors import postgres_row
from benchmarks.playbooks import fan_out, set_chain
from benchmarks.speed import DURABLE, FOLDER, until_ended, working
from tests.postgres import empty_database, running_server

STEPS = 10_000
AROUND = 50
"""Of how many steps that follow each other a row is the median."""

COLUMNS: Sequence[report.Column] = (
    ("store", lambda row: row["store"]),
    ("step", lambda row: f"{row['step']:,}"),
    ("statements", lambda row: f"{row['statements']:g}"),
    ("bytes", lambda row: f"{row['bytes']:,.0f}"),
    ("time", lambda row: f"{row['seconds'] * 1e6:,.0f} µs"),
)
BRANCHES = {10: 25, 100: 9, 1_000: 5}
"""How many branches a fork has, and how often each is measured."""
WORKERS = 4
FANS: Sequence[report.Column] = (
    ("branches", lambda row: f"{row['branches']:,}"),
    ("row", lambda row: f"{row['row'] * 1e6:,.0f} µs"),
    ("a branch", lambda row: f"{row['branch'] * 1e6:,.0f} µs"),
    ("branch/row", lambda row: f"{row['rows_per_branch']:.1f}"),
)


@dataclass
class Asked:
    """What was asked of a database: how many statements, and how many bytes went there and came back."""

    statements: int = 0
    bytes: int = 0

    def note(self, values: Any, rows: Any = ()) -> None:
        self.statements += 1
        self.bytes += sum(len(str(value)) for value in values if value is not None)
        self.bytes += sum(
            len(str(value)) for row in rows for value in dict(row).values() if value is not None
        )


class Counted:
    """A database or one of its writers, which counts what it is asked."""

    def __init__(self, one: Any, asked: Asked) -> None:
        self._one = one
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._one, name)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._one.transaction() as db:
            yield Counted(db, self._asked)

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Any:
        self._asked.note(values)
        return self._one.execute(query, values)

    def executemany(self, query: str, rows: Any, /) -> Any:
        for row in (listed := list(rows)):
            self._asked.note(row)
        return self._one.executemany(query, listed)

    def fetch_all(self, query: str, *values: Any) -> Any:
        rows = self._one.all(query, *values)
        self._asked.note(values, rows)
        return rows

    def fetch_one(self, query: str, *values: Any) -> Any:
        row = self._one.one(query, *values)
        self._asked.note(values, [row])
        return row

    def execute_returning(self, query: str, *values: Any) -> Any:
        row = self._one.change(query, *values)
        self._asked.note(values, [] if row is None else [row])
        return row


def measure(url: str, name: str, steps: int = STEPS) -> list[report.Row]:
    """A row for each decade of the steps of a chain."""
    store = open_store(url)
    assert isinstance(store, SqlStore)
    asked = Asked()
    counted: Any = Counted(store.database, asked)
    for attribute in {"database", "file", "postgres"} & vars(store).keys():
        setattr(store, attribute, counted)
    plan = compile_playbook(set_chain(steps), catalogue()).plan
    assert plan is not None
    store.save_plan(plan)
    run = store.create_run(*new_run(plan.header, plan.hash, {}, now=time.time()))
    lease = Lease("growth", 600.0)
    walker = VisitExecutor(store, lease, local_run_capabilities(FOLDER))
    claim = store.claim(run.queue, lease, time.time())
    spent: list[tuple[int, int, float]] = []
    with gc_paused():
        while claim is not None:
            asked.statements = asked.bytes = 0
            began = time.perf_counter()
            claim = walker.execute(claim)
            spent.append((asked.statements, asked.bytes, time.perf_counter() - began))
    ended = store.run(run.tenant, run.id)
    assert ended is not None
    assert ended.status is RunStatus.SUCCEEDED
    store.close()
    decades = [number for number in (10, 100, 1_000, 10_000) if number <= steps]
    return [_row(name, number, spent[:steps], steps) for number in decades]


def _row(name: str, number: int, spent: list[tuple[int, int, float]], steps: int) -> report.Row:
    # The first step lets the run begin and the last lets it end.
    first = max(1, min(number - 1, steps - 1 - AROUND))
    part = spent[first : min(first + AROUND, steps - 1)]
    statements, amount, seconds = (median(column) for column in zip(*part, strict=True))
    return {"store": name, "step": number, "statements": statements, "bytes": amount, "seconds": seconds}


def fans(dsn: str, branches: Mapping[int, int] = BRANCHES, workers: int = WORKERS) -> list[report.Row]:
    """A row for every width of a fork: from the first to the last end of a branch, for each. The widths take turns."""
    store = open_store(dsn)
    plans = {width: compile_playbook(fan_out(width), catalogue()).plan for width in branches}
    found: dict[int, list[tuple[float, float]]] = {width: [] for width in branches}
    with working(dsn, workers):
        for repetition in range(max(branches.values()) + 1):
            for width, plan in plans.items():
                assert plan is not None
                if repetition == 0:
                    store.save_plan(plan)
                elif repetition > branches[width]:
                    continue
                run = store.create_run(*new_run(plan.header, plan.hash, {}, now=time.time()))
                until_ended(store, [run.id])
                ends = [at for step, at in _completed(store, run.id) if step.startswith("b")]
                assert len(ends) == width
                # The first run of a plan reads its steps and compiles its expressions.
                if repetition:
                    found[width].append((postgres_row(dsn), (max(ends) - min(ends)) / (width - 1)))
    store.close()
    return [
        {
            "branches": width,
            "row": median(row for row, _ in times),
            "branch": median(branch for _, branch in times),
            "rows_per_branch": median(branch / row for row, branch in times),
        }
        for width, times in found.items()
    ]


def _completed(store: Store, run_id: str) -> Iterator[tuple[str, float]]:
    after = None
    while events := store.events(run_id, after, 10_000):
        yield from ((event.step or "", event.at) for event in events if event.type == "step.completed")
        after = events[-1].id


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="how long the chain is")
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        rows = measure(f"sqlite:///{Path(folder) / 'noetl.db'}", "SQLite", steps)
    with running_server(**DURABLE) as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        rows += measure(dsn, "Postgres", steps)
        print(report.table(f"What a step of a chain of {steps:,} asks", COLUMNS, rows))
        title = f"A branch of a fork with one join, {WORKERS} workers on Postgres, beside one committed row"
        print(report.table(title, FANS, fans(dsn)))


if __name__ == "__main__":
    main()
