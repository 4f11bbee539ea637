"""The reader that all followers of a list of runs share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from noetl.api.http.list_stream import LIST_ENCODER
from noetl.api.service import list_watcher
from noetl.api.service.headlines import Headline
from noetl.api.service.list_watcher import FeedState, HeadlineCache, ListFeed, ListWatcher, ListWatchers
from noetl.api.service.overviews import ReadRun
from noetl.api.service.services import TenantServices, create_services
from noetl.api.service.tenant import TenantContext
from noetl.api.service.views import StepCounts
from noetl.executor.actions import catalogue
from noetl.executor.model.run import HistoryPosition, Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunOverview, RunSummary
from noetl.executor.stores.interface import PlanStore
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.frozen import replace
from noetl.testing.store_contract.operations import start_run

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def services(store: MemoryStore) -> TenantServices:
    return create_services(store, catalogue())


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(list_watcher, "MIN_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(list_watcher, "MAX_PAUSE_SECONDS", 0.05)
    yield


def open_watcher(store: MemoryStore) -> ListWatcher:
    return ListWatcher(store.changes, LIST_ENCODER)


def ids_in(frames: bytes, event: str) -> list[str]:
    blocks = frames.decode().split("\n\n")
    lines = [block.split("\n") for block in blocks if block.startswith(f"event: {event}\n")]
    return [line[1].partition('"workflow_id":"')[2].partition('"')[0] for line in lines]


async def wait_for(feed: ListFeed, is_true: Callable[[FeedState], bool]) -> None:
    """Wait until the state of a feed fulfils a condition."""
    async with asyncio.timeout(60):
        while feed.state is None or not is_true(feed.state):
            published = feed.published
            if feed.state is None or not is_true(feed.state):
                await published.wait()


async def test_a_slow_follower_gets_the_latest_state_and_nothing_is_queued(
    store: MemoryStore, services: TenantServices
) -> None:
    watcher, doomed = open_watcher(store), start_run(store)
    with watcher.follow(services.lists, RunFilter(limit=100)) as feed:
        await watcher.open(feed)
        slow, fast = (watcher.read(feed, lambda: 60.0) for _ in range(2))
        for follower in (slow, fast):
            first = await anext(follower)
            assert first is not None
            assert ids_in(first.frames, "run") == [doomed.id]
        seen: list[str] = []
        for _ in range(10):
            run = await asyncio.to_thread(start_run, store)
            while run.id not in seen:
                update = await anext(fast)
                assert update is not None
                seen += ids_in(update.frames, "run")
            await asyncio.to_thread(store.runs.stop, run.id, RunStatus.CANCELLED, 1.0)
        del store.state.runs[doomed.id]
        store.changes.notify()
        await wait_for(feed, lambda state: doomed.id not in state.runs)
        assert len(seen) >= 10
        # A follower that is late finds one difference, with each run once.
        update = await anext(slow)
        assert update is not None
        assert update.state is feed.state
        assert ids_in(update.frames, "gone") == [doomed.id]
        assert sorted(ids_in(update.frames, "run")) == sorted(update.state.runs)
        assert len(feed._updates) <= 2
    assert watcher.feeds == []


async def test_followers_of_equal_filters_share_a_feed(store: MemoryStore, services: TenantServices) -> None:
    watcher = open_watcher(store)
    failed, cancelled = RunStatus.FAILED, RunStatus.CANCELLED
    with (
        watcher.follow(services.lists, RunFilter(statuses=(failed, cancelled), tags=("b", "a"))) as first,
        watcher.follow(
            services.lists, RunFilter(statuses=(cancelled, failed, failed), tags=("a", "b"))
        ) as second,
        watcher.follow(services.lists, RunFilter(statuses=(failed,), tags=("a", "b"))) as third,
        watcher.follow(
            services.for_tenant("another").lists, RunFilter(statuses=(failed, cancelled))
        ) as fourth,
    ):
        assert first is second
        assert len({id(feed) for feed in (first, third, fourth)}) == 3
        assert len(watcher.feeds) == 3
    assert watcher.feeds == []


async def test_an_update_is_computed_once_for_all_followers(
    store: MemoryStore, services: TenantServices
) -> None:
    watcher = open_watcher(store)
    start_run(store)
    with watcher.follow(services.lists, RunFilter()) as feed:
        await watcher.open(feed)
        followers = [watcher.read(feed, lambda: 60.0) for _ in range(50)]
        assert len({id(await anext(follower)) for follower in followers}) == 1
        await asyncio.to_thread(start_run, store)
        updates = [await anext(follower) for follower in followers]
        assert len({id(update) for update in updates}) == 1


async def test_a_stop_ends_all_followers(store: MemoryStore, services: TenantServices) -> None:
    watchers = ListWatchers(store.changes, LIST_ENCODER)
    watcher = watchers.current()
    assert watchers.current() is watcher

    async def read_all() -> int:
        with watcher.follow(services.lists, RunFilter()) as feed:
            await watcher.open(feed)
            return len([update async for update in watcher.read(feed, lambda: 60.0)])

    follower = asyncio.create_task(read_all())
    while not any(feed.state for feed in watcher.feeds):  # noqa: ASYNC110  Nothing signals this condition.
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    await asyncio.to_thread(watchers.stop)
    assert await follower == 1
    assert await read_all() == 0


class StubRuns:
    """A store with a run whose position a test sets. Overviews are counted."""

    def __init__(self, plans: PlanStore, run: RunSummary) -> None:
        self.plans = plans
        self.runs = self.visits = self
        self.run = run
        self.position: HistoryPosition | None = None
        self.read_count = 0

    def positions(self, run_ids: list[str]) -> dict[str, HistoryPosition]:
        return {} if self.position is None else dict.fromkeys(run_ids, self.position)

    def overviews(self, tenant: str, run_ids: list[str]) -> dict[str, RunOverview]:
        self.read_count += len(run_ids)
        return {run_id: RunOverview(self.run, None, {}) for run_id in run_ids}


class StubHeadlines:
    """The headlines of runs, counted. Their overviews are read before."""

    def __init__(self, context: TenantContext) -> None:
        self.runs = SimpleNamespace(context=context)
        self.text = "a"
        self.done = 0
        self.count = 0

    def headline(self, run_id: str, read: ReadRun | None) -> Headline:
        assert read is not None and read.overview.summary.id == run_id
        self.count += 1
        return Headline(self.text, StepCounts(done=self.done, total=5))


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_headline_is_computed_again_only_if_its_run_may_have_another_one(
    services: TenantServices, store: MemoryStore, is_counted: bool
) -> None:
    run: Run = start_run(store)
    summary = services.runs.summary(run.id)
    runs, now = StubRuns(store.plans, summary), [0.0]
    context = replace(services.lists.context, store=runs)  # type: ignore[arg-type]
    headlines = StubHeadlines(context)
    cache = HeadlineCache(headlines, lambda: now[0])  # type: ignore[arg-type]

    def read(seconds: float, entry: int) -> int:
        now[0] += seconds
        runs.position = HistoryPosition(RunStatus.RUNNING, entry if is_counted else None)
        before = headlines.count
        cache.prepare([summary])
        assert cache.headline(summary).text == headlines.text
        cache.forget_unused()
        assert runs.read_count == headlines.count
        return headlines.count - before

    assert read(0.0, 1) == 1
    assert read(0.1, 1) == 0
    # A change of the history counts at once, if the store counts its entries.
    assert read(0.1, 2) == is_counted
    # Without a change the pauses grow: 0.5, 1, 2, 4 and then 8 seconds.
    assert sum(read(0.25, 2) for _ in range(4 * 60)) in range(8, 14)
    headlines.text = "b"
    assert read(8.0, 2) == 1
    assert read(0.5, 2) == 1
    assert read(7.0, 2) == 1
    # A headline that stays while another step has finished is a change, too.
    headlines.done = 1
    assert read(8.0, 2) == 1
    assert read(0.5, 2) == 1
    # A run that is not in the list any more is forgotten.
    cache.forget_unused()
    assert cache._known == {}
