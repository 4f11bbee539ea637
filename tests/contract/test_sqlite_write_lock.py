"""The lock of writers of a SQLite file, while another process has locked it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from noetl.executor.errors import StoreLockedError
from noetl.executor.patience import limited_patience
from noetl.executor.stores.sqlite.file import SqliteFile
from noetl.executor.stores.sqlite.write_lock import BUSY_SECONDS, WriteLock

PATIENCE = 0.2


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteFile]:
    with closing(SqliteFile(str(tmp_path / "noetl.db"))) as opened:
        yield opened


@pytest.fixture
def locker(file: SqliteFile) -> Iterator[sqlite3.Connection]:
    """The connection of another process that has locked the file."""
    with closing(sqlite3.connect(file.path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("begin immediate")
        yield connection
        with suppress(sqlite3.OperationalError):
            connection.execute("rollback")


def write(file: SqliteFile) -> None:
    with file.transaction():
        pass


def locked() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error


def test_a_request_gives_up_a_locked_file_and_may_read_it(
    file: SqliteFile, locker: sqlite3.Connection
) -> None:
    with limited_patience(PATIENCE):
        for _ in range(2):
            with pytest.raises(StoreLockedError, match="another process has locked it"):
                write(file)
        assert file.fetch_all("plans.find_use", hash="") == []
        with pytest.raises(StoreLockedError):
            file.probe()
        locker.execute("rollback")
        write(file)
        file.probe()


def test_a_request_does_not_wait_for_a_worker_that_waits_for_a_locked_file(
    file: SqliteFile, locker: sqlite3.Connection
) -> None:
    worker = threading.Thread(target=write, args=(file,))
    worker.start()
    try:
        with limited_patience(PATIENCE), pytest.raises(StoreLockedError):
            while worker.is_alive():
                write(file)
    finally:
        locker.execute("rollback")
        worker.join()
    with limited_patience(PATIENCE):
        write(file)


def test_a_request_waits_for_a_long_transaction_of_its_own_process(file: SqliteFile) -> None:
    is_open, may_end = threading.Event(), threading.Event()

    def write_long() -> None:
        with file.transaction():
            is_open.set()
            may_end.wait(60)

    writer = threading.Thread(target=write_long)
    writer.start()
    is_open.wait(60)
    timer = threading.Timer(3 * PATIENCE, may_end.set)
    timer.start()
    with limited_patience(PATIENCE):
        write(file)
    assert may_end.is_set()
    writer.join()


class TestWriteLock:
    def begin(self, lock: WriteLock, error: Exception | None = None) -> list[float]:
        """Begin a transaction that fails with an error, and return how long it may have waited."""
        seconds = list[float]()

        def begin(busy_seconds: float) -> None:
            seconds.append(busy_seconds)
            if error is not None:
                raise error

        with lock, suppress(sqlite3.Error):
            lock.begin(begin)
        return seconds

    def test_requests_wait_for_the_file_once_until_one_succeeds(self) -> None:
        now = [0.0]
        lock = WriteLock("locked", lambda: now[0])
        with limited_patience(1.0):
            assert self.begin(lock, locked()) == [1.0]
            now[0] = 1.0
            assert self.begin(lock, locked()) == [0.0]
            assert self.begin(lock) == [0.0]
            assert self.begin(lock, locked()) == [1.0]

    def test_workers_wait_each_time(self) -> None:
        lock = WriteLock("locked")
        assert [self.begin(lock, locked()) for _ in range(2)] == [[BUSY_SECONDS]] * 2

    def test_another_error_says_nothing_about_the_lock(self) -> None:
        now = [0.0]
        lock = WriteLock("locked", lambda: now[0])
        with limited_patience(1.0):
            assert self.begin(lock, sqlite3.OperationalError("disk I/O error")) == [1.0]
            now[0] = 5.0
            assert self.begin(lock) == [1.0]
