"""Time of a step on SQLite and Postgres, compared with DBOS: `python -m benchmarks.speed`.

Each round also measures one committed row of the same database. On SQLite the workers are threads of this
process, on Postgres processes of `noetl worker` with one thread. The server is that of the tests, with all
settings that make a commit durable. In a chain, each worker has its own run; a fan-out is one run for all
workers. The time is that from the start of a run until its result exists. `work` is the processor time of
the workers, which other programs on the machine do not affect.

With `--inputs`, steps whose inputs the history keeps are compared with steps without. One worker, a thread of
this process, executes a run with `NOETL_KEEP_INPUTS=on` and one with `off`, in alternating order. The ratios
are medians of such pairs. `work/without` is that of the processor time of this process.
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

from benchmarks import dbos, report
from benchmarks.floors import postgres_row, sqlite_row
from benchmarks.measure import work_seconds
from benchmarks.playbooks import fan_out, set_chain
from noetl.executor.actions import catalogue
from noetl.executor.engine import kept_data
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import RunStatus
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.worker import POLL_PAUSE_SECONDS, Worker, WorkerSettings
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from noetl.planner.plan import Plan
from tests.postgres import empty_database, running_server

STEPS = 1_000
REPETITIONS = 5
WORKERS = (1, 2, 4)
SIZES = (0, 10 * 1024)
SHAPES: dict[str, Callable[[int, int], str]] = {"chain": set_chain, "fan-out": fan_out}
FOLDER = Path(__file__).parent
"""Folder of the databases. A file system in memory would hide the cost of a commit."""
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}

DBOS_DEFAULT = "DBOS"
DBOS_WITH_WAL = "DBOS with a write-ahead log"


def _seconds_of(row: report.Row, name: str) -> str:
    return f"{row[name] * 1e6:,.0f} µs" if name in row else ""


def _ratio_of(row: report.Row, name: str) -> str:
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
    ("DBOS", lambda row: _seconds_of(row, DBOS_DEFAULT)),
    ("DBOS/step", lambda row: _ratio_of(row, DBOS_DEFAULT)),
    ("its work", lambda row: _seconds_of(row, f"{DBOS_DEFAULT} work")),
    ("with a log", lambda row: _seconds_of(row, DBOS_WITH_WAL)),
    ("that/step", lambda row: _ratio_of(row, DBOS_WITH_WAL)),
)
INPUT_COLUMNS: Sequence[report.Column] = (
    ("playbook", lambda row: row["playbook"]),
    ("result", lambda row: f"{row['result_bytes'] // 1024} KB"),
    ("step", lambda row: f"{row['on'] * 1e6:,.0f} µs"),
    ("without inputs", lambda row: f"{row['off'] * 1e6:,.0f} µs"),
    ("step/without", lambda row: f"{row['ratio']:.2f}"),
    ("work", lambda row: f"{row['on work'] * 1e6:,.0f} µs"),
    ("without inputs ", lambda row: f"{row['off work'] * 1e6:,.0f} µs"),
    ("work/without", lambda row: f"{row['work_ratio']:.2f}"),
)


@dataclass
class BenchmarkDatabase:
    """A database to measure: its store, the time of one committed row, its workers, and DBOS if installed."""

    store: Store
    row: Callable[[], float]
    run_workers: Callable[[int], AbstractContextManager[list[int]]]
    competitors: Mapping[str, dbos.DbosProcess]
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
    """Return a row for every shape, size of results and number of workers.

    DBOS is measured next to one worker. The database is created in `folder`, whose file system determines
    the cost of a commit.
    """
    with OPENED[database](folder) as bench:
        return [
            _measured(bench, shape, steps, size, count, repetitions)
            for shape in SHAPES
            for size in sizes
            for count in workers
        ]


def _measured(
    bench: BenchmarkDatabase, shape: str, steps: int, size: int, workers: int, repetitions: int
) -> report.Row:
    plan = _plan(bench, shape, steps, size)
    competitors = bench.competitors if workers == 1 else {}
    runs = workers if shape == "chain" else 1
    rounds: list[dict[str, float]] = []
    with bench.run_workers(workers) as processes:
        # The first round is not counted: it loads the plan and compiles its expressions.
        for repetition in range(repetitions + 1):
            measured = {"row": bench.row()}
            before = work_seconds(processes)
            measured["step"] = measure_runs(bench.store, plan, runs) / (runs * steps)
            measured["work"] = (work_seconds(processes) - before) / (runs * steps)
            for name, competitor in competitors.items():
                before = work_seconds([competitor.id])
                measured[name] = competitor.run_seconds(shape, steps, size) / steps
                measured[f"{name} work"] = (work_seconds([competitor.id]) - before) / steps
            rounds += [measured] if repetition else []
    row: report.Row = {name: median(times[name] for times in rounds) for name in rounds[0]}
    row |= {"playbook": f"{shape} of {steps:,}", "result_bytes": size, "workers": workers}
    row["rows_per_step"] = median(times["step"] / times["row"] for times in rounds)
    row |= {
        f"{name} by step": median(times[name] / times["step"] for times in rounds) for name in competitors
    }
    return row


def measure_inputs(
    database: str,
    *,
    steps: int = STEPS,
    repetitions: int = REPETITIONS,
    sizes: Sequence[int] = SIZES,
    folder: Path = FOLDER,
) -> list[report.Row]:
    """Return a row for every shape and size of results: steps with and without the inputs of actions."""
    with OPENED[database](folder) as bench:
        return [
            _measured_inputs(bench.store, _plan(bench, shape, steps, size), steps, repetitions)
            | {"playbook": f"{shape} of {steps:,}", "result_bytes": size}
            for shape in SHAPES
            for size in sizes
        ]


def _measured_inputs(store: Store, plan: Plan, steps: int, repetitions: int) -> report.Row:
    pairs: list[dict[str, float]] = []
    # The first pair is not counted: it loads the plan and compiles its expressions.
    for repetition in range(repetitions + 1):
        pair: dict[str, float] = {}
        for setting in ("on", "off") if repetition % 2 else ("off", "on"):
            with _inputs_kept(setting), _running_threads(store, 1):
                before = time.process_time()
                pair[setting] = measure_runs(store, plan) / steps
                pair[f"{setting} work"] = (time.process_time() - before) / steps
        pairs += [pair] if repetition else []
    row: report.Row = {name: median(pair[name] for pair in pairs) for name in pairs[0]}
    row["ratio"] = median(pair["on"] / pair["off"] for pair in pairs)
    row["work_ratio"] = median(pair["on work"] / pair["off work"] for pair in pairs)
    return row


@contextmanager
def _inputs_kept(setting: str) -> Iterator[None]:
    """Start workers in this block with `NOETL_KEEP_INPUTS` on or off."""
    before = os.environ.get(kept_data.SETTING)
    os.environ[kept_data.SETTING] = setting
    try:
        yield
    finally:
        del os.environ[kept_data.SETTING]
        os.environ |= {} if before is None else {kept_data.SETTING: before}


def _plan(bench: BenchmarkDatabase, shape: str, steps: int, size: int) -> Plan:
    if (shape, size) not in bench.plans:
        plan = compile_playbook(SHAPES[shape](steps, size), catalogue()).plan
        assert plan is not None
        bench.store.plans.save(plan)
        bench.plans[shape, size] = plan
    return bench.plans[shape, size]


def measure_runs(store: Store, plan: Plan, runs: int = 1) -> float:
    """Start a number of runs of a plan at the same time. Return the seconds until all have their results."""
    started = time.perf_counter()
    created = [
        store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=time.time())).id
        for _ in range(runs)
    ]
    wait_until_ended(store, created)
    return time.perf_counter() - started


def wait_until_ended(store: Store, run_ids: Sequence[str]) -> None:
    """Wait until all runs have succeeded."""
    left = list(run_ids)
    while left:
        seen = store.changes.count
        run = store.runs.get("default", left[-1])
        assert run is not None
        if run.status.is_final:
            assert run.status is RunStatus.SUCCEEDED, run.error
            left.pop()
        else:
            store.changes.wait(seen, 0.5)
            time.sleep(POLL_PAUSE_SECONDS)


@contextmanager
def on_sqlite(parent: Path) -> Iterator[BenchmarkDatabase]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        store = open_store(f"sqlite:///{folder}/noetl.db")
        stack.callback(store.close)
        competitors: dict[str, dbos.DbosProcess] = {}
        if dbos.is_installed():
            for name, has_log in ((DBOS_DEFAULT, False), (DBOS_WITH_WAL, True)):
                url = f"sqlite:///{folder}/dbos{len(competitors)}.db"
                competitors[name] = stack.enter_context(dbos.running(url, write_ahead_log=has_log))

        yield BenchmarkDatabase(
            store, lambda: sqlite_row(folder), lambda count: _running_threads(store, count), competitors
        )


@contextmanager
def _running_threads(store: Store, count: int) -> Iterator[list[int]]:
    """Run a worker with a number of threads in this process."""
    worker = Worker(store, WorkerSettings(local_run_capabilities(FOLDER), threads=count))
    worker.start()
    yield [os.getpid()]
    worker.stop()


@contextmanager
def on_postgres(parent: Path) -> Iterator[BenchmarkDatabase]:
    with ExitStack() as stack:
        # The path of a socket must be short, and readable by other users than root.
        server = stack.enter_context(
            running_server(parent="/tmp" if parent == FOLDER else str(parent), **DURABLE)
        )
        dsn, plain, dbos_dsn = (stack.enter_context(empty_database(server.dsn)) for _ in range(3))
        upgrade(dsn)
        store = open_store(dsn)
        stack.callback(store.close)
        competitors = (
            {DBOS_DEFAULT: stack.enter_context(dbos.running(dbos_dsn))} if dbos.is_installed() else {}
        )
        yield BenchmarkDatabase(
            store, lambda: postgres_row(plain), lambda count: running_workers(dsn, count), competitors
        )


OPENED = {"SQLite": on_sqlite, "Postgres": on_postgres}


@contextmanager
def running_workers(dsn: str, count: int, *, lease_seconds: float = 30.0) -> Iterator[list[int]]:
    """Run worker processes with one thread each. Yield their process ids when they are ready."""
    started = [start_worker(dsn, lease_seconds=lease_seconds) for _ in range(count)]
    try:
        for process in started:
            wait_until_ready(process)
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
            process.communicate()


def start_worker(dsn: str, *, threads: int = 1, lease_seconds: float = 30.0) -> subprocess.Popen[str]:
    """Start a worker process for the store at the DSN."""
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


def wait_until_ready(worker: subprocess.Popen[str]) -> None:
    """Wait until a worker prints that it is working."""
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
        "--folder", type=Path, default=FOLDER, help="in /dev/shm a commit costs only processor time"
    )
    parser.add_argument("--inputs", action="store_true", help="compare steps with and without their inputs")
    options = parser.parse_args()
    measurement = {"steps": options.steps, "repetitions": options.repetitions, "folder": options.folder}
    for database in options.databases:
        if options.inputs:
            rows, columns = measure_inputs(database, **measurement), INPUT_COLUMNS
            print(report.table(f"Inputs of steps on {database}", columns, rows), flush=True)
        else:
            rows = measure(database, **measurement)
            print(report.table(title(database), COLUMNS, rows), flush=True)


def title(database: str) -> str:
    missing = (
        "" if dbos.is_installed() else f"; {dbos.PACKAGES[0]} is not installed: `python -m benchmarks.dbos`"
    )
    return f"Steps on {database}, compared with one committed row{missing}"


if __name__ == "__main__":
    main()
