"""The loop of a process that delivers notifications.

Problem: a receiver may take 15 seconds to fail. It must delay neither the triggers of the process, nor the
notifications of other receivers and of other tenants.

Algorithm: one thread reads which notifications are due, and gives them to MAX_SENDERS threads. A channel has
one of them at a time. A tenant has at most half of them, so a tenant with many dead receivers leaves the
others to the rest. If the store fails for a notification, its channel has a pause, which doubles each time.

Cost: one query of the store in each POLL_SECONDS. A process without notifications has no further threads.

Limits: the bounds are those of one process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from noetl.executor.engine.delivery import Courier
from noetl.executor.errors import StoreError
from noetl.executor.model.deliveries import LEASE_SECONDS
from noetl.executor.model.outbox import OutboxEntry, OutboxKind, postpone_entry
from noetl.executor.runtime.store_failures import FailureReasons

POLL_SECONDS = 1.0
"""How often a process reads which notifications are due."""

TABLE_POLL_SECONDS = 5.0
"""The same for a store that bills each request."""

MAX_SENDERS = 8
"""How many notifications a process sends at the same time."""

MAX_SENDERS_OF_TENANT = MAX_SENDERS // 2

SLICE_SECONDS = 0.1
"""How long a loop that waits does not see that its process stops."""

MAX_PAUSE_SECONDS = 60.0
"""The longest pause of a channel whose notifications the store cannot read or write."""

MAX_PAUSED = 1000
"""For how many channels pauses are kept. One that is forgotten is tried at once."""

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
        self._busy: set[tuple[str, str]] = set()
        self._pauses: dict[tuple[str, str], tuple[float, float]] = {}

    def run(self) -> None:
        """Deliver notifications when they are due, until the process stops. Wait for those being sent."""
        with ThreadPoolExecutor(MAX_SENDERS, thread_name_prefix="noetl-send") as senders:
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

        A page that begins no further notification hides those of other tenants, which are read without it.

        Raises:
            StoreError: the store cannot be reached.
        """
        self._freed.clear()
        passed_over: set[str] = set()
        count = 0
        while not self._stopping.is_set():
            passed_over |= self._full_tenants()
            due = self._store.outbox.due([OutboxKind.NOTIFICATION], self._store.clock(), MAX_DUE, passed_over)
            count += sum(self._start(senders, entry) for entry in due)
            if len(due) < MAX_DUE or len(self._busy) >= MAX_SENDERS:
                break
            passed_over |= {entry.tenant for entry in due}
        return count

    def _full_tenants(self) -> set[str]:
        """Return the tenants that have all the threads which a tenant may have."""
        with self._lock:
            counts = Counter(tenant for tenant, _ in self._busy)
        return {tenant for tenant, count in counts.items() if count >= MAX_SENDERS_OF_TENANT}

    def _start(self, senders: ThreadPoolExecutor, entry: OutboxEntry) -> bool:
        """Give a notification to a thread. Return False if its channel or its tenant has enough of them."""
        place = (entry.tenant, str(entry.record["channel"]))
        with self._lock:
            count = sum(tenant == entry.tenant for tenant, _ in self._busy)
            until, _ = self._pauses.get(place, (0.0, 0.0))
            if until > time.monotonic():
                return False
            if place in self._busy or count >= MAX_SENDERS_OF_TENANT or len(self._busy) >= MAX_SENDERS:
                return False
            self._busy.add(place)
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
            with self._lock:
                self._busy.discard(place)
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
        """Wait for the next poll. If notifications are being sent, wait until one of them is done."""
        is_sending = started > 0 or bool(self._busy)
        ends_at = time.monotonic() + self._poll_seconds
        while not self._stopping.is_set() and (seconds := ends_at - time.monotonic()) > 0:
            if is_sending and self._freed.wait(min(seconds, SLICE_SECONDS)):
                return
            if not is_sending:
                self._stopping.wait(seconds)
