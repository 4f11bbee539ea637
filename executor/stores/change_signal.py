"""ChangeSignal within a process: a count that grows, and threads that wait for it to grow."""

from __future__ import annotations

import threading


class ChangeSignal:
    """Who notes `count` before looking, and waits for more than that, misses nothing that happens in between."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        return self._count

    def notify(self, limit: int | None = None) -> None:
        """Count news up and wake everyone who waits, or as many as there are `limit` of work."""
        if limit == 0:
            return
        with self._condition:
            self._count += 1
            if limit is None:
                self._condition.notify_all()
            else:
                self._condition.notify(limit)

    def wait(self, since: int, timeout_seconds: float) -> None:
        """Return when the count is no longer `since`, or after the time."""
        with self._condition:
            if self._count == since:
                self._condition.wait(timeout_seconds)
