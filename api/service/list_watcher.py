"""One reader for all clients of a process that follow one list of runs.

Problem: hundreds of pages show a list of runs and want each change at once. No store has an index of the
runs that have changed lately, because each step of each run would have to write it.

Algorithm: publish and subscribe. A feed is the first page of a list, as `GET /workflows` returns it. It is
read again after the store has signalled a change, and otherwise after a growing pause. Its states are
immutable. A follower remembers the state that it has received, and gets the difference to the newest one
(state-based replication, Shapiro et al. 2011). So a slow follower skips states, and no queue grows. The
difference between two states is computed once for all followers.

Cost: one page of the list, and one query of the positions of its runs, for each read of a feed. A headline is
computed again if its run has changed. That of a run at work is also computed after a growing pause, because a
step may start without an entry of the history. The reads of a tenant follow each other. They take at most a
fifth of the time, on at most MAX_THREADS threads. Between two of them are at most MAX_REST_SECONDS.

Limits: a feed has the newest runs of its filter, at most `limit`. A run that newer ones push out is not
followed any more. Changes within MIN_INTERVAL_SECONDS are published together, and within a longer time if
there are many followers.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from anyio import CapacityLimiter, to_thread

from noetl.api.service.headlines import Headline
from noetl.api.service.loop_watchers import LoopWatchers
from noetl.api.service.overviews import RunReader
from noetl.api.service.run_data import RunDataService
from noetl.api.service.run_lists import ListedRun, RunListService
from noetl.api.service.views import RunEntry
from noetl.executor.errors import StoreError
from noetl.executor.model.run import HistoryPosition
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.precedence import without_precedence
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.planner.frozen import frozen, replace

MAX_THREADS = 2
"""Threads of a watcher that read the store. The threads that answer requests are others."""

MIN_INTERVAL_SECONDS = 0.5
SECONDS_PER_FOLLOWER = 0.008
"""Time between two reads for each follower of a tenant. So a tenant is sent at most 125 messages a second."""

MAX_PAUSE_SECONDS = 2.0
PAUSE_GROWTH = 1.5
GAP_FACTOR = 4.0
"""Reads of a tenant that took t seconds are followed by GAP_FACTOR * t seconds without one."""

MAX_REST_SECONDS = 10.0
"""Longest time without a read, however long one has waited for a store that fails over."""

MIN_HEADLINE_SECONDS = 0.5
MAX_HEADLINE_SECONDS = 8.0

_log = logging.getLogger("noetl.api")


@frozen
class FeedRun:
    """A run of a feed, with the frame that is sent for it."""

    listed: ListedRun
    frame: bytes

    @property
    def place(self) -> tuple[float, str]:
        """Place of the run in its list. A newer run has a greater one."""
        return self.listed.summary.created_at, self.listed.summary.id


@frozen
class FeedState:
    """The runs of a feed at one time, the newest first. `has_more` is whether the list has a next page."""

    number: int
    runs: Mapping[str, FeedRun]
    has_more: bool

    def pushes_out(self, run: FeedRun) -> bool:
        """Return whether newer runs have taken the place of a run of an earlier state."""
        if not self.runs or not self.has_more:
            return False
        *_, last = self.runs.values()
        return run.place < last.place


EMPTY_STATE = FeedState(0, {}, False)
"""State of a follower that has received nothing."""


@frozen
class FeedUpdate:
    """Message to a follower: the frames of a change, and the state that they lead to."""

    frames: bytes
    state: FeedState


@dataclass(frozen=True, slots=True)
class FeedEncoder:
    """The frames of a stream: that of a run, and that of a run which has left the list."""

    encode_run: Callable[[RunEntry], bytes]
    encode_removal: Callable[[str], bytes]


@frozen
class KnownHeadline:
    """A headline with the run and the position for which it was computed.

    It is computed again after `expires_at` if the run has not ended.
    """

    run: RunSummary
    position: HistoryPosition | None
    headline: Headline
    pause: float
    expires_at: float

    def is_due(self, now: float) -> bool:
        """Return whether the headline has to be computed again."""
        return not self.run.status.is_final and now >= self.expires_at


class HeadlineCache:
    """The headlines of the runs of a feed, which are computed again if a run may have another one."""

    def __init__(self, data: RunDataService, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = data.runs.context
        self._data = data
        self._clock = clock
        self._positions: dict[str, HistoryPosition] = {}
        self._reader = RunReader(self._context)
        self._known: dict[str, KnownHeadline] = {}
        self._used: dict[str, KnownHeadline] = {}

    def prepare(self, runs: Sequence[RunSummary]) -> None:
        """Read the positions of runs, and together those whose headlines may have changed."""
        self._positions = self._context.store.runs.positions([run.id for run in runs]) if runs else {}
        now = self._clock()
        changed = [run for run in runs if (known := self._find(run)) is None or known.is_due(now)]
        self._reader = RunReader(self._context, changed)

    def headline(self, run: RunSummary) -> Headline:
        known, now = self._find(run), self._clock()
        if known is None or known.is_due(now):
            headline, pause = self._data.headline(run.id, self._reader.get(run.id)), MIN_HEADLINE_SECONDS
            if known is not None and headline == known.headline:
                pause = min(known.pause * 2, MAX_HEADLINE_SECONDS)
            known = KnownHeadline(run, self._positions.get(run.id), headline, pause, now + pause)
        self._used[run.id] = known
        return known.headline

    def _find(self, run: RunSummary) -> KnownHeadline | None:
        """Return the headline that was computed for this state of a run."""
        known = self._known.get(run.id)
        is_same = known is not None and (known.run, known.position) == (run, self._positions.get(run.id))
        return known if is_same else None

    def forget_unused(self) -> None:
        """Drop the headlines that were not used since the last call."""
        self._known, self._used = self._used, {}


class ListFeed:
    """The first page of a list of runs, which its followers share. `state` is None until it was read."""

    def __init__(self, lists: RunListService, run_filter: RunFilter, encoder: FeedEncoder) -> None:
        self.followers = 0
        self.state: FeedState | None = None
        self.is_broken = False
        self.published = asyncio.Event()
        self.opening = asyncio.Lock()
        self._lists = lists
        self._filter = run_filter
        self._encoder = encoder
        self._headlines = HeadlineCache(lists.data)
        self._numbers = itertools.count(1)
        self._updates: dict[int, FeedUpdate] = {}

    def read(self) -> FeedState:
        """Return the state of now, which is `state` if nothing has changed. It blocks.

        Raises:
            StoreError: the store cannot be reached.
        """
        found, cursor = self._lists.find(self._filter, self._headlines)
        self._headlines.forget_unused()
        former = EMPTY_STATE if self.state is None else self.state
        runs: dict[str, FeedRun] = {}
        for listed in found:
            run = former.runs.get(listed.summary.id)
            if run is None or run.listed != listed:
                run = FeedRun(listed, self._encoder.encode_run(listed.entry))
            runs[listed.summary.id] = run
        has_more = cursor is not None
        is_same = self.state is not None and former.runs == runs and former.has_more == has_more
        return former if is_same else FeedState(next(self._numbers), runs, has_more)

    def publish(self, state: FeedState | None = None) -> None:
        """Wake all followers, with a new state if there is one."""
        if state is not None:
            self.state = state
            self._updates.clear()
        published, self.published = self.published, asyncio.Event()
        published.set()

    def update_since(self, seen: FeedState) -> FeedUpdate | None:
        """Return what leads from a state to the newest one, or None if that is the same."""
        state = self.state
        if state is None or state is seen:
            return None
        update = self._updates.get(seen.number)
        if update is None:
            update = self._updates[seen.number] = FeedUpdate(self._difference(seen, state), state)
        return update

    def _difference(self, seen: FeedState, state: FeedState) -> bytes:
        removed = [
            self._encoder.encode_removal(run_id)
            for run_id, run in seen.runs.items()
            if run_id not in state.runs and not state.pushes_out(run)
        ]
        changed = [
            run.frame
            for run_id, run in state.runs.items()
            if run_id not in seen.runs or seen.runs[run_id].frame != run.frame
        ]
        return b"".join([*removed, *changed])


@dataclass
class TenantFeeds:
    """The feeds of a tenant by their filters, and the task that reads them."""

    feeds: dict[RunFilter, ListFeed] = field(default_factory=dict)
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class ListWatcher:
    """The reader of the lists that clients of one event loop follow. Only the event loop may use it."""

    def __init__(self, changes: ChangeSignal, encoder: FeedEncoder) -> None:
        self._changes = changes
        self._encoder = encoder
        self._tenants: dict[str, TenantFeeds] = {}
        self._threads = CapacityLimiter(MAX_THREADS)
        self._is_stopping = False
        self._has_failed = False

    @property
    def feeds(self) -> list[ListFeed]:
        """All feeds that have followers."""
        return [feed for tenant in self._tenants.values() for feed in tenant.feeds.values()]

    @contextmanager
    def follow(self, lists: RunListService, run_filter: RunFilter) -> Iterator[ListFeed]:
        """Yield the feed of a list, which the watcher refreshes meanwhile."""
        name = lists.context.tenant
        wanted = _normalize(run_filter)
        tenant = self._tenants.setdefault(name, TenantFeeds())
        feed = tenant.feeds.get(wanted)
        if feed is None or feed.is_broken:
            feed = tenant.feeds[wanted] = ListFeed(lists, wanted, self._encoder)
        feed.followers += 1
        tenant.wakeup.set()
        if tenant.task is None or tenant.task.done():
            tenant.task = asyncio.get_running_loop().create_task(
                self._watch(name, tenant), name="noetl-watch-list"
            )
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers and tenant.feeds.get(wanted) is feed:
                del tenant.feeds[wanted]
            tenant.wakeup.set()

    async def open(self, feed: ListFeed) -> None:
        """Read the first state of a feed, unless another follower has.

        Raises:
            StoreError: the store cannot be reached.
        """
        async with feed.opening:
            if feed.state is None:
                feed.publish(await to_thread.run_sync(feed.read))

    async def read(
        self, feed: ListFeed, idle_seconds: Callable[[], float]
    ) -> AsyncIterator[FeedUpdate | None]:
        """Yield the updates of a feed from the empty state on, until the process stops.

        None is yielded if there was no update for `idle_seconds()`.
        """
        seen = EMPTY_STATE
        while not (self._is_stopping or feed.is_broken):
            published = feed.published
            update = feed.update_since(seen)
            if update is not None:
                seen = update.state
                yield update
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(idle_seconds()):
                    await published.wait()
                continue
            yield None

    def stop(self) -> None:
        """Let all followers return, and refuse to wait from now on."""
        self._is_stopping = True
        for feed in self.feeds:
            feed.publish()

    async def _watch(self, name: str, tenant: TenantFeeds) -> None:
        """Refresh the feeds of a tenant for as long as there are any."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # The flag is cleared before the store is read, so a change after that is not missed.
            if not tenant.wakeup.is_set():
                with suppress(RuntimeError):  # The loop may be closed.
                    loop.call_soon_threadsafe(tenant.wakeup.set)

        pause = 0.0
        with self._changes.subscription(wake):
            while tenant.feeds and not self._is_stopping:
                tenant.wakeup.clear()
                started_at = loop.time()
                changes = [await self._refresh(feed) for feed in list(tenant.feeds.values())]
                pause = 0.0 if any(changes) else min(max(pause, 0.1) * PAUSE_GROWTH, MAX_PAUSE_SECONDS)
                followers = sum(feed.followers for feed in tenant.feeds.values())
                await asyncio.sleep(choose_gap(loop.time() - started_at, followers))
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await tenant.wakeup.wait()
        if not tenant.feeds and self._tenants.get(name) is tenant:
            del self._tenants[name]

    async def _refresh(self, feed: ListFeed) -> bool:
        """Read a feed again, and return whether it has changed."""
        if feed.state is None or feed.is_broken:
            return False  # Its first follower reads it.
        try:
            state = await to_thread.run_sync(_read_again, feed, limiter=self._threads)
        except StoreError as error:
            if not self._has_failed:
                self._has_failed = True
                _log.warning("the store failed; lists are followed again when it answers: %s", error)
            return False
        except Exception:  # noqa: BLE001  It is logged.
            # The followers of other lists must not suffer. Those of this list are cut off.
            _log.exception("a list of runs cannot be followed")
            feed.is_broken = True
            feed.publish()
            return False
        self._has_failed = False
        if state is feed.state:
            return False
        feed.publish(state)
        return True


class ListWatchers(LoopWatchers[ListWatcher]):
    """The watchers of the lists of an app, one for each event loop that runs it."""

    def __init__(self, changes: ChangeSignal, encoder: FeedEncoder) -> None:
        super().__init__(lambda: ListWatcher(changes, encoder))


def _read_again(feed: ListFeed) -> FeedState:
    """Return the state of a feed, and let no step pause for it: no request waits for this read."""
    with without_precedence():
        return feed.read()


def choose_gap(read_seconds: float, followers: int) -> float:
    """Return how long the lists of a tenant are not read after a read.

    >>> choose_gap(0.01, 10), choose_gap(1.0, 10), choose_gap(0.01, 250), choose_gap(0.01, 10_000)
    (0.5, 4.0, 2.0, 2.0)
    >>> choose_gap(60.0, 1)
    10.0
    """
    interval = min(max(followers * SECONDS_PER_FOLLOWER, MIN_INTERVAL_SECONDS), MAX_PAUSE_SECONDS)
    return max(min(read_seconds * GAP_FACTOR, MAX_REST_SECONDS), interval)


def _normalize(run_filter: RunFilter) -> RunFilter:
    """Return an equal filter that is the same for each order of its conditions."""
    statuses, tags = run_filter.statuses, run_filter.tags
    return replace(run_filter, statuses=tuple(sorted(set(statuses))), tags=tuple(sorted(set(tags))))
