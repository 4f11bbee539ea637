"""A store that refuses the outcome of a step: the outcome is kept, and no healthy worker counts as lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from noetl.executor.errors import FencedError, StoreError
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.runtime.persistent_store import make_persistent
from noetl.executor.runtime.store_failures import EXECUTE, StoreFailures
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.interface import Store
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.executor.worker import Worker, WorkerSettings
from noetl.testing.run_harness import RunHarness

SECONDS = 60.0
LEASE_SECONDS = 0.3
TEXT = """
    steps:
    - name: a
      run:
      - {action: shell, command: "echo x >> effects; cat gate"}
      - {action: set, set: {x: "{{ 'abc' * 800000 }}"}}
      rule: [{case: default, run: [b]}]
    - {name: b, run: [{action: set, set: {length: "{{ x | length }}"}}]}
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 32 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextmanager
def performing(store: Store, folder: Path, gate: Path) -> Iterator[tuple[Worker, RunHarness, Any]]:
    """Let a worker perform the first step of a run up to the pipe, and yield what opens it."""
    options: dict[str, Any] = {"folder": folder, "clock": time.time, "origin": "service"}
    harness = RunHarness(store, TEXT, **options)
    settings = WorkerSettings(local_run_capabilities(folder), threads=2, lease_seconds=LEASE_SECONDS)
    worker = Worker(store, settings)
    worker.start()
    try:
        with gate.open("w") as writer:
            yield worker, harness, writer
    finally:
        worker.stop(timeout_seconds=SECONDS)


def finished(worker: Worker, harness: RunHarness) -> Run:
    run = worker.wait_until_finished("default", harness.id, SECONDS)
    assert run.status.is_final
    return run


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def count_calls(part: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that counts the calls of a method from now on."""
    calls: list[None] = []
    method = getattr(part, name)

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        return method(*arguments, **options)

    monkeypatch.setattr(part, name, call)
    return lambda: len(calls)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a file system")
def test_an_outcome_waits_for_room_on_the_disk(
    tmp_path: Path,
    gate: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Claims and leases have room, and the outcome has none, for longer than all claims of a lost worker."""
    with closing(SqliteStore(str(small_disk / "noetl.db"))) as store:
        renewals = count_calls(store.queue, "renew", monkeypatch)
        with performing(store, tmp_path, gate) as (worker, harness, writer):
            (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 2_000_000))
            writer.write("go")
            writer.close()
            wait_until(lambda: "trying again" in caplog.text)
            before = renewals()
            wait_until(lambda: renewals() > before + 3 * (MAX_CLAIMS + 1))
            (visit,) = store.runs.visits(harness.id)
            assert (visit.status.value, visit.claims) == ("running", 1)
            (small_disk / "filler").unlink()
            run = finished(worker, harness)
    assert (run.status, run.result["length"]) == (RunStatus.SUCCEEDED, 2_400_000)
    assert (tmp_path / "effects").read_text() == "x\n"
    messages = [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()]
    assert len(messages) == 1
    assert "disk is full" in messages[0]
    assert "the store works again" in caplog.text


def test_an_outcome_waits_for_a_server_that_may_be_written(
    postgres_store_dsn: str,
    tmp_path: Path,
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While no lease can be renewed, this worker claims nothing, not even the visit that it has executed."""
    name = urlsplit(postgres_store_dsn).path[1:]

    def set_read_only(value: str) -> None:
        with psycopg.connect(postgres_store_dsn, autocommit=True) as connection:
            connection.execute("set default_transaction_read_only = off")
            connection.execute(f"alter database {name} set default_transaction_read_only = {value}".encode())
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )

    with closing(PostgresStore(postgres_store_dsn)) as store:
        renewals = count_calls(store.queue, "renew", monkeypatch)
        with performing(store, tmp_path, gate) as (worker, harness, writer):
            set_read_only("on")
            writer.write("go")
            writer.close()
            before = renewals()
            wait_until(lambda: renewals() > before + 3 * (MAX_CLAIMS + 1))
            set_read_only("off")
            assert finished(worker, harness).status is RunStatus.SUCCEEDED
        (first, *_) = store.runs.visits(harness.id)
    assert (first.step, first.claims) == ("a", 1)
    assert (tmp_path / "effects").read_text() == "x\n"
    assert "in a read-only transaction" in caplog.text


class RefusingQueue:
    """A queue that refuses commits, and then answers."""

    claims_in_turn = True

    def __init__(self, answers: list[object]) -> None:
        self.answers = answers
        self.leases: list[object] = []

    def commit(self, _commit: object, _now: float, claim_for: object = None) -> object:
        self.leases.append(claim_for)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def renew(self, *_: object) -> object:
        return self.commit(None, 0.0)


class TestPersistentStore:
    def make(self, store: SqliteStore, answers: list[object]) -> tuple[Any, RefusingQueue, StoreFailures]:
        failures = StoreFailures(threading.Event())
        queue: Any = RefusingQueue(answers)
        store.queue = queue
        return make_persistent(store, failures).queue, queue, failures

    def test_only_the_first_try_of_a_commit_claims_the_next_visit(self, store: SqliteStore) -> None:
        """The lease that the commit would write may be over when the store is back."""
        persistent, queue, failures = self.make(store, [StoreError("full"), StoreError("full"), None, "v"])
        assert persistent.commit("commit", 1.0, "lease") is None
        assert persistent.commit("commit", 1.0, "lease") == "v"
        assert queue.leases == ["lease", None, None, "lease"]
        failures.raise_after(EXECUTE, 0.0)

    def test_a_refusal_of_the_store_is_an_answer(self, store: SqliteStore) -> None:
        persistent, _, failures = self.make(store, [StoreError("away"), FencedError("lost")])
        with pytest.raises(FencedError):
            persistent.renew()
        failures.raise_after(EXECUTE, 0.0)

    def test_a_worker_that_stops_does_not_try_again(self, store: SqliteStore) -> None:
        persistent, queue, failures = self.make(store, [StoreError("away"), StoreError("away")])
        failures._stopping.set()
        with pytest.raises(StoreError, match="away"):
            persistent.renew()
        assert len(queue.leases) == 1
        assert persistent.claims_in_turn is True

    def test_a_failure_that_lasts_is_raised_with_its_latest_reason(self) -> None:
        failures = StoreFailures(threading.Event())
        failures.record(EXECUTE, StoreError("the first"))
        failures.record(EXECUTE, StoreError("the second"))
        failures.raise_after(EXECUTE, SECONDS)
        with pytest.raises(StoreError, match="the second"):
            failures.raise_after(EXECUTE, -1.0)

    def test_each_reason_of_a_failure_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """The first may be a connection that was cut, and the second its cause."""
        failures = StoreFailures(threading.Event())
        for reason in ("cut", "cut", "read-only", "cut", *(f"port {number}" for number in range(100))):
            failures.record(EXECUTE, StoreError(reason))
        failures.clear(EXECUTE)
        failures.record(EXECUTE, StoreError("cut"))
        tried = "the store failed; trying again: "
        assert caplog.messages == [
            *(tried + reason for reason in ("cut", "read-only", "port 0", "port 1", "port 2")),
            "the store works again",
            tried + "cut",
        ]
