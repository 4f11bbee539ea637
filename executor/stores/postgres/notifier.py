"""A thread that notifies other processes, so that no commit waits for the notification.

Problem: other processes learn by `NOTIFY` what a commit has changed. As a part of the transaction it lets
commits of all databases of the server wait for each other. After the commit it is one more round trip.

Algorithm: a thread sends it, and the caller goes on. What is announced while the thread sends goes into the
next notification, with the sum of the numbers.

Cost: one thread of a process that announces anything. Many commits at the same time share a notification.

Limits: a process that is killed between a commit and its notification has sent none, as before. Workers also
poll, so this only delays them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Notifier:
    """A thread that calls `send` with how many visits became due, or None if some may have.

    It begins with the first notification. `send` must not raise.
    """

    def __init__(self, send: Callable[[int | None], object]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._collected: list[int | None] = []
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def notify(self, due: int | None) -> None:
        """Let the thread send a notification soon. After `close`, send it here."""
        with self._changed:
            if not self._is_closed:
                self._collected.append(due)
                self._changed.notify()
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="noetl-notify", daemon=True)
                    self._thread.start()
                return
        self._send(due)

    def close(self, timeout_seconds: float) -> None:
        """Send what is collected, and end the thread. Wait for it at most until the timeout."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._collected:
                    if self._is_closed:
                        return
                    self._changed.wait()
                collected, self._collected = self._collected, []
            self._send(add_numbers(collected))


def add_numbers(numbers: list[int | None]) -> int | None:
    """Return the sum of numbers of visits. It is unknown if one of them is.

    >>> add_numbers([1, 0, 2]), add_numbers([1, None])
    (3, None)
    """
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
