"""The loop of a process that delivers notifications.

Problem: a receiver may take 15 seconds to fail, and thousands of notifications may be due for one channel.
Neither may delay the triggers of the process, other receivers and other tenants.

Algorithm: one thread has a queue of due notifications for each channel, and gives them to other threads.
`ChannelAttempts` says which channels may begin an attempt, and in what order. The queues are filled in each
poll, and when nothing in them may begin. A query of the store finds the first due notifications of many
channels (`NotificationSearch`). It leaves out channels with a queue, and tenants and channels that may begin
nothing now. So these hide no others.

A channel is crowded if a query found as many of its notifications as it finds at most. It may have more, and
hide other channels when its queue is empty. So a fill first searches for others: it leaves out crowded
channels, too, until a query finds no further one. Then another query finds the first crowded channels that
have no queue. If the search for others has found no crowded channel, the next one leaves out none of those
that had no queue. So crowded channels alternate (round-robin).

Several processes read the same notifications. Each begins at a random one of a channel, so that it meets what
another has sent when it reaches the start of the other. It then forgets its queue of the channel, whose next
ones have probably been sent, too. The next fill reads what is left.

Cost: one fill in each poll, and one after an attempt if nothing in the queues may begin. A fill has one query
of the store, and one for each crowded channel that it finds. These are MAX_QUERIES at most. So a lone channel
has two queries for MAX_DUE_OF_CHANNEL notifications. If a search for others finds nothing while attempts are
open, it has a pause of PAUSE_SECONDS. A query examines the keys of MAX_EXAMINED due notifications, and of
those that it leaves out. A process without notifications has no further threads.

Limits: a query finds MAX_DUE notifications. Of more channels, those come first whose notifications are due
longest. One that MAX_EXAMINED others precede is found when the channels of these are crowded or have queues.
With more than MAX_QUERIES crowded channels, that takes several fills. In DynamoDB, those that are left out
precede others, too. An id that an earlier version has made names no channel, and counts as one in a query.
Many of them may hide the other channels of their tenant. A notification that another process has sent or is
sending is tried in vain, for two requests to the store. With four processes and a long queue, that is every
fourth try.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from noetl.executor.engine.delivery import Courier
from noetl.executor.errors import StoreError
from noetl.executor.model.deliveries import LEASE_SECONDS
from noetl.executor.model.outbox import NotificationSearch, OutboxEntry, lane_of, postpone_entry
from noetl.executor.runtime.channel_attempts import MAX_ATTEMPTS, ChannelAttempts, Place
from noetl.executor.runtime.store_failures import FailureReasons

POLL_SECONDS = 1.0
"""How often a process reads which notifications are due."""

TABLE_POLL_SECONDS = 5.0
"""The same for a store that bills each request, while nothing is being sent."""

PAUSE_SECONDS = 0.2
"""How long a search for channels that are not crowded is not repeated after it found nothing."""

SLICE_SECONDS = 0.1
"""How long a loop that waits does not see that its process stops."""

MAX_DUE = 1000
"""How many due notifications a query finds."""

MAX_DUE_OF_CHANNEL = 20
"""How many of them are of one channel."""

MAX_EXAMINED = 10_000
"""Among how many due notifications a query searches."""

MAX_QUERIES = 8
"""How many queries a search for channels that are not crowded has."""

logger = logging.getLogger("noetl.executor")


class NotificationLoop:
    """A loop that delivers due notifications until `stopping` is set."""

    def __init__(self, courier: Courier, stopping: threading.Event) -> None:
        self._courier = courier
        self._store = courier.store
        self._stopping = stopping
        self._failures = FailureReasons("notifications are sent later")
        self._poll_seconds = POLL_SECONDS if self._store.queue.claims_in_turn else TABLE_POLL_SECONDS
        self._attempts = ChannelAttempts(2 * self._poll_seconds)
        self._ended = threading.Event()
        self._queues: dict[Place, deque[OutboxEntry]] = {}
        self._crowded: set[Place] = set()
        self._outrun: deque[Place] = deque()
        self._searched_at = self._paused_until = float("-inf")

    def run(self) -> None:
        """Deliver notifications when they are due, until the process stops. Wait for those being sent."""
        with ThreadPoolExecutor(MAX_ATTEMPTS, thread_name_prefix="noetl-send") as senders:
            while not self._stopping.is_set():
                is_sending = self._attempts.are_open()
                try:
                    is_sending = self.start_due(senders) > 0 or is_sending
                    self._failures.clear()
                except StoreError as error:
                    if not self._stopping.is_set():
                        self._failures.log(error)
                except Exception:
                    logger.exception("notifications could not be read; they are sent later")
                self._wait(is_sending=is_sending)

    def start_due(self, senders: ThreadPoolExecutor) -> int:
        """Give due notifications to threads, and return how many.

        Raises:
            StoreError: the store cannot be reached.
        """
        self._ended.clear()
        while self._outrun:
            self._queues.pop(self._outrun.popleft(), None)
        if self._stopping.is_set():
            return 0
        started = self._start_queued(senders)
        is_stale = time.monotonic() >= self._searched_at + POLL_SECONDS
        if is_stale or not started:
            self._fill_queues()
            started += self._start_queued(senders)
        return started

    def _start_queued(self, senders: ThreadPoolExecutor) -> int:
        """Give the first notifications of queues to threads, and return how many."""
        started = self._attempts.begin(self._queues)
        for place in started:
            queue = self._queues[place]
            senders.submit(self._deliver, queue.popleft(), place)
            if not queue:
                del self._queues[place]
        return len(started)

    def _fill_queues(self) -> None:
        """Read due notifications of channels that have no queue and may begin an attempt.

        Raises:
            StoreError: the store cannot be reached.
        """
        if len(self._queues) > MAX_DUE:
            self._queues.clear()
        if len(self._crowded) > MAX_EXAMINED:
            self._crowded.clear()
        tenants, channels = self._attempts.find_closed()
        channels |= self._queues.keys()
        waiting = {place for place in self._crowded - channels if place[0] not in tenants}
        # Without attempts and crowded channels, the process has nothing else to do.
        is_idle = not waiting and not self._attempts.are_open()
        if is_idle or time.monotonic() >= self._paused_until:
            found = self._search_others(tenants, channels, waiting)
            channels |= found
            if not found:
                self._paused_until = time.monotonic() + PAUSE_SECONDS
        if waiting and not self._search(tenants, channels) & self._crowded:
            self._crowded -= waiting

    def _search_others(self, tenants: set[str], channels: set[Place], waiting: set[Place]) -> set[Place]:
        """Read due notifications of channels that are not known as crowded. Return the channels found.

        If none of these is crowded, those that wait are forgotten, so that the next search finds them.

        Raises:
            StoreError: the store cannot be reached.
        """
        self._searched_at = time.monotonic()
        all_found = set[Place]()
        for _ in range(MAX_QUERIES):
            found = self._search(tenants, channels | self._crowded | all_found)
            all_found |= found
            if not found & self._crowded:
                self._crowded -= waiting
                break
            if len(self._queues) >= MAX_DUE:
                break
        return all_found

    def _search(self, tenants: set[str], channels: set[Place]) -> set[Place]:
        """Read due notifications, but none of some tenants and channels. Return the channels of those found.

        Raises:
            StoreError: the store cannot be reached.
        """
        search = NotificationSearch(
            now=self._store.clock(),
            limit=MAX_DUE,
            of_channel=MAX_DUE_OF_CHANNEL,
            oldest=MAX_EXAMINED,
            tenants=tenants,
            lanes={(tenant, lane_of(tenant, channel)) for tenant, channel in channels},
        )
        found = set[Place]()
        entries = self._store.outbox.due_notifications(search)
        for entry in entries:
            place = (entry.tenant, str(entry.record["channel"]))
            # One with the id of an earlier version is found although its channel is left out.
            if place not in channels:
                found.add(place)
                self._queues.setdefault(place, deque()).append(entry)
        for place in found:
            self._queues[place].rotate(random.randrange(len(self._queues[place])))
        # With MAX_DUE entries, each channel may have more than were found.
        most = MAX_DUE_OF_CHANNEL if len(entries) < MAX_DUE else 1
        self._crowded |= {place for place in found if len(self._queues[place]) >= most}
        return found

    def _deliver(self, entry: OutboxEntry, place: Place) -> None:
        store, has_failed = self._store, False
        try:
            if not self._courier.deliver(entry, store.clock()):
                self._outrun.append(place)
        except StoreError as error:
            has_failed = True
            if not self._stopping.is_set():
                self._failures.log(error)
        except Exception:
            # One wrong notification must not keep the others of the process from being sent.
            logger.exception("notification %s could not be sent; it is sent later", entry.id)
            with suppress(StoreError):
                store.outbox.change(entry, postpone_entry(entry, store.clock() + LEASE_SECONDS))
        finally:
            self._attempts.end(place, has_failed=has_failed)
            self._ended.set()

    def _wait(self, *, is_sending: bool) -> None:
        """Wait for the next poll. If notifications are being sent, wait until one of them is done.

        The wait then ends after POLL_SECONDS on each store, because a slow attempt leaves its place.
        """
        ends_at = time.monotonic() + (POLL_SECONDS if is_sending else self._poll_seconds)
        while not self._stopping.is_set() and (seconds := ends_at - time.monotonic()) > 0:
            if is_sending and self._ended.wait(min(seconds, SLICE_SECONDS)):
                return
            if not is_sending:
                self._stopping.wait(seconds)
