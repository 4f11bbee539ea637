"""Workers that are killed: `python -m benchmarks.killing`.

Every second, one of the processes that share a Postgres database gets SIGKILL, and another one replaces it.
Then every run must have succeeded, with every step committed once, and `noetl doctor` must find nothing.

The second measurement kills a single process in a chain. It is the time from the start of the next process
until it commits a step, compared with the time of a command that does nothing.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.playbooks import set_chain
from benchmarks.speed import DURABLE, FOLDER, start_worker
from noetl.executor.actions import catalogue
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunSummary, summarize
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql.consistency import check_consistency
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook
from noetl.planner.plan import Plan
from tests.postgres import empty_database, running_server

LEASE_SECONDS = 5
MAX_SECONDS = 600.0
LONG_CHAIN = 3_000
"""Steps of a chain that has not ended when its worker is killed."""
KILLS = 7

RESUMED: Sequence[report.Column] = (
    ("store", lambda row: row["store"]),
    ("kills", lambda row: f"{row['kills']}"),
    ("imports alone", lambda row: f"{row['imports'] * 1e3:,.0f} ms"),
    ("first commit", lambda row: f"{row['resumed'] * 1e3:,.0f} ms"),
    ("latest", lambda row: f"{row['latest'] * 1e3:,.0f} ms"),
)


def measure(
    dsn: str,
    *,
    runs: int = 500,
    steps: int = 20,
    workers: int = 4,
    every_seconds: float = 1.0,
    kills: int | None = None,
) -> dict[str, Any]:
    """Execute runs while workers are killed. Return the counts.

    One worker is killed every `every_seconds`, at most `kills` times if given.

    Raises:
        AssertionError: a run did not succeed, or a step was not committed exactly once.
    """
    upgrade(dsn)
    store = PostgresStore(dsn)
    plan = _plan(store, steps)
    ids = [_started(store, plan).id for _ in range(runs)]
    processes = [_worker(dsn) for _ in range(workers)]
    started, killed = time.monotonic(), 0
    open_runs = 'select count(*) as "left" from runs where finished_at is null'
    try:
        while store.database.fetch_one(open_runs)["left"]:
            assert time.monotonic() - started < MAX_SECONDS, "the runs do not end"
            time.sleep(every_seconds)
            if kills is None or killed < kills:
                _kill(processes.pop(random.randrange(len(processes))))
                processes.append(_worker(dsn))
                killed += 1
        seconds = time.monotonic() - started
        _check(store, ids, steps)
    finally:
        for process in processes:
            _kill(process)
        findings = [finding.message for finding in check_consistency(store.database)]
        taken = store.database.fetch_one("select count(*) as over from visits where fence > 1")["over"]
        store.close()
    assert findings == []
    return {"runs": runs, "steps": runs * steps, "killed": killed, "taken_over": taken, "seconds": seconds}


def measure_worker_restart(dsn: str, kills: int = KILLS, steps: int = LONG_CHAIN) -> report.Row:
    """Measure the time of a worker from its start to its first commit in a run of a killed worker."""
    store = PostgresStore(dsn)
    run = _started(store, _plan(store, steps))
    killed = _worker(dsn)

    def kill() -> None:
        _kill(killed)

    def restart() -> None:
        nonlocal killed
        killed = _worker(dsn)

    try:
        return _resumed("Postgres, noetl worker", store, summarize(run), kill, restart, kills)
    finally:
        _kill(killed)
        store.close()


def measure_resume_command(folder: Path, kills: int = KILLS, steps: int = LONG_CHAIN) -> report.Row:
    """Measure the same for `noetl run` on SQLite and `noetl runs resume`."""
    playbook = folder / "chain.yaml"
    playbook.write_text(set_chain(steps))
    url = f"sqlite:///{folder / 'noetl.db'}"
    killed = _command("run", str(playbook), "--store", url, "-q")
    while not (folder / "noetl.db").exists() or not (begun := _runs(url)):
        time.sleep(0.05)
    store = open_store(url)

    def restart() -> None:
        nonlocal killed
        killed = _command("runs", "resume", begun[0].id, "--store", url, "-q")

    try:
        return _resumed("SQLite, noetl runs resume", store, begun[0], lambda: _kill(killed), restart, kills)
    finally:
        _kill(killed)
        store.close()


def _resumed(
    name: str,
    store: Store,
    run: RunSummary,
    kill: Callable[[], None],
    restart: Callable[[], None],
    kills: int,
) -> report.Row:
    imports, resumed = [], []
    for _ in range(kills):
        _next_commit(store, run, since=time.time())
        kill()
        began = time.time()
        _command("--version").communicate()
        imports.append(time.time() - began)
        began = time.time()
        restart()
        resumed.append(_next_commit(store, run, since=began) - began)
    return {
        "store": name,
        "kills": kills,
        "imports": median(imports),
        "resumed": median(resumed),
        "latest": max(resumed),
    }


def _next_commit(store: Store, run: RunSummary, since: float) -> float:
    """Wait for the next commit of a step, and return its time."""
    after = None
    deadline = time.monotonic() + MAX_SECONDS
    while time.monotonic() < deadline:
        while events := store.runs.events(run.id, after, 10_000):
            after = events[-1].id
            for event in events:
                if event.type == "step.completed" and event.at > since:
                    return event.at
        time.sleep(0.01)
    raise AssertionError("the run does not continue")


def _plan(store: Store, steps: int) -> Plan:
    plan = compile_playbook(set_chain(steps), catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    return plan


def _started(store: Store, plan: Plan) -> Run:
    return store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=time.time()))


def _runs(url: str) -> list[RunSummary]:
    store = open_store(url)
    runs, _ = store.runs.find(RunFilter())
    store.close()
    return runs


def _worker(dsn: str) -> subprocess.Popen[str]:
    return start_worker(dsn, threads=2, lease_seconds=LEASE_SECONDS)


def _command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from noetl.api.cli import main; main()", *arguments],
        env=os.environ | {"PYTHONPATH": str(FOLDER.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _check(store: PostgresStore, ids: list[str], steps: int) -> None:
    for run_id in ids:
        run = store.runs.get("default", run_id)
        assert run is not None
        assert run.status is RunStatus.SUCCEEDED, run
        assert run.result == {"last": steps}, run.result
        done = Counter(
            event.step for event in store.runs.events(run_id, limit=10_000) if event.type == "step.completed"
        )
        assert len(done) == steps, done
        assert set(done.values()) == {1}, done


def main() -> None:
    with running_server(**DURABLE) as server:
        with empty_database(server.dsn) as database:
            counts = measure(database)
        steps = counts["steps"] // counts["runs"]
        print(
            f"{counts['runs']:,} runs of {steps} steps with four workers, {counts['killed']} of them killed:"
            f" all succeeded in {counts['seconds']:.0f} s."
            f" {counts['steps']:,} steps were committed once each,"
            f" and {counts['taken_over']:,} were taken over. noetl doctor finds nothing.\n"
        )
        with empty_database(server.dsn) as database, tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            upgrade(database)
            rows = [measure_worker_restart(database), measure_resume_command(Path(folder))]
    print(report.table("Time from the start of the process that replaces a killed one", RESUMED, rows))


if __name__ == "__main__":
    main()
