"""The loop of a process that delivers notifications.

Problem: a receiver may take 15 seconds to fail. It must delay neither the triggers of the process, nor the
notifications of other receivers and of other tenants.

Algorithm: one thread reads which notifications are due, and gives them to other threads. A channel has one of
them at a time. At most MAX_SENDERS attempts are new, and half of them belong to one tenant. After
PATIENCE_SECONDS without an answer, an attempt is not new any more, so that a dead receiver leaves its place
to the next one. A channel whose last attempt was so slow gets at most half of the places. MAX_ATTEMPTS
attempts are open, and half of them belong to one tenant. If the store fails for a notification, its channel
has a pause, which doubles each time.

Channels alternate. In a round, each channel that has a due notification begins one before any begins its
next. A full page of due notifications hides others. So the next pages leave out the channels of the pages
before, and those that have had their turn in this round. They also leave out tenants of which enough channels
are found. Tenants with fewer open attempts come first.

Cost: one query of the store in each poll. A full page costs at least one more, at most MAX_PAGES, and as many
at the end of a round. These pass over the keys of the notifications that they leave out. A process without
notifications has no further threads.

Limits: the bounds are those of one process. Ids that an earlier version has made name no channel, so their
notifications may hide others of their tenant. In DynamoDB a query passes over 10,000 notifications at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import itemgetter

from noetl.executor.engine.delivery import Courier
from noetl.executor.errors import StoreError
from noetl.executor.model.deliveries import LEASE_SECONDS
from noetl.executor.model.outbox import OutboxEntry, OutboxKind, postpone_entry
from noetl.executor.runtime.store_failures import FailureReasons

POLL_SECONDS = 1.0
"""How often a process reads which notifications are due."""

TABLE_POLL_SECONDS = 5.0
"""The same for a store that bills each request, while nothing is being sent."""

MAX_SENDERS = 8
"""How many notifications a process sends at the same time, without those that have waited for long."""

MAX_SENDERS_OF_TENANT = MAX_SENDERS // 2

PATIENCE_SECONDS = 1.0
"""After which time without an answer another notification takes the place of an attempt."""

MAX_ATTEMPTS = 64
"""How many attempts of a process have no answer, with those that have waited for long."""

MAX_ATTEMPTS_OF_TENANT = MAX_ATTEMPTS // 2

MAX_PAGES = 10
"""How many pages of due notifications are read at once to find those of other channels."""

SLICE_SECONDS = 0.1
"""How long a loop that waits does not see that its process stops."""

MAX_PAUSE_SECONDS = 60.0
"""The longest pause of a channel whose notifications the store cannot read or write."""

MAX_PAUSED = 1000
"""For how many channels pauses, slow answers and turns are kept. One that is forgotten is tried at once."""

MAX_DUE = 100
"""Number of due notifications that are read at once."""

logger = logging.getLogger("noetl.executor")


class NotificationLoop:
    """A loop that delivers due notifications until `stopping` is set."""

    def __init__(self, courier: Courier, stopping: threading.Event) -> None:
        self._courier = courier
        self._store = courier.store
        self._stopping = stopping
        self._failures = FailureReasons("notifications are sent later")
        self._poll_seconds = POLL_SECONDS if self._store.queue.claims_in_turn else TABLE_POLL_SECONDS
        self._lock = threading.Lock()
        self._freed = threading.Event()
        self._busy: dict[tuple[str, str], float] = {}
        self._slow: set[tuple[str, str]] = set()
        self._served: set[str] = set()
        self._pauses: dict[tuple[str, str], tuple[float, float]] = {}

    def run(self) -> None:
        """Deliver notifications when they are due, until the process stops. Wait for those being sent."""
        with ThreadPoolExecutor(MAX_ATTEMPTS, thread_name_prefix="noetl-send") as senders:
            while not self._stopping.is_set():
                try:
                    started = self.start_due(senders)
                    self._failures.clear()
                except StoreError as error:
                    started = 0
                    if not self._stopping.is_set():
                        self._failures.log(error)
                except Exception:
                    started = 0
                    logger.exception("notifications could not be read; they are sent later")
                self._wait(started)

    def start_due(self, senders: ThreadPoolExecutor) -> int:
        """Give due notifications to threads, and return how many.

        Raises:
            StoreError: the store cannot be reached.
        """
        self._freed.clear()
        due = self._find_due()
        lanes = {entry.lane for entry in due}
        if lanes <= self._served or len(self._served) > MAX_PAUSED:
            has_hidden = len(due) >= MAX_DUE and not self._served <= lanes
            self._served.clear()
            due = self._find_due() if has_hidden else due
        return sum(self._start(senders, entry) for entry in self._in_turn(due))

    def _in_turn(self, due: Sequence[OutboxEntry]) -> list[OutboxEntry]:
        """Return the first due notification of each channel. Channels alternate, and so do tenants."""
        with self._lock:
            attempts = Counter(tenant for tenant, _ in self._busy)
        places = list[tuple[bool, int, OutboxEntry]]()
        firsts = dict[tuple[str, str], OutboxEntry]()
        for entry in due:
            firsts.setdefault(_place_of(entry), entry)
        for entry in firsts.values():
            is_served = entry.lane in self._served
            places.append((is_served, attempts[entry.tenant], entry))
            attempts[entry.tenant] += not is_served
        return [entry for _, _, entry in sorted(places, key=itemgetter(0, 1))]

    def _find_due(self) -> list[OutboxEntry]:
        """Return due notifications of all channels that have some, as far as MAX_PAGES pages contain them.

        Raises:
            StoreError: the store cannot be reached.
        """
        entries: list[OutboxEntry] = []
        tenants, lanes = self._full_tenants(), set[str]()
        waiting = defaultdict[str, set[str]](set)
        for _ in range(MAX_PAGES):
            if self._stopping.is_set() or self._is_full():
                break
            now = self._store.clock()
            page = self._store.outbox.due([OutboxKind.NOTIFICATION], now, MAX_DUE, tenants, lanes)
            entries += page
            if len(page) < MAX_DUE:
                break
            for entry in page:
                if entry.lane not in self._served:
                    waiting[entry.tenant].add(entry.lane)
            lanes |= {entry.lane for entry in page} | self._served
            tenants |= {name for name, found in waiting.items() if len(found) >= MAX_SENDERS_OF_TENANT}
        return entries

    def _full_tenants(self) -> set[str]:
        """Return the tenants for which no further notification begins."""
        with self._lock:
            return {tenant for tenant, _ in self._busy if not self._has_place(tenant)}

    def _is_full(self) -> bool:
        """Return whether no tenant may begin a further notification."""
        with self._lock:
            return not self._has_place(None)

    def _has_place(self, tenant: str | None, *, is_slow: bool = False) -> bool:
        """Return whether another attempt may begin, of this tenant if one is given.

        One of a slow channel begins only while half of the places for new attempts are free.
        """
        begun_after = time.monotonic() - PATIENCE_SECONDS
        new = [place[0] for place, begun_at in self._busy.items() if begun_at > begun_after]
        divisor = 2 if is_slow else 1
        if len(self._busy) >= MAX_ATTEMPTS or len(new) >= MAX_SENDERS // divisor:
            return False
        if tenant is None:
            return True
        count = sum(place[0] == tenant for place in self._busy)
        return count < MAX_ATTEMPTS_OF_TENANT and new.count(tenant) < MAX_SENDERS_OF_TENANT // divisor

    def _start(self, senders: ThreadPoolExecutor, entry: OutboxEntry) -> bool:
        """Give a notification to a thread. Return False if its channel or its tenant has enough of them.

        Unless its tenant has, the channel has had its turn.
        """
        place = _place_of(entry)
        with self._lock:
            if not self._has_place(entry.tenant):
                return False
            self._served.add(entry.lane)
            until, _ = self._pauses.get(place, (0.0, 0.0))
            if until > time.monotonic() or place in self._busy:
                return False
            if place in self._slow and not self._has_place(entry.tenant, is_slow=True):
                return False
            self._busy[place] = time.monotonic()
        senders.submit(self._deliver, entry, place)
        return True

    def _deliver(self, entry: OutboxEntry, place: tuple[str, str]) -> None:
        store = self._store
        try:
            self._courier.deliver(entry, store.clock())
            self._pauses.pop(place, None)
        except StoreError as error:
            self._pause(place)
            if not self._stopping.is_set():
                self._failures.log(error)
        except Exception:
            # One wrong notification must not keep the others of the process from being sent.
            logger.exception("notification %s could not be sent; it is sent later", entry.id)
            with suppress(StoreError):
                store.outbox.change(entry, postpone_entry(entry, store.clock() + LEASE_SECONDS))
        finally:
            self._free(place)

    def _free(self, place: tuple[str, str]) -> None:
        """Note that an attempt of a channel has ended, and whether it was slow."""
        with self._lock:
            seconds = time.monotonic() - self._busy.pop(place)
            if seconds <= PATIENCE_SECONDS:
                self._slow.discard(place)
            else:
                if len(self._slow) >= MAX_PAUSED:
                    self._slow.clear()
                self._slow.add(place)
        self._freed.set()

    def _pause(self, place: tuple[str, str]) -> None:
        """Start nothing of a channel for a time, which doubles with each failure of the store."""
        with self._lock:
            _, seconds = self._pauses.get(place, (0.0, 0.0))
            seconds = min(2 * seconds, MAX_PAUSE_SECONDS) if seconds else 2 * self._poll_seconds
            if len(self._pauses) >= MAX_PAUSED:
                self._pauses.clear()
            self._pauses[place] = (time.monotonic() + seconds, seconds)

    def _wait(self, started: int) -> None:
        """Wait for the next poll. If notifications are being sent, wait until one of them is done.

        The wait then ends after POLL_SECONDS on each store, because a slow attempt leaves its place.
        """
        is_sending = started > 0 or bool(self._busy)
        ends_at = time.monotonic() + (POLL_SECONDS if is_sending else self._poll_seconds)
        while not self._stopping.is_set() and (seconds := ends_at - time.monotonic()) > 0:
            if is_sending and self._freed.wait(min(seconds, SLICE_SECONDS)):
                return
            if not is_sending:
                self._stopping.wait(seconds)


def _place_of(entry: OutboxEntry) -> tuple[str, str]:
    """Return the tenant and the channel of a notification."""
    return entry.tenant, str(entry.record["channel"])
