"""The due floor, and claims while a session of Postgres holds a snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from noetl.executor.model.run import SERVICE_QUEUE
from noetl.executor.stores.postgres.database import STATEMENTS
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql import due_floor
from noetl.executor.stores.sql.due_floor import (
    FULL_SCAN_SECONDS,
    MARGIN_SECONDS,
    MAX_WIDE_PAUSE_SECONDS,
    NO_FLOOR,
    SCAN_SHARE,
    WIDE_MARGIN_SECONDS,
    DueFloor,
)
from noetl.testing.run_harness import FakeClock
from noetl.testing.store_contract.operations import LEASE, start_run

DEAD = 4_000
"""Visits that were due in the past, or whose leases would end in the future."""

ADD_VISITS = """
    insert into visits (run_id, id, step, queue, tenant, status, position, clock, names, number, due_at)
    select 'dead', number::text, 'a', 'service', 'default', 'ready', 0, 1, '{}', 1,
        extract(epoch from clock_timestamp()) + case when number %% 2 = 0 then -60 else 20 end + number / 1e6
    from generate_series(1, %s) as number
"""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


@pytest.fixture
def timer() -> FakeClock:
    return FakeClock(0.0)


@pytest.fixture
def floor(clock: FakeClock, timer: FakeClock) -> DueFloor:
    """A floor that has seen no visit before the margin, in a scan of a hundredth of a second."""
    floor = DueFloor(clock, timer)
    assert floor.begin("q", clock()) == NO_FLOOR
    floor.learn("q", NO_FLOOR, None, clock(), 0.01)
    return floor


class TestDueFloor:
    def test_a_claim_begins_where_the_last_one_has_ended(self, floor: DueFloor, clock: FakeClock) -> None:
        assert floor.begin("q", clock()) == clock() - MARGIN_SECONDS
        assert floor.begin("other", clock()) == NO_FLOOR
        clock.advance(1.0)
        floor.learn("q", floor.known("q", clock()), 999.95, clock(), 0.0)
        assert floor.known("q", clock()) == 999.95

    def test_a_visit_that_is_due_stays_above_the_floor(self, floor: DueFloor, clock: FakeClock) -> None:
        clock.advance(60.0)
        floor.learn("q", floor.begin("q", clock()), 1001.0, clock(), 0.0)
        assert floor.known("q", clock()) == 1001.0

    def test_a_wide_scan_lowers_the_floor(self, floor: DueFloor, clock: FakeClock, timer: FakeClock) -> None:
        timer.advance(SCAN_SHARE * 0.01)
        wide, narrow = (floor.begin("q", clock()) for _ in range(2))
        assert (wide, narrow) == (clock() - WIDE_MARGIN_SECONDS, clock() - MARGIN_SECONDS)
        floor.learn("q", wide, 999.0, clock(), 0.0)
        # A claim that had begun before has not seen this visit.
        floor.learn("q", narrow, None, clock(), 0.0)
        assert floor.known("q", clock()) == 999.0

    def test_a_wide_scan_that_reports_nothing_is_repeated(
        self, floor: DueFloor, clock: FakeClock, timer: FakeClock
    ) -> None:
        for _ in range(2):
            timer.advance(MAX_WIDE_PAUSE_SECONDS)
            assert floor.begin("q", clock()) == clock() - WIDE_MARGIN_SECONDS

    def test_a_full_scan_lowers_the_floor(self, floor: DueFloor, clock: FakeClock, timer: FakeClock) -> None:
        timer.advance(FULL_SCAN_SECONDS)
        scans = [floor.begin("q", clock()) for _ in range(3)]
        assert scans == [NO_FLOOR, clock() - WIDE_MARGIN_SECONDS, clock() - MARGIN_SECONDS]
        floor.learn("q", NO_FLOOR, 5.0, clock(), 0.0)
        assert floor.known("q", clock()) == 5.0

    def test_slow_scans_are_rare(self, floor: DueFloor, clock: FakeClock, timer: FakeClock) -> None:
        floor.learn("q", NO_FLOOR, None, clock(), 2.0)
        timer.advance(SCAN_SHARE * 2.0 - 1.0)
        assert floor.begin("q", clock()) == clock() - MARGIN_SECONDS
        timer.advance(1.0)
        assert floor.begin("q", clock()) == NO_FLOOR

    @pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
    def test_another_time_than_that_of_the_store_has_no_floor(
        self, floor: DueFloor, clock: FakeClock, seconds: float
    ) -> None:
        known = floor.known("q", clock())
        assert floor.begin("q", clock() + seconds) == NO_FLOOR
        floor.learn("q", NO_FLOOR, None, clock() + seconds, 0.0)
        assert floor.known("q", clock()) == known

    def test_a_clock_that_is_put_back_has_no_floor(self, floor: DueFloor, clock: FakeClock) -> None:
        clock.advance(-3600.0)
        assert floor.begin("q", clock()) == NO_FLOOR


@pytest.fixture
def store(postgres_store_dsn: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore(postgres_store_dsn)) as opened:
        yield opened


def read_blocks(dsn: str, query: str, **values: Any) -> int:
    """Return how many blocks of tables and indexes a query reads."""
    with psycopg.connect(dsn) as connection:
        text = b"explain (analyze, buffers, format json) " + STATEMENTS.text(query, values)
        (((plan,),),) = connection.execute(text, values)
        return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


def test_a_held_snapshot_does_not_make_claims_read_dead_entries(
    postgres_store_dsn: str, store: PostgresStore
) -> None:
    with (
        psycopg.connect(postgres_store_dsn) as holder,
        psycopg.connect(postgres_store_dsn, autocommit=True) as writer,
    ):
        writer.execute(ADD_VISITS, (DEAD,))
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from visits")
        writer.execute("update visits set status = 'succeeded', finished_at = 1")
        writer.execute("vacuum analyze visits")
        assert store.queue.claim(SERVICE_QUEUE, LEASE, store.clock()) is None
        now = store.clock()
        values = {"queue": SERVICE_QUEUE, "now": now, "after": "service ", "limit": 1}
        since = store.context.floor.known(SERVICE_QUEUE, now)
        assert read_blocks(postgres_store_dsn, "queue.find_due", **values, since=since) < 10
        run = start_run(store, now=store.clock(), origin=SERVICE_QUEUE)
        now = store.clock()
        since = store.context.floor.known(SERVICE_QUEUE, now)
        values["now"] = now
        blocks, blocks_without = (
            read_blocks(postgres_store_dsn, "queue.find_due", **values, since=bound)
            for bound in (since, NO_FLOOR)
        )
        next_due = {"queue": SERVICE_QUEUE, "until": now + 1.0, "since": since}
        assert read_blocks(postgres_store_dsn, "queue.next_due", **next_due) < 50
        assert blocks < 60
        assert blocks_without > 4 * blocks, "the snapshot keeps the dead entries"
        assert store.queue.count_active(SERVICE_QUEUE, "default", 9) == 1
        turn = f"{SERVICE_QUEUE} default"
        count: dict[str, Any] = {"turn": turn, "limit": 9}
        since_of_tenant = store.context.floor.known(turn, store.clock())
        counted, counted_without = (
            read_blocks(postgres_store_dsn, "queue.count_active", **count, since=bound)
            for bound in (since_of_tenant, NO_FLOOR)
        )
        # A count must read the ends of leases, which are in the future: those of the last lease seconds.
        assert counted_without > 1.5 * counted, "the snapshot keeps the dead entries"
        visit: dict[str, Any] = {"run_id": run.id, "visit_id": "a", "fence": 1, "until": now}
        for blocks_of_run in (
            read_blocks(postgres_store_dsn, "runs.get", tenant="default", run_id=run.id),
            read_blocks(postgres_store_dsn, "branches.is_any_running", run_id=run.id),
            read_blocks(postgres_store_dsn, "queue.renew", **visit),
        ):
            assert blocks_of_run < 30
        claim = store.queue.claim(SERVICE_QUEUE, LEASE, store.clock())
        assert claim is not None
        assert claim.run.id == run.id


def test_a_visit_that_is_late_is_found_by_a_full_scan(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.queue.claim(SERVICE_QUEUE, LEASE, store.clock()) is None
    start_run(store, now=store.clock() - 60.0, origin=SERVICE_QUEUE)
    assert store.queue.claim(SERVICE_QUEUE, LEASE, store.clock()) is None
    store.context.floor._timer = lambda: time.monotonic() + due_floor.FULL_SCAN_SECONDS
    assert store.queue.next_due(SERVICE_QUEUE) is not None
    assert store.queue.claim(SERVICE_QUEUE, LEASE, store.clock()) is not None
