"""`python -m benchmarks.speed`: how long steps take on SQLite and Postgres, beside one committed row of the same database and
beside DBOS on it, one after another in each round.

On SQLite the workers are threads of this process, on Postgres processes of `noetl worker` with one thread. The server is the
one that tests use, on this machine, with all that makes a commit durable. Each worker has a chain of its own; a fan-out has
all of them. The time is that from before the run is started until its result is there. `work` is how long the processes that walk
were at work, which says more where other programs want the same cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from noetl.executor.actions import catalogue
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import RunStatus
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.worker import POLL_PAUSE_SECONDS, Worker
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from noetl.planner.plan import Plan

from benchmarks import dbos, report
from benchmarks.floors import postgres_row, sqlite_row
from benchmarks.measure import work_seconds
from benchmarks.playbooks import fan_out, set_chain
from tests.postgres import empty_database, running_server

STEPS = 1_000
REPETITIONS = 5
WORKERS = (1, 2, 4)
SIZES = (0, 10 * 1024)
SHAPES: dict[str, Callable[[int, int], str]] = {"chain": set_chain, "fan-out": fan_out}
FOLDER = Path(__file__).parent
"""Where the databases of a measurement are made: a file system in memory would hide what a commit costs."""
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}

AS_IT_COMES = "DBOS"
WITH_LOG = "DBOS with a write-ahead log"


def _seconds_of(row: report.Row, name: str) -> str:
    return f"{row[name] * 1e6:,.0f} µs" if name in row else ""


def _times(row: report.Row, name: str) -> str:
    return f"{row[f'{name} by step']:.1f}" if name in row else ""


COLUMNS: Sequence[report.Column] = (
    ("playbook", lambda row: row["playbook"]),
    ("result", lambda row: f"{row['result_bytes'] // 1024} KB"),
    ("workers", lambda row: f"{row['workers']}"),
    ("row", lambda row: f"{row['row'] * 1e6:,.0f} µs"),
    ("step", lambda row: f"{row['step'] * 1e6:,.0f} µs"),
    ("steps/s", lambda row: f"{1 / row['step']:,.0f}"),
    ("step/row", lambda row: f"{row['rows_per_step']:.1f}"),
    ("work", lambda row: f"{row['work'] * 1e6:,.0f} µs"),
    ("DBOS", lambda row: _seconds_of(row, AS_IT_COMES)),
    ("DBOS/step", lambda row: _times(row, AS_IT_COMES)),
    ("its work", lambda row: _seconds_of(row, f"{AS_IT_COMES} work")),
    ("with a log", lambda row: _seconds_of(row, WITH_LOG)),
    ("that/step", lambda row: _times(row, WITH_LOG)),
)


@dataclass
class Place:
    """A database: the store in it, what one committed row takes, how workers come to it, and where DBOS is installed, what runs it."""

    store: Store
    row: Callable[[], float]
    working: Callable[[int], AbstractContextManager[list[int]]]
    rivals: Mapping[str, dbos.Dbos]
    plans: dict[tuple[str, int], Plan] = field(default_factory=dict)


def measure(
    database: str,
    *,
    steps: int = STEPS,
    repetitions: int = REPETITIONS,
    sizes: Sequence[int] = SIZES,
    workers: Sequence[int] = WORKERS,
    folder: Path = FOLDER,
) -> list[report.Row]:
    """A row for every shape, size of results and number of workers. DBOS stands beside one worker. The database is made in a
    folder, on whose file system it depends what a commit costs.
    """
    opened = {"SQLite": on_sqlite, "Postgres": on_postgres}[database]
    with opened(folder) as place:
        return [
            _measured(place, shape, steps, size, count, repetitions)
            for shape in SHAPES
            for size in sizes
            for count in workers
        ]


def _measured(place: Place, shape: str, steps: int, size: int, workers: int, repetitions: int) -> report.Row:
    plan = _plan(place, shape, steps, size)
    rivals = place.rivals if workers == 1 else {}
    runs = workers if shape == "chain" else 1
    rounds: list[dict[str, float]] = []
    with place.working(workers) as processes:
        # The first run of a plan reads its steps and compiles its expressions.
        for repetition in range(repetitions + 1):
            found = {"row": place.row()}
            before = work_seconds(processes)
            found["step"] = walked(place.store, plan, runs) / (runs * steps)
            found["work"] = (work_seconds(processes) - before) / (runs * steps)
            for name, rival in rivals.items():
                before = work_seconds([rival.id])
                found[name] = rival.seconds(shape, steps, size) / steps
                found[f"{name} work"] = (work_seconds([rival.id]) - before) / steps
            rounds += [found] if repetition else []
    row: report.Row = {name: median(one[name] for one in rounds) for name in rounds[0]}
    row |= {"playbook": f"{shape} of {steps:,}", "result_bytes": size, "workers": workers}
    row["rows_per_step"] = median(one["step"] / one["row"] for one in rounds)
    row |= {f"{name} by step": median(one[name] / one["step"] for one in rounds) for name in rivals}
    return row


def _plan(place: Place, shape: str, steps: int, size: int) -> Plan:
    if (shape, size) not in place.plans:
        plan = compile_playbook(SHAPES[shape](steps, size), catalogue()).plan
        assert plan is not None
        place.store.save_plan(plan)
        place.plans[shape, size] = plan
    return place.plans[shape, size]


def walked(store: Store, plan: Plan, runs: int = 1) -> float:
    """Seconds until so many runs of a plan, started together, have their results."""
    started = time.perf_counter()
    created = [
        store.create_run(*new_run(plan.header, plan.hash, {}, now=time.time())).id for _ in range(runs)
    ]
    until_ended(store, created)
    return time.perf_counter() - started


def until_ended(store: Store, run_ids: Sequence[str]) -> None:
    """Wait until runs have ended, and well."""
    left = list(run_ids)
    while left:
        seen = store.changes.count
        found = store.run("default", left[-1])
        assert found is not None
        if found.status.is_final:
            assert found.status is RunStatus.SUCCEEDED, found.error
            left.pop()
        else:
            store.changes.wait(seen, 0.5)
            time.sleep(POLL_PAUSE_SECONDS)


@contextmanager
def on_sqlite(within: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=within)))
        store = open_store(f"sqlite:///{folder}/noetl.db")
        stack.callback(store.close)
        rivals = {}
        if dbos.is_installed():
            for name, has_log in ((AS_IT_COMES, False), (WITH_LOG, True)):
                url = f"sqlite:///{folder}/dbos{len(rivals)}.db"
                rivals[name] = stack.enter_context(dbos.running(url, write_ahead_log=has_log))

        @contextmanager
        def threads(count: int) -> Iterator[list[int]]:
            worker = Worker(store, capabilities=local_run_capabilities(FOLDER), threads=count)
            worker.start()
            yield [os.getpid()]
            worker.stop()

        yield Place(store, lambda: sqlite_row(folder), threads, rivals)


@contextmanager
def on_postgres(within: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        # The path of a socket must be short, and others than root must get there.
        server = stack.enter_context(
            running_server(within="/tmp" if within == FOLDER else str(within), **DURABLE)
        )
        dsn, plain, its_own = (stack.enter_context(empty_database(server.dsn)) for _ in range(3))
        upgrade(dsn)
        store = open_store(dsn)
        stack.callback(store.close)
        rivals = {AS_IT_COMES: stack.enter_context(dbos.running(its_own))} if dbos.is_installed() else {}
        yield Place(store, lambda: postgres_row(plain), lambda count: working(dsn, count), rivals)


@contextmanager
def working(dsn: str, count: int, *, lease_seconds: float = 30.0) -> Iterator[list[int]]:
    """Workers of the store at the DSN, each a process with one thread, which are ready; their ids."""
    started = [worker(dsn, lease_seconds=lease_seconds) for _ in range(count)]
    try:
        for one in started:
            is_ready(one)
        yield [one.pid for one in started]
    finally:
        for one in started:
            one.terminate()
            one.communicate()


def worker(dsn: str, *, threads: int = 1, lease_seconds: float = 30.0) -> subprocess.Popen[str]:
    """A process that works on the store at the DSN, and begins to."""
    command = [
        sys.executable,
        "-c",
        "from noetl.api.cli import main; main()",
        "worker",
        "--threads",
        str(threads),
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NOETL_")}
    environ |= {"NOETL_LEASE_SECONDS": f"{lease_seconds:g}", "PYTHONPATH": str(FOLDER.parent)}
    return subprocess.Popen([*command, "--store", dsn], env=environ, stderr=subprocess.PIPE, text=True)


def is_ready(worker: subprocess.Popen[str]) -> None:
    """Wait until a worker says that it is at work."""
    assert worker.stderr is not None
    assert worker.stderr.readline() == "working\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument(
        "--databases", nargs="+", choices=("SQLite", "Postgres"), default=("SQLite", "Postgres")
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="in /dev/shm a commit costs nothing but work"
    )
    options = parser.parse_args()
    for database in options.databases:
        rows = measure(database, steps=options.steps, repetitions=options.repetitions, folder=options.folder)
        print(report.table(title(database), COLUMNS, rows), flush=True)


def title(database: str) -> str:
    missing = (
        "" if dbos.is_installed() else f"; {dbos.PACKAGES[0]} is not installed: `python -m benchmarks.dbos`"
    )
    return f"Steps on {database}, beside one committed row{missing}"


if __name__ == "__main__":
    main()
