"""How long steps take on Postgres, as a multiple of one committed row of the same server. `python -m benchmarks.postgres`.

The server is the one that tests use, on this machine, with everything that makes a commit durable (`fsync`,
`full_page_writes`, `synchronous_commit`). Workers are processes of one thread. Beside them, where the package `dbos` can be
imported, stands a workflow of DBOS with as many steps that do nothing, on the same server.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from benchmarks import report
from benchmarks.executor import ends
from benchmarks.playbooks import fan_out, set_chain
from executor.actions import catalogue
from executor.records import RunStatus
from executor.start import new_run
from executor.stores.postgres import PostgresStore
from executor.stores.store import Store
from infra.migrations import upgrade
from planner.compile import compile_playbook
from planner.plan import Plan
from tests.postgres import emptied, serving

STEPS = 300
BRANCHES = 300
REPETITIONS = 7
ROWS = 300
WORKERS = (1, 2, 4)
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}


def measure(steps: int = STEPS, branches: int = BRANCHES, repetitions: int = REPETITIONS) -> list[dict[str, Any]]:
    """A row for a chain, one for a fan-out with each number of workers, and one for DBOS if it is there."""
    rows = []
    with serving(**DURABLE) as server:
        for workers in WORKERS:
            with emptied(server.dsn) as dsn:
                upgrade(dsn)
                with working(dsn, workers):
                    if workers == 1:
                        rows.append(_walks("chain", workers, dsn, set_chain(steps), steps, repetitions))
                    rows.append(_walks("fan-out", workers, dsn, fan_out(branches), branches + 2, repetitions))
        if importlib.util.find_spec("dbos") is not None:
            with emptied(server.dsn) as dsn:
                rows.append(_dbos(dsn, steps, repetitions))
    return rows


@contextmanager
def working(dsn: str, count: int) -> Iterator[None]:
    """Workers of the store at the DSN, in processes of their own, which are ready."""
    command = [sys.executable, "-c", "from api.cli import main; main()", "worker", "--threads", "1", "--store", dsn]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NOETL_")}
    started = [
        subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environ, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for worker in started:
            assert worker.stderr is not None
            assert worker.stderr.readline() == "working\n"
        yield
    finally:
        for worker in started:
            worker.terminate()
            worker.communicate()


def _walks(name: str, workers: int, dsn: str, text: str, steps: int, repetitions: int) -> dict[str, Any]:
    plan = compile_playbook(text, catalogue()).plan
    assert plan is not None
    store = PostgresStore(dsn)
    store.save_plan(plan)
    _walk(store, plan, steps)  # the first run of a plan reads its steps and compiles its expressions
    times = [(_walk(store, plan, steps), committed_row(dsn)) for _ in range(repetitions)]
    store.close()
    return _summary(f"{name} of {steps:,} steps", workers, times)


def _walk(store: Store, plan: Plan, steps: int) -> float:
    """The time from the first to the last step, for each."""
    run, first = new_run(plan.header, plan.hash, {}, now=time.time(), origin="service")
    store.create_run(run, first)
    while True:
        seen = store.changes.count
        found = store.run(run.tenant, run.id)
        if found is not None and found.status.is_final:
            break
        store.changes.wait(seen, 0.5)
    assert found.status is RunStatus.SUCCEEDED
    finished = ends(store, run)
    assert len(finished) == steps
    return (max(finished) - min(finished)) / (steps - 1)


def committed_row(dsn: str) -> float:
    """The median time of a statement that inserts one row into a table of its own."""
    times = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table if not exists plain (id bigserial primary key, body text)")
        for _ in range(ROWS):
            started = time.perf_counter()
            connection.execute("insert into plain (body) values (%s)", ["x" * 100])
            times.append(time.perf_counter() - started)
    return median(times)


def _dbos(dsn: str, steps: int, repetitions: int) -> dict[str, Any]:
    from dbos import DBOS  # type: ignore[import-not-found, unused-ignore]

    DBOS(config={"name": "bench", "system_database_url": dsn, "log_level": "ERROR", "run_admin_server": False})

    @DBOS.step()
    def add(value: int) -> int:
        return value + 1

    @DBOS.workflow()
    def chain(count: int) -> int:
        value = 0
        for _ in range(count):
            value = add(value)
        return value

    DBOS.launch()
    times = []
    for repetition in range(repetitions + 1):
        started = time.perf_counter()
        assert chain(steps) == steps
        each = (time.perf_counter() - started) / steps
        if repetition:
            times.append((each, committed_row(dsn)))
    DBOS.destroy()
    return _summary(f"DBOS: {steps:,} steps", 1, times)


def _summary(name: str, workers: int, times: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "playbook": name,
        "workers": workers,
        "row_microseconds": median(row for _, row in times) * 1e6,
        "step_microseconds": median(step for step, _ in times) * 1e6,
        "rows_per_step": median(step / row for step, row in times),
        "steps_per_second": 1 / median(step for step, _ in times),
    }


if __name__ == "__main__":
    print(report.table(report.POSTGRES_TITLE, report.POSTGRES, measure()))
