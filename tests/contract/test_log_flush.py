"""Flushes of the write-ahead log that serve several commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from noetl.executor.stores.sqlite import log_flush
from noetl.executor.stores.sqlite.log_flush import LogFlush

COMMITS = 8


class Disk:
    """A disk whose first flush lasts until `may_end` is set. `effect` is called at the end of each flush."""

    def __init__(self) -> None:
        self.flushes = 0
        self.is_busy = threading.Event()
        self.may_end = threading.Event()
        self.effect: Callable[[], object] = lambda: None

    def flush(self, log: int) -> None:
        self.flushes += 1
        self.is_busy.set()
        assert self.may_end.wait(10)
        self.effect()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(log_flush, "flush_file", disk.flush)
    return disk


@pytest.fixture
def flush(tmp_path: Path) -> Iterator[LogFlush]:
    (tmp_path / "log").touch()
    flush = LogFlush()
    flush.open(str(tmp_path / "log"))
    yield flush
    flush.close()


def wait_together(flush: LogFlush, disk: Disk) -> list[BaseException | None]:
    """Let a commit wait, and others while the disk is busy with it. Return how each of them ended."""
    with ThreadPoolExecutor(COMMITS + 1) as threads:
        waiting = [threads.submit(flush.wait)]
        assert disk.is_busy.wait(10)
        waiting += [threads.submit(flush.wait) for _ in range(COMMITS)]
        while flush._commits <= COMMITS:
            time.sleep(0.001)
        disk.may_end.set()
        return [future.exception(10) for future in waiting]


def test_commits_during_a_flush_share_the_next_one(flush: LogFlush, disk: Disk) -> None:
    assert wait_together(flush, disk) == [None] * (COMMITS + 1)
    assert disk.flushes == 2


def test_each_commit_has_the_error_of_its_flush(flush: LogFlush, disk: Disk) -> None:
    def fail_at_first() -> None:
        if disk.flushes == 1:
            raise OSError("no disk")

    disk.effect = fail_at_first
    errors = wait_together(flush, disk)
    assert [type(error) for error in errors] == [OSError, *[type(None)] * COMMITS]
    assert disk.flushes == 2


def test_a_commit_that_is_alone_is_flushed_at_once(flush: LogFlush, disk: Disk) -> None:
    disk.may_end.set()
    for number in range(1, 4):
        flush.wait()
        assert disk.flushes == number


def test_a_closed_log_is_not_flushed(flush: LogFlush, disk: Disk) -> None:
    flush.close()
    flush.wait()
    assert disk.flushes == 0
