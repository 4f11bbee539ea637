"""A signal between the threads of a process: a counter, and threads that wait for it to grow.

Problem: a thread checks a condition, finds nothing to do, and sleeps. A change between the check and the
sleep must not be missed.

Algorithm: an event count (Reed and Kanodia, "Synchronization with Eventcounts and Sequencers", 1979). A
thread reads `count`, checks, and waits until the count differs from the value that it has read.

Cost: a lock and a condition variable for each notification, and a call of each subscriber.

Limits: one process only. Postgres carries notifications to other processes; other stores are polled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ChangeSignal:
    """A counter of changes that threads can wait for. Read `count` before you check what has changed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0
        self._subscribers: tuple[Callable[[], object], ...] = ()

    @property
    def count(self) -> int:
        """Number of changes so far."""
        return self._count

    def notify(self, limit: int | None = None) -> None:
        """Count a change, and wake all waiting threads or at most `limit` of them; 0 does nothing."""
        if limit == 0:
            return
        with self._condition:
            self._count += 1
            if limit is None:
                self._condition.notify_all()
            else:
                self._condition.notify(limit)
            subscribers = self._subscribers
        for subscriber in subscribers:
            subscriber()

    @contextmanager
    def subscription(self, subscriber: Callable[[], object]) -> Iterator[None]:
        """Call `subscriber` after each change, in the thread that notifies. It must neither block nor raise.

        For a caller that waits in an event loop, where no thread may wait.
        """
        with self._condition:
            self._subscribers += (subscriber,)
        try:
            yield
        finally:
            with self._condition:
                remaining = list(self._subscribers)
                remaining.remove(subscriber)
                self._subscribers = tuple(remaining)

    def wait(self, since: int, timeout_seconds: float) -> None:
        """Return when the count is no longer `since`, or after the timeout."""
        with self._condition:
            if self._count == since:
                self._condition.wait(timeout_seconds)
