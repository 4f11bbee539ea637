"""Ten steps on a Postgres while a session holds a snapshot: `python -m benchmarks.held_snapshot [SECONDS]`.

Runs of ten steps start at RUNS_A_SECOND, first without and then with the snapshot. `measure` returns how long
a run takes at the end of each time, how many blocks the server reads for it, and how many runs wait for a
worker then. The blocks do not depend on what else the machine does. Without a snapshot, a minute is
enough: nothing that slows a run down grows. The command fails if a run takes LIMIT times as long with it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from noetl.executor.actions import catalogue
from noetl.executor.engine.start import new_run
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.worker import Worker, WorkerSettings
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from tests.postgres import empty_database, running_server

SECONDS = 600.0
SECONDS_WITHOUT = 60.0
LIMIT = 2.0
RUNS_A_SECOND = 14.0
STEPS = 10
THREADS = 8
MAX_WAITING = 64
"""The number of runs that have not ended, with which no other begins."""

BLOCKS = """
    select sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::float8
    from pg_statio_user_tables
"""
LAST_PART = 0.9
"""Where the last part of a time begins, in which blocks are counted."""

LAST_RUNS = 100
"""The number of runs at the end of a time whose duration counts."""


def _text() -> str:
    rules = [f", rule: [{{case: default, run: [s{number + 1}]}}]" for number in range(STEPS - 1)]
    steps = [
        f"- {{name: s{number}, run: [{{action: set, set: {{x: {number}}}}}]{rule}}}"
        for number, rule in enumerate([*rules, ""])
    ]
    return "\n".join(["name: chain", "steps:", *steps])


@contextmanager
def _snapshot(dsn: str, *, is_held: bool) -> Iterator[None]:
    """Keep a snapshot in a session, as a backup or a forgotten transaction does."""
    with psycopg.connect(dsn) as session:
        if is_held:
            session.execute("set transaction isolation level repeatable read")
            session.execute("select count(*) from visits")
        yield
        session.rollback()


def _read_blocks(dsn: str) -> float:
    """Return how many blocks of tables and indexes the server has read."""
    with psycopg.connect(dsn) as connection:
        ((blocks,),) = connection.execute(BLOCKS)
        return float(blocks)


def _run_for(dsn: str, seconds: float, *, is_held: bool) -> dict[str, Any]:
    """Start runs for some seconds, and return how long the last of them took."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(PostgresStore(dsn)) as store,
        _snapshot(dsn, is_held=is_held),
    ):
        plan = compile_playbook(_text(), catalogue()).plan
        assert plan is not None
        store.plans.save(plan)
        worker = Worker(store, WorkerSettings(local_run_capabilities(Path(folder)), threads=THREADS))
        worker.start()
        took: list[float] = []
        places = threading.Semaphore(MAX_WAITING)
        waiters: list[threading.Thread] = []
        started_at = time.monotonic()
        blocks = 0.0
        counted = 0

        def start_run() -> None:
            begun = time.monotonic()
            new = new_run(plan.header, plan.hash, StartRequest({}), now=store.clock())
            run = store.runs.create(*new)
            store.work.notify()
            worker.wait_until_finished(run.tenant, run.id)
            took.append(time.monotonic() - begun)
            places.release()

        while (now := time.monotonic()) - started_at < seconds:
            if not counted and now - started_at > LAST_PART * seconds:
                blocks, counted = -_read_blocks(dsn), len(took)
            places.acquire()
            waiter = threading.Thread(target=start_run)
            waiter.start()
            waiters.append(waiter)
            time.sleep(max(now + 1 / RUNS_A_SECOND - time.monotonic(), 0.0))
        waiting = sum(waiter.is_alive() for waiter in waiters)
        blocks, counted = blocks + _read_blocks(dsn), len(took) - counted
        for waiter in waiters:
            waiter.join()
        worker.stop()
    return {
        "runs": len(took),
        "seconds": median(took[-LAST_RUNS:]),
        "blocks": blocks / max(counted, 1),
        "waiting": waiting,
    }


def measure(seconds: float = SECONDS) -> dict[str, dict[str, Any]]:
    """Measure runs of ten steps without and with a snapshot that is held for some seconds."""
    rows = {}
    with running_server() as server:
        for name, is_held in (("without", False), ("held", True)):
            with empty_database(server.dsn) as dsn:
                upgrade(dsn)
                rows[name] = _run_for(
                    dsn, seconds if is_held else min(seconds, SECONDS_WITHOUT), is_held=is_held
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.held_snapshot", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=SECONDS, help="how long it is held")
    rows = measure(parser.parse_args().seconds)
    for name, row in rows.items():
        figures = f"{row['seconds']:.3f} s   {row['blocks']:,.0f} blocks a run   {row['waiting']} wait"
        print(f"{name:<10}{row['runs']:>7} runs   {figures}")
    if rows["held"]["seconds"] > LIMIT * rows["without"]["seconds"]:
        sys.exit(f"a run took more than {LIMIT:g} times as long with the snapshot")


if __name__ == "__main__":
    main()
