"""The reader that all followers of a run share."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from noetl.api.http.event_stream import encode_event
from noetl.api.service import run_watcher
from noetl.api.service.run_watcher import (
    MAX_REST_SECONDS,
    EncodedEvent,
    RunFeed,
    RunWatcher,
    RunWatchers,
    choose_gap,
)
from noetl.executor import precedence
from noetl.executor.errors import StoreError
from noetl.executor.model.run import END, HistoryPosition, Run, RunEnding, RunStatus
from noetl.executor.precedence import SLICES, StoreOperation
from noetl.executor.stores.cursors import BEFORE_ALL_EVENTS, read_event_id
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.store_contract.operations import action_events, claim_visit, start_run, succeed

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def queries(store: MemoryStore) -> Counter[str]:
    """Number of queries of the store, by method."""
    counts: Counter[str] = Counter()
    for name in ("events", "positions"):
        count_calls(store.runs, name, counts)
    return counts


def count_calls(part: Any, name: str, counts: Counter[str]) -> None:
    query = getattr(part, name)

    def count(*arguments: Any) -> Any:
        counts[name] += 1
        return query(*arguments)

    setattr(part, name, count)


def write_events(store: Store, run: Run, count: int) -> None:
    """Write events as the renewal of a claim does."""
    claim = claim_visit(store, run)
    for start in range(0, count, 10):
        store.queue.renew(
            claim.visit, 1e9, action_events(claim, *range(start, min(start + 10, count))), start
        )
    store.queue.release(claim.visit, 0.0, counts=False)


def cancel(store: Store, run: Run) -> None:
    store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    claim = claim_visit(store, run, 2.0)
    if claim.visit.step != END:  # A visit that has begun finishes first.
        store.queue.commit(succeed(store, claim), 2.0)
        claim = claim_visit(store, run, 2.0)
    store.queue.finish(claim, RunEnding(RunStatus.CANCELLED, None, []), 2.0)


async def read_all(watcher: RunWatcher, run: Run, pause: Callable[[int], Any] | None = None) -> list[str]:
    """Return the ids of all events that a listener gets until the run has ended."""
    ids: list[str] = []
    with watcher.follow(run.id, run.tenant) as feed:
        async for batch in watcher.read(feed, BEFORE_ALL_EVENTS, lambda: 15.0):
            ids += [
                line for event in batch for line in event.frame.decode().splitlines() if line[:3] == "id:"
            ]
            if pause is not None:
                await pause(len(ids))
    return ids


def start_slow_listener(watcher: RunWatcher, run: Run) -> tuple[asyncio.Task[list[str]], asyncio.Event]:
    """Start a listener that takes its first events, and no others until the event is set."""
    may_continue = asyncio.Event()

    async def pause(_: int) -> None:
        await may_continue.wait()

    return asyncio.create_task(read_all(watcher, run, pause)), may_continue


async def wait_for(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110  Nothing signals these conditions.
        await asyncio.sleep(0.01)


def all_ids(store: Store, run: Run) -> list[str]:
    return [f"id: {event.id}" for event in store.runs.events(run.id, None, 10**6)]


async def test_a_slow_listener_blocks_no_other_and_misses_nothing(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watcher, "MAX_BUFFERED_EVENTS", 20)
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    slow, may_continue = start_slow_listener(watcher, run)
    fast = [asyncio.create_task(read_all(watcher, run)) for _ in range(5)]
    await asyncio.sleep(0.05)
    feed = watcher._feeds[run.id]
    for _ in range(3):
        await asyncio.to_thread(write_events, store, run, 100)
    await asyncio.to_thread(cancel, store, run)
    expected = all_ids(store, run)
    for listener in fast:
        assert await listener == expected
    assert not slow.done()
    # The buffer is bounded, so the slow listener is behind it, and reads the store from its own place.
    assert len(feed.events) <= 20
    assert feed.events_after(read_event_id(run.id, expected[1].removeprefix("id: "))) is None
    may_continue.set()
    assert await slow == expected
    assert watcher._feeds == {}


def test_the_buffer_of_a_feed_is_bounded_in_events_and_bytes() -> None:
    feed = RunFeed("r", "default", start=BEFORE_ALL_EVENTS)
    small = [EncodedEvent((number, 0), b"x") for number in range(1, 2001)]
    feed.append(small)
    assert feed.events == small[-run_watcher.MAX_BUFFERED_EVENTS :]
    assert feed.start == (1500, 0)
    assert feed.events_after((1499, 0)) is None
    assert feed.events_after((1998, 0)) == small[-2:]
    feed.append([EncodedEvent((2001, 0), b"x" * (run_watcher.MAX_BUFFERED_BYTES + 1))])
    assert (feed.events, feed.buffered_bytes, feed.start) == ([], 0, (2001, 0))
    assert feed.events_after((2000, 0)) is None
    assert feed.events_after((2001, 0)) == []


async def test_idle_listeners_of_many_runs_cost_one_query_a_pause(
    store: MemoryStore, queries: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watcher, "MAX_PAUSE_SECONDS", 0.05)
    watcher = RunWatcher(store, encode_event)
    runs = [start_run(store) for _ in range(20)]
    listeners = [asyncio.create_task(read_all(watcher, run)) for run in runs for _ in range(10)]
    # Each feed is read once more when a listener has read all earlier events.
    await wait_for(lambda: sum(feed.start is not None for feed in watcher._feeds.values()) == 20)
    await wait_for(lambda: all(feed.position is not None for feed in watcher._feeds.values()))
    queries.clear()
    await wait_for(lambda: queries["positions"] >= 10)
    assert queries["events"] == 0
    # A change of one run leads to a read of this run only.
    await asyncio.to_thread(write_events, store, runs[0], 10)
    before = queries["positions"]
    await wait_for(lambda: queries["positions"] >= before + 3)
    assert 1 <= queries["events"] <= 4
    for run in runs:
        await asyncio.to_thread(cancel, store, run)
    for listener, run in zip(listeners, [run for run in runs for _ in range(10)], strict=True):
        assert await listener == all_ids(store, run)


async def test_reads_for_listeners_pause_no_step(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    precedences: list[int] = []
    positions = store.runs.positions

    def note(ids: Sequence[str]) -> dict[str, HistoryPosition]:
        with StoreOperation():
            precedences.append(SLICES.foreground)
        return positions(ids)

    monkeypatch.setattr(store.runs, "positions", note)
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    listener = asyncio.create_task(read_all(watcher, run))
    await wait_for(lambda: len(precedences) >= 3)
    await asyncio.to_thread(cancel, store, run)
    await listener
    assert set(precedences) == {0}


async def test_listeners_share_reads_of_earlier_events(
    store: MemoryStore, queries: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watcher, "EVENTS_PER_READ", 20)
    monkeypatch.setattr(run_watcher, "MAX_BUFFERED_EVENTS", 20)
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    write_events(store, run, 200)
    cancel(store, run)
    found = await asyncio.gather(*(read_all(watcher, run) for _ in range(50)))
    assert found == [all_ids(store, run)] * 50
    # One listener alone needs eleven reads. Of fifty, each would have its own.
    assert queries["events"] < 100


async def test_a_read_of_earlier_events_outlasts_the_listener_that_began_it(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, has_begun, may_end = Counter[str](), threading.Event(), threading.Event()
    events = store.runs.events

    def read(*arguments: Any) -> Any:
        reads["begun"] += 1
        has_begun.set()
        assert may_end.wait(10.0)
        return events(*arguments)

    monkeypatch.setattr(store.runs, "events", read)
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    cancel(store, run)
    leaving, staying = (asyncio.create_task(read_all(watcher, run)) for _ in range(2))
    await asyncio.to_thread(has_begun.wait, 10.0)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert not staying.done()
    assert reads["begun"] == 1
    may_end.set()
    assert await staying == all_ids(store, run)


async def test_earlier_events_are_read_with_the_credit_of_the_tenant(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = Counter[str]()

    def note_slice() -> None:
        account = precedence._ACCOUNT.get()
        slices["none" if account is None else account.tenant] += 1

    monkeypatch.setattr(run_watcher, "wait_for_slice", note_slice)
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    write_events(store, run, 50)
    cancel(store, run)
    ids = await read_all(watcher, run)
    assert slices["default"] >= len(ids) > 50


async def test_a_store_that_does_not_count_is_read_once_per_run_with_growing_pauses(
    store: MemoryStore, queries: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = store.runs.positions
    monkeypatch.setattr(
        store.runs,
        "positions",
        lambda ids: {id: HistoryPosition(found.status, None) for id, found in positions(ids).items()},
    )
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    listeners = [asyncio.create_task(read_all(watcher, run)) for _ in range(50)]
    await wait_for(lambda: run.id in watcher._feeds and watcher._feeds[run.id].read_pause > 0.3)
    # Each of the listeners has read once at the most before all shared the reads of the feed.
    assert queries["events"] <= 50 + 15
    before = queries["events"]
    await asyncio.to_thread(write_events, store, run, 5)
    await asyncio.to_thread(cancel, store, run)
    found = [await listener for listener in listeners]
    assert queries["events"] - before < 15
    assert found == [all_ids(store, run)] * 50


@pytest.mark.parametrize("error", [StoreError("the store is away"), ValueError("the store is away")])
async def test_followers_outlast_a_failure_of_the_store(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    listener = asyncio.create_task(read_all(watcher, run))
    waiting = asyncio.create_task(watcher.wait_until_ended(run.id, "default", 60.0))
    await asyncio.sleep(0.05)
    failures: Counter[str] = Counter()

    def fail(*_: Any) -> Any:
        failures["count"] += 1
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store.runs, "positions", fail)
        await asyncio.to_thread(cancel, store, run)
        await wait_for(lambda: failures["count"] >= 3)
        assert not listener.done()
        assert not waiting.done()
    assert await listener == all_ids(store, run)
    await waiting
    assert [record.getMessage().endswith("the store is away") for record in caplog.records] == [True]


async def test_a_deleted_run_ends_its_streams(store: MemoryStore) -> None:
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    listener = asyncio.create_task(read_all(watcher, run))
    await asyncio.sleep(0.05)
    del store.state.runs[run.id]
    assert len(await listener) == 1
    await watcher.wait_until_ended(run.id, "default", 60.0)


async def test_a_deleted_run_ends_the_stream_of_a_listener_that_is_behind_its_buffer(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watcher, "MAX_BUFFERED_EVENTS", 20)
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    slow, may_continue = start_slow_listener(watcher, run)
    await asyncio.sleep(0.05)
    await asyncio.to_thread(write_events, store, run, 100)
    feed = watcher._feeds[run.id]
    await wait_for(lambda: len(feed.events) == 20)
    del store.state.runs[run.id]
    await wait_for(lambda: feed.is_deleted)
    may_continue.set()
    async with asyncio.timeout(5.0):
        assert len(await slow) == 1


async def test_a_run_that_is_deleted_or_unreadable_is_not_queried_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that reads nothing holds the feed of such a run."""
    watcher, runs = RunWatcher(store, encode_event), [start_run(store) for _ in range(3)]
    slow = [start_slow_listener(watcher, run) for run in runs[:2]]
    listener = asyncio.create_task(read_all(watcher, runs[2]))
    await wait_for(lambda: sum(feed.start is not None for feed in watcher._feeds.values()) == 3)
    events, positions = store.runs.events, store.runs.positions
    queried = list[Sequence[str]]()

    def read(run_id: str, *arguments: Any) -> Any:
        if run_id == runs[1].id:
            raise ValueError("unreadable")
        return events(run_id, *arguments)

    def query(run_ids: Sequence[str]) -> Any:
        queried.append(run_ids)
        return positions(run_ids)

    monkeypatch.setattr(store.runs, "events", read)
    del store.state.runs[runs[0].id]
    await asyncio.to_thread(write_events, store, runs[1], 10)
    await wait_for(lambda: sum(feed.is_deleted for feed in watcher._feeds.values()) == 2)
    monkeypatch.setattr(store.runs, "positions", query)
    await wait_for(lambda: len(queried) >= 5)
    # The first query may be one that was on its way.
    assert all(run_ids == [runs[2].id] for run_ids in queried[1:])
    assert caplog.text.count("cannot be followed") == 1
    listener.cancel()
    monkeypatch.undo()
    for task, may_continue in slow:
        may_continue.set()
        await task


async def test_a_resumed_run_is_followed_to_its_new_end(store: MemoryStore) -> None:
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    cancel(store, run)
    await watcher.wait_until_ended(run.id, "default", 60.0)
    first = await read_all(watcher, run)
    store.runs.resume(run.id, 3.0, deadline_at=None, values={})
    listener = asyncio.create_task(read_all(watcher, run))
    await asyncio.sleep(0.1)
    assert not listener.done()
    await asyncio.to_thread(cancel, store, run)
    ids = await listener
    assert ids == all_ids(store, run)
    assert ids[: len(first)] == first


async def test_a_stop_ends_all_followers_and_refuses_new_ones(store: MemoryStore) -> None:
    watchers = RunWatchers(store, encode_event)
    run, watcher = start_run(store), watchers.current()
    assert watchers.current() is watcher
    followers = [
        asyncio.create_task(read_all(watcher, run)),
        asyncio.create_task(watcher.wait_until_ended(run.id, "default", 60.0)),
    ]
    await asyncio.sleep(0.05)
    await asyncio.to_thread(watchers.stop)
    await asyncio.gather(*followers)
    await watchers.current().wait_until_ended(run.id, "default", 60.0)
    assert await read_all(watchers.current(), run) == []
    assert watcher._feeds == {}


async def test_a_wait_ends_after_its_time(store: MemoryStore, queries: Counter[str]) -> None:
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    await watcher.wait_until_ended(run.id, "default", 0.1)
    assert (watcher._feeds, queries["events"]) == ({}, 0)


async def test_succeeding_steps_reach_a_listener(store: MemoryStore) -> None:
    watcher, run = RunWatcher(store, encode_event), start_run(store)
    listener = asyncio.create_task(read_all(watcher, run))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(lambda: store.queue.commit(succeed(store, claim_visit(store, run)), 0.0))
    await asyncio.to_thread(cancel, store, run)
    assert await listener == all_ids(store, run)


async def test_an_unreadable_run_ends_only_its_own_streams(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watcher, broken, sound = RunWatcher(store, encode_event), start_run(store), start_run(store)
    listeners = [asyncio.create_task(read_all(watcher, run)) for run in (broken, sound)]
    await wait_for(lambda: sum(feed.start is not None for feed in watcher._feeds.values()) == 2)
    events = store.runs.events

    def fail(run_id: str, *arguments: Any) -> Any:
        if run_id == broken.id:
            raise ValueError("this is no event")
        return events(run_id, *arguments)

    monkeypatch.setattr(store.runs, "events", fail)
    for run in (broken, sound):
        await asyncio.to_thread(cancel, store, run)
    await listeners[0]
    monkeypatch.undo()
    assert await listeners[1] == all_ids(store, sound)
    assert f"run {broken.id} cannot be followed" in caplog.text


async def test_a_tenant_whose_events_are_read_slowly_delays_no_other(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, has_begun, may_end = RunWatcher(store, encode_event), threading.Event(), threading.Event()
    slow, runs = [start_run(store, tenant="many") for _ in range(20)], [start_run(store) for _ in range(2)]
    listeners = [asyncio.create_task(read_all(watcher, run)) for run in [*slow, runs[0]]]
    await wait_for(lambda: sum(feed.start is not None for feed in watcher._feeds.values()) == 21)
    waiting = asyncio.create_task(watcher.wait_until_ended(runs[1].id, "default", 60.0))
    events, slow_ids = store.runs.events, {run.id for run in slow}

    def read(run_id: str, *arguments: Any) -> Any:
        if run_id in slow_ids:
            has_begun.set()
            assert may_end.wait(60.0)
        return events(run_id, *arguments)

    monkeypatch.setattr(store.runs, "events", read)
    try:
        for run in slow:
            await asyncio.to_thread(cancel, store, run)
        await asyncio.to_thread(has_begun.wait, 60.0)
        for run in runs:
            await asyncio.to_thread(cancel, store, run)
        assert await asyncio.wait_for(waiting, 30.0)
        assert await asyncio.wait_for(listeners[-1], 30.0) == all_ids(store, runs[0])
        assert not any(listener.done() for listener in listeners[:-1])
    finally:
        may_end.set()
    for listener, run in zip(listeners, slow, strict=False):
        assert await listener == all_ids(store, run)


def test_a_query_that_waited_long_for_the_store_does_not_silence_the_streams() -> None:
    """A store that fails over answers after a minute. Its clients must not wait for four more."""
    assert [choose_gap(seconds, 1) for seconds in (1.0, 60.0)] == [4.0, MAX_REST_SECONDS]


async def test_changes_of_another_process_reach_listeners_and_waits(tmp_path: Path) -> None:
    address = str(tmp_path / "noetl.db")
    with closing(SqliteStore(address)) as store, closing(SqliteStore(address)) as second:
        run = start_run(second)
        watcher = RunWatcher(store, encode_event)
        listener = asyncio.create_task(read_all(watcher, run))
        waiting = asyncio.create_task(watcher.wait_until_ended(run.id, "default", 60.0))
        await wait_for(lambda: run.id in watcher._feeds and watcher._feeds[run.id].start is not None)
        signals = store.changes.count
        await asyncio.to_thread(write_events, second, run, 20)
        await asyncio.to_thread(cancel, second, run)
        assert await listener == all_ids(second, run)
        await waiting
        assert store.changes.count == signals
