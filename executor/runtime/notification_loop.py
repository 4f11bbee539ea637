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
next. A full page of due notifications hides others. So a search reads further pages. They leave out the
channels of the pages before, and those that have had their turn in this round. They also leave out tenants of
which enough channels are found. What a search finds is remembered for SEARCH_SECONDS. Tenants with fewer open
attempts come first.

Cost: one query of the store in each poll. If its page is full, a search adds at least one, at most MAX_PAGES.
These pass over the keys of the notifications that they leave out. Within SEARCH_SECONDS the next search reads
only what is not remembered, and only if places are free for it. A process without notifications has no
further threads.

Limits: the bounds are those of one process. Ids that an earlier version has made name no channel, so their
notifications may hide others of their tenant. So may those of a channel with the same lane, but only of their
tenant. A channel that a full page hides may begin SEARCH_SECONDS later. In DynamoDB a query passes over
10,000 notifications at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import itemgetter

from noetl.executor.engine.delivery import Courier
from noetl.executor.errors import StoreError
from noetl.executor.model.deliveries import LEASE_SECONDS
from noetl.executor.model.outbox import OutboxEntry, OutboxKind, lane_of, postpone_entry
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

SEARCH_SECONDS = 1.0
"""How long a process remembers what further pages have contained."""

MAX_REMEMBERED = 1000
"""With how many remembered notifications a process forgets them, and searches again."""

SLICE_SECONDS = 0.1
"""How long a loop that waits does not see that its process stops."""

MAX_PAUSE_SECONDS = 60.0
"""The longest pause of a channel whose notifications the store cannot read or write."""

MAX_PAUSED = 1000
"""For how many channels pauses, slow answers and turns are kept. One that is forgotten is tried at once."""

MAX_DUE = 100
"""Number of due notifications that are read at once."""

logger = logging.getLogger("noetl.executor")


class _Findings:
    """The contents of further pages of due notifications, until `ends_at`.

    Attributes:
        entries: notifications that have not begun.
        lanes: pairs of tenant and lane that the next search leaves out.
        channels: the channels that were found, with those of the first page.
        unread: channels that may have more due notifications than `entries` has.
        hiding: tenants with many ids of an earlier version, which the next search leaves out.
        left_out: tenants of which the next search may find further channels.
        is_cut: whether the next search may find further tenants.
        has_skipped: whether channels were left out because they had had their turn.
    """

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.entries: list[OutboxEntry] = []
        self.lanes: set[tuple[str, str]] = set()
        self.channels: set[tuple[str, str]] = set()
        self.unread: set[tuple[str, str]] = set()
        self.hiding: set[str] = set()
        self.left_out: set[str] = set()
        self.is_cut = True
        self.has_skipped = False

    def add(self, page: Sequence[OutboxEntry]) -> None:
        """Add a page. A full one may hide others of its channels, and its lanes are left out afterwards.

        Only an id of an earlier version is of a channel that was left out.
        """
        found = [entry for entry in page if _place_of(entry) not in self.channels]
        if len(page) >= MAX_DUE:
            self.unread |= _places_of(found)
            if 2 * len(found) < len(page):
                self.hiding |= {entry.tenant for entry in page if _place_of(entry) in self.channels}
        self.entries += found
        self.channels |= _places_of(found)
        self.lanes |= {(entry.tenant, entry.lane) for entry in page}

    def reopen(self, due: Iterable[OutboxEntry]) -> bool:
        """Let the next search find channels again that have no notification in `due` any more.

        Return False if no channel can have one that was left out.
        """
        emptied = self.unread - _places_of(due)
        self.unread -= emptied
        self.channels -= emptied
        self.lanes -= {_lane_at(place) for place in emptied}
        is_reopened = self.has_skipped or bool(emptied)
        self.is_cut = self.is_cut or is_reopened
        return is_reopened

    def remove(self, entries: Iterable[OutboxEntry]) -> None:
        """Remove notifications that have begun."""
        begun = {(entry.tenant, entry.id) for entry in entries}
        self.entries = [entry for entry in self.entries if (entry.tenant, entry.id) not in begun]


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
        self._served: set[tuple[str, str]] = set()
        self._findings = _Findings(float("-inf"))
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
        if self._stopping.is_set() or self._is_full():
            return 0
        due = self._find_due()
        if _places_of(due) <= self._served or len(self._served) > MAX_PAUSED:
            self._served.clear()
            if self._findings.reopen(due):
                due = self._find_due()
        started = [entry for entry in self._in_turn(due) if self._start(senders, entry)]
        self._findings.remove(started)
        return len(started)

    def _in_turn(self, due: Sequence[OutboxEntry]) -> list[OutboxEntry]:
        """Return the first due notification of each channel. Channels alternate, and so do tenants."""
        with self._lock:
            attempts = Counter(tenant for tenant, _ in self._busy)
        places = list[tuple[bool, int, OutboxEntry]]()
        firsts = dict[tuple[str, str], OutboxEntry]()
        for entry in due:
            firsts.setdefault(_place_of(entry), entry)
        for entry in firsts.values():
            is_served = _place_of(entry) in self._served
            places.append((is_served, attempts[entry.tenant], entry))
            attempts[entry.tenant] += not is_served
        return [entry for _, _, entry in sorted(places, key=itemgetter(0, 1))]

    def _find_due(self) -> list[OutboxEntry]:
        """Return the first page of due notifications, and those of channels that it hides.

        Raises:
            StoreError: the store cannot be reached.
        """
        full = self._full_tenants()
        first = self._read_page(full, set())
        is_stale = time.monotonic() >= self._findings.ends_at
        if is_stale or len(self._findings.entries) > MAX_REMEMBERED:
            self._findings = _Findings(time.monotonic() + SEARCH_SECONDS)
        if len(first) >= MAX_DUE and self._needs_search(first, full):
            self._search(first, full)
        return first + self._findings.entries

    def _read_page(self, tenants: set[str], lanes: set[tuple[str, str]]) -> list[OutboxEntry]:
        kinds, now = [OutboxKind.NOTIFICATION], self._store.clock()
        return self._store.outbox.due(kinds, now, MAX_DUE, tenants, lanes)

    def _needs_search(self, first: Sequence[OutboxEntry], full: set[str]) -> bool:
        """Return whether a search may find channels for which places are free."""
        found = self._findings
        waiting = self._count_waiting(first)
        if found.is_cut:
            counts = [
                min(count, MAX_SENDERS_OF_TENANT) for name, count in waiting.items() if name not in full
            ]
            return sum(counts) < MAX_SENDERS
        with self._lock:
            attempts = Counter(tenant for tenant, _ in self._busy)
        free = {name: max(MAX_SENDERS_OF_TENANT - attempts[name], 1) for name in found.left_out - full}
        return any(waiting[name] < count for name, count in free.items())

    def _count_waiting(self, first: Sequence[OutboxEntry]) -> Counter[str]:
        """Return of how many channels of each tenant a notification is known and may begin in this round."""
        places = _places_of(first) | _places_of(self._findings.entries)
        return Counter(tenant for tenant, _ in places - self._served)

    def _search(self, first: Sequence[OutboxEntry], full: set[str]) -> None:
        """Read further pages of due notifications, as far as they may contain channels that are not known.

        Raises:
            StoreError: the store cannot be reached.
        """
        found = self._findings
        found.channels |= _places_of(first)
        found.lanes |= {(entry.tenant, entry.lane) for entry in first}
        found.has_skipped = not self._served <= found.channels
        found.is_cut = True
        skipped = {_lane_at(place) for place in self._served}
        for _ in range(MAX_PAGES - 1):
            if self._stopping.is_set():
                return
            waiting = self._count_waiting(first)
            enough = {name for name, count in waiting.items() if count >= MAX_SENDERS_OF_TENANT}
            found.left_out = (full | enough) - found.hiding
            page = self._read_page(found.left_out | found.hiding, found.lanes | skipped)
            found.add(page)
            if len(page) < MAX_DUE:
                found.is_cut = False
                return

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
            self._served.add(place)
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


def _places_of(entries: Iterable[OutboxEntry]) -> set[tuple[str, str]]:
    return set(map(_place_of, entries))


def _lane_at(place: tuple[str, str]) -> tuple[str, str]:
    """Return the tenant and the lane of a channel."""
    return place[0], lane_of(*place)
