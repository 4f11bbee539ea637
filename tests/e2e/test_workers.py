"""Workers that share a store in Postgres: they take over from each other, and leave without a trace."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from noetl.api.service.runs import Service
from noetl.executor.actions import catalogue
from noetl.executor.model.run import Run
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store

from benchmarks import killing
from tests.e2e.processes import noetl
from tests.postgres import postgres_dsn, postgres_server

__all__ = ["postgres_dsn", "postgres_server"]
SECONDS = 50.0


class Workers:
    """Workers of one store, each with one thread."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder = folder
        self.settings = {
            "NOETL_STORE": dsn,
            "NOETL_WORKERS": "1",
            "NOETL_LEASE_SECONDS": "1",
            "NOETL_ALLOW_SHELL": "1",
        }
        upgrading = noetl(folder, "db", "upgrade", **self.settings)
        assert upgrading.communicate(timeout=SECONDS)[1].startswith("applied migration 1")
        self.all: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        self.all.append(noetl(self.folder, "worker", **self.settings))
        return self.all[-1]

    def close(self) -> None:
        for worker in self.all:
            worker.kill()
            worker.communicate()


@pytest.fixture
def workers(tmp_path: Path, postgres_dsn: str) -> Iterator[Workers]:
    found = Workers(tmp_path, postgres_dsn)
    yield found
    found.close()


@pytest.fixture
def store(workers: Workers) -> Iterator[Store]:
    opened = open_store(workers.settings["NOETL_STORE"])
    yield opened
    opened.close()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe: who opens it to write waits until a command reads from it."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def begin(store: Store, gate: Path) -> Run:
    """A run whose first step lasts until something is written to the pipe."""
    text = f"""
name: held
steps:
- {{name: a, run: [{{action: shell, command: "echo $$ >> {gate}.pids; cat {gate}", as: said}}], rule: [{{case: default, run: [b]}}]}}
- {{name: b, run: [{{action: set, set: {{heard: "{{{{ said.stdout }}}}"}}}}]}}
output: {{heard: "{{{{ heard }}}}"}}
"""
    return Service(store, catalogue()).start(text, input={})


def ended(store: Store, run: Run) -> Run:
    """The run when it has ended."""
    for _ in range(200):
        seen = store.changes.count
        found = store.run("default", run.id)
        assert found is not None
        if found.status.is_final:
            return found
        store.changes.wait(seen, SECONDS / 200)
    raise AssertionError("the run does not end")


def wait_for_no_reader(pipe: Path) -> None:
    """Return when nobody has the pipe open: who was killed holds on to it for a moment, and would get what is for others."""
    for _ in range(round(SECONDS / 0.01)):
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO
            return
        time.sleep(0.01)
    raise AssertionError("the pipe is still read")


def test_a_worker_takes_over_from_a_killed_worker(workers: Workers, store: Store, gate: Path) -> None:
    first = workers.start()
    run = begin(store, gate)
    with gate.open("w"):
        first.send_signal(signal.SIGKILL)
        first.wait(SECONDS)
        os.kill(int(Path(f"{gate}.pids").read_text()), signal.SIGKILL)
    wait_for_no_reader(gate)
    workers.start()
    gate.write_text("at last")
    assert ended(store, run).result == {"heard": "at last"}
    assert len(Path(f"{gate}.pids").read_text().split()) == 2


def test_a_terminated_worker_finishes_its_step(workers: Workers, store: Store, gate: Path) -> None:
    worker = workers.start()
    run = begin(store, gate)
    with gate.open("w") as writing:
        worker.send_signal(signal.SIGTERM)
        assert worker.stderr is not None
        said = [worker.stderr.readline(), worker.stderr.readline()]
        writing.write("in time")
    assert (worker.wait(SECONDS), said) == (0, ["working\n", "finishing the running steps\n"])
    assert [visit.status for visit in store.visits(run.id)] == ["succeeded", "ready"]
    workers.start()
    assert ended(store, run).result == {"heard": "in time"}


def test_two_workers_share_the_work(workers: Workers, store: Store, gate: Path) -> None:
    """One is held up by a step, and the other goes on with what else there is."""
    workers.start()
    held = begin(store, gate)
    with gate.open("w") as writing:
        workers.start()
        free = Service(store, catalogue()).start(
            "name: free\nsteps: [{name: a, run: [{action: set, set: {x: 1}}]}]", input={}
        )
        assert ended(store, free).result == {"x": 1}
        writing.write("now")
    assert ended(store, held).result == {"heard": "now"}


def test_the_error_of_a_missing_database_names_the_settings(workers: Workers, tmp_path: Path) -> None:
    missing = noetl(tmp_path, "worker", NOETL_STORE="postgresql://nobody@127.0.0.1:1/none?connect_timeout=1")
    said = missing.communicate(timeout=SECONDS)[1]
    assert missing.returncode == 2
    assert said.startswith("noetl: The store in Postgres failed: ")
    assert said.endswith(" Set the store with NOETL_STORE or --store.\n")
    assert "Traceback" not in said


def test_killed_workers_lose_no_runs(postgres_dsn: str) -> None:
    """At its full size it is `python -m benchmarks.killing`."""
    found = killing.measure(postgres_dsn, runs=40, steps=10, workers=2, every_seconds=0.3, kills=3)
    assert found["killed"] == 3
