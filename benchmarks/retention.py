"""Runs that are kept for too long, on SQLite and Postgres: `python -m benchmarks.retention [SECONDS]`.

Runs of one step start at RUNS_A_SECOND, and are kept for KEEP_SECONDS after their end. `measure` returns the
most runs that were too old at any sample.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from noetl.executor.actions import catalogue
from noetl.executor.engine.start import new_run
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.executor.worker import Worker, WorkerSettings
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from tests.postgres import empty_database, running_server

SECONDS = 160.0
RUNS_A_SECOND = 57.0
KEEP_SECONDS = 40.0
SAMPLE_SECONDS = 0.5
THREADS = 8
FOLDER = Path(__file__).parent
TEXT = "name: short\nsteps: [{name: a, run: [{action: set, set: {x: 1}}]}]"


@contextmanager
def _sqlite(keep_seconds: float) -> Iterator[SqlStore]:
    with (
        tempfile.TemporaryDirectory(dir=FOLDER) as folder,
        closing(SqliteStore(f"{folder}/noetl.db", retention_seconds=keep_seconds)) as store,
    ):
        yield store


@contextmanager
def _postgres(keep_seconds: float) -> Iterator[SqlStore]:
    with running_server() as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        with closing(PostgresStore(dsn, threads=THREADS, retention_seconds=keep_seconds)) as store:
            yield store


STORES = {"SQLite": _sqlite, "Postgres": _postgres}


def measure(
    database: str,
    seconds: float = SECONDS,
    keep_seconds: float = KEEP_SECONDS,
    runs_a_second: float = RUNS_A_SECOND,
) -> dict[str, Any]:
    """Measure retention on a database while runs end for some seconds."""
    with STORES[database](keep_seconds) as store:
        plan = compile_playbook(TEXT, catalogue()).plan
        assert plan is not None
        store.plans.save(plan)
        worker = Worker(store, WorkerSettings(local_run_capabilities(FOLDER), threads=THREADS))
        worker.start()
        begun = time.monotonic()
        started = most_old = 0
        next_sample = begun
        while (now := time.monotonic()) < begun + seconds:
            if now >= next_sample:
                most_old = max(most_old, _count_old(store, keep_seconds))
                next_sample = now + SAMPLE_SECONDS
            if now >= begun + started / runs_a_second:
                started += 1
                store.runs.create(*new_run(plan.header, plan.hash, StartRequest({}), now=store.clock()))
            else:
                time.sleep(begun + started / runs_a_second - now)
        worker.stop()
        left = store.database.fetch_one("select count(*) as runs from runs")["runs"]
    return {"started": started, "a_second": started / seconds, "most_old": most_old, "left": left}


def _count_old(store: SqlStore, keep_seconds: float) -> int:
    query = "select count(*) as runs from runs where finished_at < :before"
    return int(store.database.fetch_one(query, before=store.clock() - keep_seconds)["runs"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=SECONDS, help="how long runs start")
    seconds = parser.parse_args().seconds
    for database in STORES:
        row = measure(database, seconds)
        print(
            f"{database:<10}{row['started']:>7,} runs, {row['a_second']:.0f} a second"
            f"   at most {row['most_old']:,} too old   {row['left']:,} left"
        )


if __name__ == "__main__":
    main()
