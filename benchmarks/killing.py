"""Runs on one Postgres whose workers are killed: `python -m benchmarks.killing`.

Every second one of the worker processes gets SIGKILL, and another one takes its place. Afterwards every run must have
succeeded, with every step committed once, and `noetl doctor` must find nothing.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.playbooks import set_chain
from executor.actions import catalogue
from executor.records import RunStatus
from executor.start import new_run
from executor.stores.doctor import examine
from executor.stores.postgres import PostgresStore
from infra.migrations import upgrade
from planner.compile import compile_playbook
from tests.postgres import emptied, serving

DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
LEASE_SECONDS = 5
MOST_SECONDS = 600.0


def measure(
    dsn: str,
    *,
    runs: int = 500,
    steps: int = 20,
    workers: int = 4,
    every_seconds: float = 1.0,
    kills: int | None = None,
) -> dict[str, Any]:
    """What became of the runs in a database. Until they have ended a worker is killed now and then, `kills` times if given.

    Raises:
        AssertionError: a run has not ended well, or a step was committed more or less than once.
    """
    upgrade(dsn)
    plan = compile_playbook(set_chain(steps), catalogue()).plan
    assert plan is not None
    store = PostgresStore(dsn)
    store.save_plan(plan)
    ids = []
    for _ in range(runs):
        run, first = new_run(plan.header, plan.hash, {}, now=time.time())
        ids.append(store.create_run(run, first).id)
    at_work = [_worker(dsn) for _ in range(workers)]
    started, killed = time.monotonic(), 0
    open_runs = "select count(*) as left from runs where finished_at is null"
    try:
        while store.database.one(open_runs.replace("left", '"left"'))["left"]:
            assert time.monotonic() - started < MOST_SECONDS, "the runs do not end"
            time.sleep(every_seconds)
            if kills is None or killed < kills:
                victim = at_work.pop(random.randrange(len(at_work)))
                victim.kill()
                victim.wait()
                at_work.append(_worker(dsn))
                killed += 1
        seconds = time.monotonic() - started
        _check(store, ids, steps)
    finally:
        for worker in at_work:
            worker.kill()
            worker.wait()
        findings = [finding.message for finding in examine(store.database)]
        taken = store.database.one("select count(*) as over from visits where fence > 1")["over"]
        store.close()
    assert findings == []
    return {"runs": runs, "steps": runs * steps, "killed": killed, "taken_over": taken, "seconds": seconds}


def _worker(dsn: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from api.cli import main; main()", "worker", "--threads", "2", "--store", dsn]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NOETL_")}
    environ |= {"NOETL_LEASE_SECONDS": str(LEASE_SECONDS), "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL)


def _check(store: PostgresStore, ids: list[str], steps: int) -> None:
    for run_id in ids:
        run = store.run("default", run_id)
        assert run is not None
        assert run.status is RunStatus.SUCCEEDED, run
        assert run.result == {"last": steps}, run.result
        done = Counter(event.step for event in store.events(run_id, limit=10_000) if event.type == "step.completed")
        assert len(done) == steps, done
        assert set(done.values()) == {1}, done


if __name__ == "__main__":
    with serving(**DURABLE) as server, emptied(server.dsn) as database:
        found = measure(database)
    print(
        f"{found['runs']:,} runs of {found['steps'] // found['runs']} steps on four workers, of which {found['killed']} were killed:"
        f" all succeeded, {found['steps']:,} steps were committed once each, {found['taken_over']:,} were taken over,"
        f" in {found['seconds']:.0f} s; noetl doctor finds nothing."
    )
