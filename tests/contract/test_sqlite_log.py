"""The write-ahead log of SQLite under a process that reads an old state of the store."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import noetl.executor.worker as worker_module
from noetl.executor.errors import StoreError
from noetl.executor.model.run import RunStatus
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.sqlite import file, log_readers, write_ahead_log
from noetl.executor.stores.sqlite.file import FRAME_BYTES, CheckpointMode, LogPages, SqliteFile
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.executor.stores.sqlite.write_ahead_log import WriteAheadLog
from noetl.executor.worker import Worker, WorkerSettings
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.operations import start_run

SECONDS = 60.0
LIMIT = 100_000

STEPS = """
    steps:
    - {name: a, run: [{action: set, set: {x: "{{ range(200) | list }}"}}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: set, set: {y: 1}}]}
"""

READER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("begin")
db.execute("select count(*) from runs").fetchone()
print("reading", flush=True)
sys.stdin.readline()
db.execute("commit")
"""
"""A program that reads one state of a file until its input ends."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteStore]:
    monkeypatch.setattr(file, "MAX_LOG_BYTES", LIMIT)
    monkeypatch.setattr(file, "LOG_PAGES", 10)
    monkeypatch.setattr(write_ahead_log, "CHECK_SECONDS", 0.0)
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as opened:
        start_run(opened)
        yield opened


@contextmanager
def reading(store: SqliteStore) -> Iterator[int]:
    """Let another process read the state that the store has now, and yield its number."""
    command = [sys.executable, "-c", READER, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        try:
            yield process.pid
        finally:
            process.stdin.close()
            assert process.wait(SECONDS) == 0


@contextmanager
def performing_runs(store: SqliteStore, folder: Path) -> Iterator[list[RunHarness]]:
    """Perform one run after the other by a worker until the end of the block. Yield those that have ended."""
    ended: list[RunHarness] = []
    stopping = threading.Event()
    clock: Any = time.time
    worker = Worker(store, WorkerSettings(local_run_capabilities(folder), threads=2, lease_seconds=30.0))

    def perform() -> None:
        while not stopping.is_set():
            harness = RunHarness(store, STEPS, folder=folder, clock=clock, origin="service")
            worker.wait_until_finished("default", harness.id, SECONDS)
            ended.append(harness)

    thread = threading.Thread(target=perform)
    worker.start()
    thread.start()
    try:
        yield ended
    finally:
        stopping.set()
        thread.join()
        worker.stop(timeout_seconds=SECONDS)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, or fail after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def log_bytes(store: SqliteStore) -> int:
    return store.path.with_name("noetl.db-wal").stat().st_size


def grow_log(store: SqliteStore) -> None:
    while log_bytes(store) <= 2 * LIMIT:
        start_run(store)


def test_workers_name_a_long_reader_and_cut_the_log_after_its_end(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "RETENTION_PAUSE_SECONDS", 0.01)
    caplog.set_level(logging.WARNING, "noetl.executor")
    with performing_runs(store, tmp_path) as ended:
        with reading(store) as process:
            wait_until(lambda: bool(caplog.records) and log_bytes(store) > 5 * LIMIT)
            assert f": process {process} (`" in caplog.records[0].getMessage()
            before = len(ended)
            wait_until(lambda: len(ended) > before)
            assert store.file.commit_log_pages == 0
        wait_until(lambda: log_bytes(store) <= LIMIT and store.file.commit_log_pages != 0)
        before = len(ended)
        wait_until(lambda: len(ended) > before)
    assert {harness.status for harness in ended} == {RunStatus.SUCCEEDED}
    start, end = (record.getMessage() for record in caplog.records)
    assert start.startswith(f"the write-ahead log of {store.path} has ")
    assert end.startswith(f"the write-ahead log of {store.path} was cut to ")


def test_a_consistency_check_and_metrics_show_the_log(store: SqliteStore) -> None:
    with reading(store) as process:
        grow_log(store)
        (finding,) = store.maintenance.check_consistency()
        assert finding.check == "write-ahead log"
        assert f"end the process that reads an old state of the store: process {process}" in finding.message
        metrics = store.facts.read(None, 0.0)
        assert metrics is not None and metrics.log_bytes == log_bytes(store)
    store.maintenance.sweep(store.clock())
    assert store.maintenance.check_consistency() == []
    assert log_bytes(store) == 0


def test_commits_do_not_write_a_long_log_back(store: SqliteStore) -> None:
    """They would wait for it. The pages are written back next to them."""
    with reading(store):
        grow_log(store)
        store.maintenance.delete_old(0.0)
    before = log_bytes(store)
    start_run(store)
    pages = store.file.write_back(CheckpointMode.PASSIVE)
    assert pages is not None and pages.unwritten == 0
    assert log_bytes(store) > before
    store.maintenance.delete_old(0.0)
    assert log_bytes(store) == 0
    for _ in range(20):
        start_run(store)
    assert log_bytes(store) <= LIMIT


def test_a_reader_of_the_last_state_delays_the_cut_alone(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "CUT_SECONDS", 0.001)
    with reading(store):
        grow_log(store)
    with reading(store):
        store.maintenance.delete_old(0.0)
        assert log_bytes(store) > LIMIT
        assert start_run(store).status is RunStatus.QUEUED
    store.maintenance.delete_old(0.0)
    assert log_bytes(store) == 0


def test_a_log_that_another_process_writes_back_is_left_alone(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with reading(store):
        grow_log(store)
    modes: list[CheckpointMode] = []

    def refuse(_: SqliteFile, mode: CheckpointMode) -> LogPages | None:
        modes.append(mode)
        return None

    monkeypatch.setattr(SqliteFile, "write_back", refuse)
    for _ in range(3):
        store.maintenance.delete_old(0.0)
    assert modes == [CheckpointMode.PASSIVE] * 3
    assert not caplog.records


def test_one_thread_checks_the_log_at_a_time(store: SqliteStore) -> None:
    with reading(store):
        grow_log(store)
    log = WriteAheadLog(store.file)
    with log._checking:
        log.maintain()
    assert log_bytes(store) > LIMIT
    log.maintain()
    assert log_bytes(store) == 0


def test_a_log_that_cannot_be_written_back_is_a_failure_of_the_store(store: SqliteStore) -> None:
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("select count(*) from runs")
        store.file.connection().close()
        with pytest.raises(StoreError, match="failed: Cannot operate on a closed database"):
            store.file.write_back(CheckpointMode.TRUNCATE)


def test_readers_without_a_name(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems do not list locks, and a process may end before its name is read."""
    with reading(store):
        (reader,) = log_readers.find_log_readers(store.path)
        assert reader.program
        monkeypatch.setattr(log_readers, "LOCKS", store.path.with_name("missing"))
        grow_log(store)
        (finding,) = store.maintenance.check_consistency()
        assert finding.message.endswith("such as a backup, or a shell with an open transaction")
    assert log_readers._read_program(reader.process) == ""


def test_a_store_in_memory_has_no_log() -> None:
    with closing(SqliteStore(":memory:")) as store:
        assert store.maintenance.delete_old(0.0) is False
        metrics = store.facts.read(None, 0.0)
        assert metrics is not None and metrics.log_bytes == 0


def test_readers_of_another_file_are_not_named(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with closing(SqliteStore(str(tmp_path / "other" / "noetl.db"))) as other, reading(other):
        assert log_readers.find_log_readers(store.path) == frozenset()
        with closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
            reader.execute("begin")
            reader.execute("select count(*) from runs").fetchone()
            assert log_readers.find_log_readers(store.path) == frozenset()


def count_pages(store: SqliteStore) -> int:
    """Return how many pages the log has."""
    pages = store.file.write_back(CheckpointMode.PASSIVE)
    assert pages is not None
    return sum(pages)


def start_until_long(store: SqliteStore) -> None:
    """Start runs until the log is longer than usual, by less than a run."""
    while log_bytes(store) <= 20 * FRAME_BYTES:
        start_run(store)


def test_workers_write_a_long_log_back_before_a_commit_does(store: SqliteStore) -> None:
    store.maintenance.write_log_back()
    before = start_run(store)
    start_until_long(store)
    store.maintenance.write_log_back()
    with closing(sqlite3.connect(f"file:{store.path}?immutable=1", uri=True)) as db:
        assert db.execute("select 1 from runs where id = ?", [before.id]).fetchone() == (1,)
    after = start_run(store)
    assert count_pages(store) < 20
    for run in (before, after):
        assert store.runs.get(run.tenant, run.id) is not None


def test_a_commit_writes_the_log_back_if_no_worker_does(store: SqliteStore) -> None:
    store.maintenance.write_log_back()
    longest = 0
    for _ in range(60):
        start_run(store)
        longest = max(longest, log_bytes(store))
    assert 20 * FRAME_BYTES < longest < 80 * FRAME_BYTES


def test_a_reader_delays_the_restart_of_the_log_and_no_commit(store: SqliteStore) -> None:
    store.maintenance.write_log_back()
    start_run(store)
    with reading(store):
        start_until_long(store)
        store.maintenance.write_log_back()
        before = count_pages(store)
        assert before > 20
        start_run(store)
        assert count_pages(store) > before
    store.maintenance.write_log_back()
    start_run(store)
    assert count_pages(store) < 20


@pytest.mark.parametrize("reason", ["deferred", "checked", "used"])
def test_a_log_that_others_write_back_is_not_written_back_twice(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    store.maintenance.write_log_back()
    start_until_long(store)
    log = WriteAheadLog(store.file)
    log.write_back()
    start_until_long(store)
    modes: list[CheckpointMode] = []

    def refuse(_: SqliteFile, mode: CheckpointMode, _seconds: float | None = None) -> LogPages | None:
        modes.append(mode)
        return None

    monkeypatch.setattr(SqliteFile, "write_back", refuse)
    if reason == "deferred":
        store.file.commit_log_pages = 0
    if reason == "checked":
        log._checking.acquire()
    log.write_back()
    assert modes == ([CheckpointMode.PASSIVE] if reason == "used" else [])
