"""Workers that share a store in Postgres: they take over each other's runs."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks import killing
from noetl.api.service.compiler import InlinePlaybook
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run import Run
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from tests.e2e.processes import start_noetl, start_program

SECONDS = 50.0
CLONE = """
import os, sys
from pathlib import Path
from noetl.executor.model import worker_identity
worker_identity.BOOT_ID = Path(sys.argv.pop(1))
worker_identity._exists = lambda pid: pid == os.getpid()
from noetl.api.cli import main
main()
"""
"""A command on another machine: it has another boot id, and sees no process of this machine."""


class WorkerProcesses:
    """Processes of `noetl worker` for one store, each with one thread."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder = folder
        self.settings = {
            "NOETL_STORE": dsn,
            "NOETL_WORKERS": "1",
            "NOETL_LEASE_SECONDS": "1",
            "NOETL_ALLOW_SHELL": "1",
        }
        upgrading = start_noetl(folder, "db", "upgrade", **self.settings)
        assert upgrading.communicate(timeout=SECONDS)[1].startswith("applied migration 1")
        self.all: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        self.all.append(start_noetl(self.folder, "worker", **self.settings))
        return self.all[-1]

    def start_on_a_clone(self, boot: str) -> None:
        """Start a worker of a machine with the name of this one, where no other process runs."""
        (self.folder / boot).write_text(boot)
        arguments = (boot, "worker")
        self.all.append(start_program(self.folder, CLONE, arguments, self.settings, subprocess.DEVNULL))

    def close(self) -> None:
        for worker in self.all:
            worker.kill()
            worker.communicate()


@pytest.fixture
def workers(tmp_path: Path, postgres_dsn: str) -> Iterator[WorkerProcesses]:
    found = WorkerProcesses(tmp_path, postgres_dsn)
    yield found
    found.close()


@pytest.fixture
def store(workers: WorkerProcesses) -> Iterator[Store]:
    opened = open_store(workers.settings["NOETL_STORE"])
    yield opened
    opened.close()


def start_run(store: Store, gate: Path) -> Run:
    """Start a run whose first step lasts until something is written to the pipe."""
    text = f"""
name: held
steps:
- name: a
  run: [{{action: shell, command: "echo $$ >> {gate}.pids; cat {gate}", as: read}}]
  rule: [{{case: default, run: [b]}}]
- {{name: b, run: [{{action: set, set: {{message: "{{{{ read.stdout }}}}"}}}}]}}
output: {{message: "{{{{ message }}}}"}}
"""
    return start_text(store, text)


def start_text(store: Store, text: str) -> Run:
    return create_services(store, catalogue()).runs.start(InlinePlaybook(text), StartRequest())


def wait_for_end(store: Store, run: Run) -> Run:
    """Wait for the end of the run, and return it."""
    for _ in range(200):
        seen = store.changes.count
        current = store.runs.get("default", run.id)
        assert current is not None
        if current.status.is_final:
            return current
        store.changes.wait(seen, SECONDS / 200)
    raise AssertionError("the run does not end")


def wait_for_no_reader(pipe: Path) -> None:
    """Wait until no process reads from the pipe: a killed reader would take what is for the next one."""
    for _ in range(round(SECONDS / 0.01)):
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO
            return
        time.sleep(0.01)
    raise AssertionError("the pipe is still read")


def test_a_worker_takes_over_from_a_killed_worker(workers: WorkerProcesses, store: Store, gate: Path) -> None:
    first = workers.start()
    run = start_run(store, gate)
    with gate.open("w"):
        first.send_signal(signal.SIGKILL)
        first.wait(SECONDS)
        with suppress(ProcessLookupError):  # On Linux the command ends with its worker.
            os.kill(int(Path(f"{gate}.pids").read_text()), signal.SIGKILL)
    wait_for_no_reader(gate)
    workers.start()
    gate.write_text("at last")
    assert wait_for_end(store, run).result == {"message": "at last"}
    assert len(Path(f"{gate}.pids").read_text().split()) == 2


def test_a_worker_on_a_clone_takes_no_live_claim(workers: WorkerProcesses, store: Store, gate: Path) -> None:
    """Two machines with one host name. The other run lasts longer than a lease."""
    for boot in ("11111111", "22222222"):
        workers.start_on_a_clone(boot)
    run = start_run(store, gate)
    with gate.open("w") as writing:
        other = start_text(store, "{name: w, steps: [{name: w, run: [{action: shell, command: sleep 1.2}]}]}")
        assert wait_for_end(store, other).status.value == "succeeded"
        writing.write("at last")
    assert wait_for_end(store, run).result == {"message": "at last"}
    assert len(Path(f"{gate}.pids").read_text().split()) == 1


def test_a_terminated_worker_finishes_its_step(workers: WorkerProcesses, store: Store, gate: Path) -> None:
    worker = workers.start()
    run = start_run(store, gate)
    with gate.open("w") as writing:
        worker.send_signal(signal.SIGTERM)
        assert worker.stderr is not None
        said = [worker.stderr.readline(), worker.stderr.readline()]
        writing.write("in time")
    assert (worker.wait(SECONDS), said) == (0, ["working\n", "finishing the running steps\n"])
    assert [visit.status for visit in store.runs.visits(run.id)] == ["succeeded", "ready"]
    workers.start()
    assert wait_for_end(store, run).result == {"message": "in time"}


def test_two_workers_share_the_work(workers: WorkerProcesses, store: Store, gate: Path) -> None:
    """While a step blocks one worker, the other one executes another run."""
    workers.start()
    held = start_run(store, gate)
    with gate.open("w") as writing:
        workers.start()
        free = start_text(store, "name: free\nsteps: [{name: a, run: [{action: set, set: {x: 1}}]}]")
        assert wait_for_end(store, free).result == {"x": 1}
        writing.write("now")
    assert wait_for_end(store, held).result == {"message": "now"}


def test_a_worker_waits_for_a_missing_database_and_names_the_settings(
    workers: WorkerProcesses, tmp_path: Path
) -> None:
    missing = start_noetl(
        tmp_path, "worker", NOETL_STORE="postgresql://nobody@127.0.0.1:1/none?connect_timeout=1"
    )
    workers.all.append(missing)
    assert missing.stderr is not None
    line = missing.stderr.readline()
    assert line.startswith("waiting for the store: The store in Postgres failed: ")
    assert line.endswith(" Set the store with NOETL_STORE or --store.\n")
    assert missing.poll() is None
    missing.terminate()
    assert "Traceback" not in missing.communicate(timeout=SECONDS)[1]
    assert missing.returncode == 130


def test_killed_workers_lose_no_runs(postgres_dsn: str) -> None:
    """The full test is `python -m benchmarks.killing`."""
    found = killing.measure(postgres_dsn, runs=40, steps=10, workers=2, every_seconds=0.3, kills=3)
    assert found["killed"] == 3
