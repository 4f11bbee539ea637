"""One reader for all clients of a process that wait for events or for the end of a run.

Problem: hundreds of clients follow runs. A poll for each client costs a core, and a thread for each client
takes all threads from other requests.

Algorithm: publish and subscribe. One task queries the positions of all followed runs together, whenever the
store signals a change, and otherwise after a growing pause. For each tenant, another task reads the new
events of its runs that have moved, once for all listeners of a run. So no tenant waits for the reads of
another. A feed keeps its latest events in a ring buffer. Each listener has a place of its own in it (Thompson
et al., "Disruptor", 2011). So no listener waits for another. For a listener
whose place has left the buffer, the store is read until it is in the buffer again. Listeners that need the
same events at the same time share this read. It uses the credit of the tenant, as other long reads do.

Cost: one query of positions for a change or a pause, whatever the number of clients. One query of events for
each run that has moved. Queries take at most a fifth of the time, and reads of a tenant a fifth on at most
READERS threads. Between two of them are at most MAX_REST_SECONDS. Queries are rarer with many followers, and
steps that work do not pause for them. Earlier events are read on at most EARLIER_READERS threads of a tenant.

Limits: other processes may change a run without a signal, which is noticed after MAX_PAUSE_SECONDS. A store
that does not count the entries of a history is asked for events after a pause that grows for each run.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from noetl.api.service.loop_watchers import LoopWatchers
from noetl.api.service.tenant_limiters import TenantLimiters
from noetl.executor.errors import StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.run import HistoryPosition
from noetl.executor.precedence import wait_for_slice, without_precedence, working_for
from noetl.executor.stores.cursors import BEFORE_ALL_EVENTS, EventPlace, read_event_id, write_event_id
from noetl.executor.stores.interface import Store

READERS = 2
"""Threads of a tenant that read new events. The threads that answer requests are others."""

EARLIER_READERS = 2
"""Threads of a tenant that read events which have left the buffer of their run."""

MIN_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 0.5
MAX_READ_PAUSE_SECONDS = 2.0
"""Longest pause between two reads of the events of one run, in a store that does not count them."""

PAUSE_GROWTH = 1.5
MIN_GAP_SECONDS = 0.005
SECONDS_PER_FOLLOWER = 0.0004
MAX_GAP_SECONDS = 0.1
GAP_FACTOR = 4.0
"""A query that took t seconds is followed by GAP_FACTOR * t seconds without one, as `choose_gap` says."""

MAX_REST_SECONDS = 10.0
"""Longest time without a query, however long one has waited for a store that fails over."""

EVENTS_PER_READ = 200
MAX_BUFFERED_EVENTS = 500
MAX_BUFFERED_BYTES = 128 * 1024
"""Size of the buffer of a feed."""

_log = logging.getLogger("noetl.api")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EncodedEvent:
    """An event as it is sent to every listener, with its place in the history."""

    place: EventPlace
    frame: bytes


@dataclass
class RunFeed:
    """The state that the followers of a run share: its position, and a buffer of its latest events.

    `start` is the place before the buffer, or None until a listener has read all earlier events. `position`
    is None until the store was queried. A feed is complete if the run has ended and the buffer holds its end.
    `reads` are those of earlier events that have begun, by the place after which they read.
    """

    run_id: str
    tenant: str
    followers: int = 0
    position: HistoryPosition | None = None
    start: EventPlace | None = None
    events: list[EncodedEvent] = field(default_factory=list)
    buffered_bytes: int = 0
    is_complete: bool = False
    is_deleted: bool = False
    read_pause: float = MIN_PAUSE_SECONDS
    read_at: float = 0.0
    reads: dict[EventPlace, asyncio.Task[list[EncodedEvent]]] = field(default_factory=dict)
    published: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_ended(self) -> bool:
        """End of the run: it has a final status, or was deleted."""
        return self.is_deleted or (self.position is not None and self.position.status.is_final)

    def is_current(self, position: HistoryPosition | None, now: float) -> bool:
        """Return whether the run is where it was, so that its events need not be read."""
        if position is None or position != self.position:
            return False
        return position.entry is not None or now < self.read_at

    @property
    def last_place(self) -> EventPlace | None:
        """Place of the latest event that the feed has read."""
        return self.events[-1].place if self.events else self.start

    def events_after(self, place: EventPlace) -> list[EncodedEvent] | None:
        """Return the buffered events after a place, or None if the buffer begins later."""
        if self.start is None or place < self.start:
            return None
        return self.events[bisect_right(self.events, place, key=lambda event: event.place) :]

    def append(self, events: Sequence[EncodedEvent]) -> None:
        """Add new events to the buffer, and drop the oldest that do not fit."""
        self.events.extend(events)
        self.buffered_bytes += sum(len(event.frame) for event in events)
        count = 0
        while self.buffered_bytes > MAX_BUFFERED_BYTES or len(self.events) - count > MAX_BUFFERED_EVENTS:
            self.buffered_bytes -= len(self.events[count].frame)
            self.start = self.events[count].place
            count += 1
        del self.events[:count]

    def publish(self) -> None:
        """Wake all followers."""
        published, self.published = self.published, asyncio.Event()
        published.set()


@dataclass
class TenantReads:
    """The reads of the new events of a tenant: their task, and until when there are no others after it."""

    task: asyncio.Task[None]
    rests_until: float = 0.0

    def block(self, now: float) -> bool:
        """Return whether no other reads of the tenant may begin now."""
        return not self.task.done() or now < self.rests_until


class RunWatcher:
    """The reader of the runs that clients of one event loop follow. `encode` returns the frame of an event.

    Only the event loop may use it.
    """

    def __init__(self, store: Store, encode: Callable[[Event], bytes]) -> None:
        self._store = store
        self._encode = encode
        self._feeds: dict[str, RunFeed] = {}
        self._task: asyncio.Task[None] | None = None
        self._wakeup = asyncio.Event()
        self._query_thread = CapacityLimiter(1)
        self._readers = TenantLimiters(READERS)
        self._earlier_readers = TenantLimiters(EARLIER_READERS)
        self._reads: dict[str, TenantReads] = {}
        self._has_moved = False
        self._is_stopping = False
        self._has_failed = False

    @contextmanager
    def follow(self, run_id: str, tenant: str) -> Iterator[RunFeed]:
        """Yield the feed of a run of a tenant, which the watcher refreshes meanwhile."""
        feed = self._feeds.get(run_id)
        if feed is None or feed.is_complete or feed.is_deleted:
            feed = self._feeds[run_id] = RunFeed(run_id, tenant)
        elif feed.has_ended:
            feed.position = None  # The run may have been resumed since.
        feed.followers += 1
        self._wakeup.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="noetl-watch")
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers and self._feeds.get(run_id) is feed:
                del self._feeds[run_id]
            self._wakeup.set()

    async def wait_until_ended(self, run_id: str, tenant: str, seconds: float) -> bool:
        """Return whether a run has ended: once it has, after `seconds`, or when the process stops."""
        with self.follow(run_id, tenant) as feed:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not feed.has_ended and not self._is_stopping:
                        await feed.published.wait()
            return feed.has_ended

    async def read(
        self, feed: RunFeed, after: EventPlace, idle_seconds: Callable[[], float]
    ) -> AsyncIterator[list[EncodedEvent]]:
        """Yield events of a run after a place, in batches, until its end or that of the process.

        A batch is empty if there was no event for `idle_seconds()`.
        """
        place = after
        while not self._is_stopping:
            published = feed.published
            batch = feed.events_after(place)
            if batch is None:
                batch = await self._read_earlier(feed, place)
                if not batch and feed.is_deleted:
                    return
            elif not batch:
                if feed.is_complete or feed.is_deleted:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(idle_seconds()):
                        await published.wait()
                    continue
                yield []
                continue
            if batch:
                place = batch[-1].place
                yield batch

    @property
    def is_stopping(self) -> bool:
        """True if the process stops, so that nothing waits any more."""
        return self._is_stopping

    def stop(self) -> None:
        """Let all followers return, and refuse to wait from now on."""
        self._is_stopping = True
        for feed in self._feeds.values():
            feed.publish()

    async def _read_earlier(self, feed: RunFeed, place: EventPlace) -> list[EncodedEvent]:
        """Return events of the store after a place. Listeners that want the same ones share a read."""
        read = feed.reads.get(place)
        if read is None:
            read = asyncio.create_task(self._read_store(feed, place), name="noetl-watch-earlier")
            feed.reads[place] = read
            read.add_done_callback(lambda _: feed.reads.pop(place))
        return await asyncio.shield(read)  # A listener that leaves must not stop the read of the others.

    async def _read_store(self, feed: RunFeed, place: EventPlace) -> list[EncodedEvent]:
        """Return events of the store after a place. If there are no more, the buffer may begin there."""

        def read() -> list[EncodedEvent]:
            with working_for(feed.tenant):
                return self._read_events(feed.run_id, place)

        try:
            events = await to_thread.run_sync(read, limiter=self._earlier_readers.find(feed.tenant))
        except StoreError as error:
            self._record_failure(error)
            await asyncio.sleep(MAX_PAUSE_SECONDS)
            return []
        if len(events) < EVENTS_PER_READ and feed.start is None:
            feed.start = events[-1].place if events else place
            # Events may have been written since, and so that the feed reads them it must ask again.
            feed.position = None
            self._wakeup.set()
        return events

    def _read_events(self, run_id: str, after: EventPlace) -> list[EncodedEvent]:
        cursor = None if after == BEFORE_ALL_EVENTS else write_event_id(run_id, after)
        encoded = list[EncodedEvent]()
        for event in self._store.runs.events(run_id, cursor, EVENTS_PER_READ):
            wait_for_slice()
            encoded.append(EncodedEvent(read_event_id(run_id, event.id), self._encode(event)))
        return encoded

    async def _watch(self) -> None:
        """Refresh the feeds for as long as there are any."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # The flag is cleared before the store is asked, so a change after that is not missed.
            if not self._wakeup.is_set():
                with suppress(RuntimeError):  # The loop may be closed.
                    loop.call_soon_threadsafe(self._wakeup.set)

        pause = MIN_PAUSE_SECONDS
        with self._store.changes.subscription(wake):
            while self._feeds and not self._is_stopping:
                self._wakeup.clear()
                started_at = loop.time()
                has_moved = await self._refresh(loop.time)
                pause = MIN_PAUSE_SECONDS if has_moved else min(pause * PAUSE_GROWTH, MAX_PAUSE_SECONDS)
                followers = sum(feed.followers for feed in self._feeds.values())
                await asyncio.sleep(choose_gap(loop.time() - started_at, followers))
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wakeup.wait()

    async def _refresh(self, clock: Callable[[], float]) -> bool:
        """Let the feeds be updated that are not current. Return whether a run has moved or must be read."""
        # A client that does not read holds the feed of a run that is deleted. There is nothing more to find.
        feeds = [feed for feed in self._feeds.values() if not feed.is_deleted]
        has_moved, self._has_moved = self._has_moved, False
        if not feeds:
            return False
        try:
            positions = await to_thread.run_sync(
                _read_unhurried,
                self._store.runs.positions,
                [feed.run_id for feed in feeds],
                limiter=self._query_thread,
            )
        except Exception as error:  # noqa: BLE001  It is logged.
            # Followers wait until the store answers again.
            self._record_failure(error)
            return False
        self._has_failed = False
        now = clock()
        moved: dict[str, list[tuple[RunFeed, HistoryPosition | None]]] = {}
        for feed in feeds:
            position = positions.get(feed.run_id)
            if not feed.is_current(position, now):
                moved.setdefault(feed.tenant, []).append((feed, position))
        self._reads = {tenant: reads for tenant, reads in self._reads.items() if reads.block(now)}
        for tenant, found in moved.items():
            if tenant in self._reads:
                has_moved = True
                continue
            refresh = self._refresh_tenant(tenant, found, clock)
            self._reads[tenant] = TenantReads(asyncio.create_task(refresh, name="noetl-watch-tenant"))
        return has_moved

    async def _refresh_tenant(
        self,
        tenant: str,
        found: Sequence[tuple[RunFeed, HistoryPosition | None]],
        clock: Callable[[], float],
    ) -> None:
        """Update feeds of a tenant from the store. Then the tenant rests."""
        started_at = clock()
        outcomes = await asyncio.gather(
            *(self._refresh_feed(feed, position, clock) for feed, position in found), return_exceptions=True
        )
        for (feed, _), outcome in zip(found, outcomes, strict=True):
            if isinstance(outcome, StoreError):
                self._record_failure(outcome)
            elif isinstance(outcome, Exception):
                # The followers of other runs must not suffer. Those of this run are cut off.
                _log.error("run %s cannot be followed", feed.run_id, exc_info=outcome)
                feed.is_deleted = True
                feed.publish()
            elif isinstance(outcome, BaseException):
                raise outcome
        followers = sum(feed.followers for feed, _ in found)
        self._reads[tenant].rests_until = clock() + choose_gap(clock() - started_at, followers)
        if True in outcomes:
            self._has_moved = True
            self._wakeup.set()

    async def _refresh_feed(
        self, feed: RunFeed, position: HistoryPosition | None, clock: Callable[[], float]
    ) -> bool:
        """Read the new events of a run that may have any, and return whether it has moved."""
        if position is None:
            feed.is_deleted = True
            feed.publish()
            return True
        # The position is older than the events. So if it is the end of the run, they are complete.
        has_moved = position != feed.position
        while feed.start is not None and feed.last_place is not None:
            events = await to_thread.run_sync(
                _read_unhurried,
                self._read_events,
                feed.run_id,
                feed.last_place,
                limiter=self._readers.find(feed.tenant),
            )
            feed.append(events)
            has_moved = has_moved or bool(events)
            if len(events) < EVENTS_PER_READ:
                feed.is_complete = position.status.is_final
                break
        feed.read_pause = (
            MIN_PAUSE_SECONDS if has_moved else min(feed.read_pause * PAUSE_GROWTH, MAX_READ_PAUSE_SECONDS)
        )
        feed.read_at = clock() + feed.read_pause
        feed.position = position
        if has_moved:
            feed.publish()
        return has_moved

    def _record_failure(self, error: Exception) -> None:
        """Log the first failure of several, with a traceback if the store does not expect it."""
        if not self._has_failed:
            self._has_failed = True
            traceback = None if isinstance(error, StoreError) else error
            message = "the store failed; runs are followed again when it answers: %s"
            _log.warning(message, error, exc_info=traceback)


def choose_gap(query_seconds: float, followers: int) -> float:
    """Return how long no positions are queried after a query.

    >>> choose_gap(0.001, 1), choose_gap(0.1, 1), choose_gap(0.001, 250), choose_gap(0.001, 10_000)
    (0.005, 0.4, 0.1, 0.1)
    >>> choose_gap(60.0, 1)
    10.0
    """
    interval = min(max(followers * SECONDS_PER_FOLLOWER, MIN_GAP_SECONDS), MAX_GAP_SECONDS)
    return max(min(query_seconds * GAP_FACTOR, MAX_REST_SECONDS), interval)


def _read_unhurried(function: Callable[..., T], *arguments: object) -> T:
    """Return function(*arguments), which reads the store, and let no step pause for it."""
    with without_precedence():
        return function(*arguments)


class RunWatchers(LoopWatchers[RunWatcher]):
    """The watchers of an app, one for each event loop that runs it."""

    def __init__(self, store: Store, encode: Callable[[Event], bytes]) -> None:
        super().__init__(lambda: RunWatcher(store, encode))
