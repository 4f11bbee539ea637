"""The clock of a store: workers use its time, whatever their own clocks say."""

from __future__ import annotations

import itertools
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.errors import StoreError
from noetl.executor.model.run import RunStatus
from noetl.executor.runtime.persistent_store import make_persistent
from noetl.executor.runtime.store_failures import StoreFailures
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.executor.stores.store_clock import MAX_AGE_SECONDS, StoreClock
from noetl.executor.worker import Worker, WorkerSettings
from noetl.testing.run_harness import FakeClock, RunHarness

HOUR = 3600.0
EFFECT = """
    steps:
    - name: a
      run: [{action: shell, command: "echo x >> effects; sleep 0.05"}]
      rule: [{case: default, run: [b]}]
    - {name: b, run: [{action: wait, seconds: 0.01}]}
"""
CALLBACK = "steps: [{name: a, run: [{action: callback, timeout: 30m}]}]"


class Server:
    """A server with a clock, whose answers take `seconds`."""

    def __init__(self, timer: FakeClock, seconds: float = 0.0) -> None:
        self.timer = timer
        self.ahead = 5000.0
        self.seconds = seconds
        self.seconds_before = 0.0
        self.requests = 0
        self.is_away = False

    def read(self) -> float:
        self.requests += 1
        if self.is_away:
            raise StoreError("away")
        self.timer.advance(self.seconds / 2 + self.seconds_before)
        answer = self.timer() + self.ahead
        self.timer.advance(self.seconds / 2)
        return answer


class TestStoreClock:
    @pytest.mark.parametrize("seconds", [0.0, 4.0])
    def test_the_time_of_the_server(self, seconds: float) -> None:
        server = Server(timer := FakeClock(100.0), seconds)
        clock = StoreClock(server.read, timer)
        assert clock() == timer() + 5000.0
        timer.advance(3.0)
        assert (clock(), server.requests) == (timer() + 5000.0, 1)

    def test_the_clock_of_a_server_may_be_set(self) -> None:
        server = Server(timer := FakeClock(100.0))
        clock = StoreClock(server.read, timer)
        server.ahead = 7000.0
        assert clock() == timer() + 5000.0
        timer.advance(MAX_AGE_SECONDS + 1.0)
        assert (clock(), clock(), server.requests) == (timer() + 7000.0, timer() + 7000.0, 2)

    def test_a_server_that_answers_late_changes_nothing(self) -> None:
        """A server that was frozen for a minute before it read its clock. Valid leases must stay valid."""
        server = Server(timer := FakeClock(100.0), 0.01)
        clock = StoreClock(server.read, timer)
        server.seconds_before = 60.0
        timer.advance(MAX_AGE_SECONDS + 1.0)
        assert (clock(), server.requests) == (timer() + 5000.0, 2)
        server.seconds_before, server.ahead = 0.0, 7000.0
        timer.advance(MAX_AGE_SECONDS + 1.0)
        assert abs(clock() - (timer() + 7000.0)) < 0.01

    def test_the_last_measurement_counts_while_the_server_is_away(self) -> None:
        server = Server(timer := FakeClock(100.0))
        clock = StoreClock(server.read, timer)
        server.is_away = True
        timer.advance(MAX_AGE_SECONDS + 1.0)
        assert (clock(), clock(), server.requests) == (timer() + 5000.0, timer() + 5000.0, 2)
        server.is_away = False
        timer.advance(MAX_AGE_SECONDS + 1.0)
        assert (clock(), server.requests) == (timer() + 5000.0, 3)

    def test_a_store_of_a_worker_has_the_clock_of_its_store(self, store: SqliteStore) -> None:
        assert make_persistent(store, StoreFailures(Any)).clock is store.clock  # type: ignore[arg-type]


def test_clocks_an_hour_apart_repeat_no_effect_and_expire_no_callback(
    postgres_store_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, whose clock is an hour ahead at each second reading, and an hour behind at the others."""
    offsets = itertools.cycle([HOUR, -HOUR])
    real_time = time.time
    with (
        closing(PostgresStore(postgres_store_dsn)) as store,
        closing(PostgresStore(postgres_store_dsn)) as other,
    ):
        monkeypatch.setattr(time, "time", lambda: real_time() + next(offsets))
        options: dict[str, Any] = {"folder": tmp_path, "clock": store.clock, "origin": "service"}
        waiting = RunHarness(store, CALLBACK, **options)
        harnesses = [RunHarness(store, EFFECT, **options) for _ in range(6)]
        settings = WorkerSettings(local_run_capabilities(tmp_path), threads=2, lease_seconds=30.0)
        workers = [Worker(store, settings), Worker(other, settings)]
        for worker in workers:
            worker.start()
        for harness in harnesses:
            run = workers[0].wait_until_finished("default", harness.id, 30.0)
            assert run.status is RunStatus.SUCCEEDED
        for worker in workers:
            worker.stop()
        (visit,) = waiting.visits
        assert abs(store.clock() - real_time()) < HOUR / 4
    assert (tmp_path / "effects").read_text() == "x\n" * 6
    assert visit.status.value == "waiting"
    assert 0 < visit.due_at - real_time() <= HOUR / 2
