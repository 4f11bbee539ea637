"""The loop of a process that delivers notifications.

Problem: a receiver may take 15 seconds to fail. It must delay neither the triggers of the process, nor the
notifications of other receivers and of other tenants.

Algorithm: one thread reads which notifications are due, and gives them to other threads. A channel has one of
them at a time. At most MAX_SENDERS attempts are new, and half of them belong to one tenant. After
PATIENCE_SECONDS without an answer, an attempt is not new any more, so that a dead receiver leaves its place
to the next one. A channel whose last attempt was so slow gets at most half of the places. MAX_ATTEMPTS
attempts are open, and half of them belong to one tenant. If the store fails for a notification, its channel
has a pause, which doubles each time.

A full page of due notifications may be of channels that wait for an answer. If the wait is longer than
PATIENCE_SECONDS, these move by BUSY_SECONDS, behind those of other channels. The notification of the attempt
never moves.

Cost: one query of the store in each poll. A full page costs one more, with at most MAX_DUE writes, at most
MAX_PAGES times. A process without notifications has no further threads.

Limits: the bounds are those of one process. A channel whose receiver answers within PATIENCE_SECONDS may hide
other channels of its tenant while it has more than MAX_DUE due notifications.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from noetl.executor.engine.delivery import Courier
from noetl.executor.errors import StoreError
from noetl.executor.model.deliveries import LEASE_SECONDS
from noetl.executor.model.outbox import OutboxEntry, OutboxKind, postpone_entry
from noetl.executor.runtime.store_failures import FailureReasons
from noetl.planner.frozen import frozen

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

BUSY_SECONDS = 5.0
"""By how much a notification moves whose channel waits for an answer, if it hides others."""

MAX_PAGES = 3
"""How many pages of due notifications are read in a poll to find those of other channels."""

SLICE_SECONDS = 0.1
"""How long a loop that waits does not see that its process stops."""

MAX_PAUSE_SECONDS = 60.0
"""The longest pause of a channel whose notifications the store cannot read or write."""

MAX_PAUSED = 1000
"""For how many channels pauses and slow answers are kept. One that is forgotten is tried at once."""

MAX_DUE = 100
"""Number of due notifications that are read at once."""

logger = logging.getLogger("noetl.executor")


@frozen
class BusyChannel:
    """The open attempt of a channel: the notification, and when the attempt has begun."""

    entry_id: str
    begun_at: float


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
        self._busy: dict[tuple[str, str], BusyChannel] = {}
        self._slow: set[tuple[str, str]] = set()
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

        A full page hides those of other channels and of other tenants, which are read without it.

        Raises:
            StoreError: the store cannot be reached.
        """
        self._freed.clear()
        passed_over: set[str] = set()
        count = pages = 0
        while not self._stopping.is_set():
            passed_over |= self._full_tenants()
            due = self._store.outbox.due([OutboxKind.NOTIFICATION], self._store.clock(), MAX_DUE, passed_over)
            count += sum(self._start(senders, entry) for entry in due)
            if len(due) < MAX_DUE or self._is_full():
                break
            pages += 1
            if pages == MAX_PAGES or not self._move_busy(due):
                pages = 0
                passed_over |= {entry.tenant for entry in due}
        return count

    def _move_busy(self, due: Sequence[OutboxEntry]) -> bool:
        """Let notifications whose channels wait for an answer be due later. Return whether there were any.

        A channel that answers quickly is free again soon. The notification of an attempt does not move,
        because the attempt may not have written it yet.

        Raises:
            StoreError: the store cannot be reached.
        """
        begun_after = time.monotonic() - PATIENCE_SECONDS
        with self._lock:
            waits = {
                place: busy.entry_id for place, busy in self._busy.items() if busy.begun_at <= begun_after
            }
        waiting = [entry for entry in due if waits.get(_place_of(entry), entry.id) != entry.id]
        until = self._store.clock() + BUSY_SECONDS
        moved = [self._store.outbox.change(entry, postpone_entry(entry, until)) for entry in waiting]
        return any(moved)

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
        new = [place[0] for place, busy in self._busy.items() if busy.begun_at > begun_after]
        divisor = 2 if is_slow else 1
        if len(self._busy) >= MAX_ATTEMPTS or len(new) >= MAX_SENDERS // divisor:
            return False
        if tenant is None:
            return True
        count = sum(place[0] == tenant for place in self._busy)
        return count < MAX_ATTEMPTS_OF_TENANT and new.count(tenant) < MAX_SENDERS_OF_TENANT // divisor

    def _start(self, senders: ThreadPoolExecutor, entry: OutboxEntry) -> bool:
        """Give a notification to a thread. Return False if its channel or its tenant has enough of them."""
        place = _place_of(entry)
        with self._lock:
            until, _ = self._pauses.get(place, (0.0, 0.0))
            if until > time.monotonic() or place in self._busy:
                return False
            if not self._has_place(entry.tenant, is_slow=place in self._slow):
                return False
            self._busy[place] = BusyChannel(entry.id, time.monotonic())
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
            seconds = time.monotonic() - self._busy.pop(place).begun_at
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
