"""A listener for notifications of other processes that share a Postgres database.

Problem: a worker should learn at once that another process has made a visit due, without polling often.

Algorithm: `LISTEN` and `NOTIFY` on one channel. Source: PostgreSQL documentation, "Asynchronous
Notification". A thread waits on the connection and on a socket pair that `close` writes to.

Cost: one connection for each process.

Limits: notifications during a lost connection are missed. Workers also poll, so a missed notification only
delays them.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

CHANNEL = "noetl"
RECONNECT_SECONDS = 0.5
"""Pause before a failed connection is tried again."""

MISSED = ""
"""The payload that stands for notifications that may have been missed. Earlier versions send it always."""


def write_payload(sender: str, due: int | None) -> str:
    """Return the payload of a notification of a process. `due` visits became due; None is unknown."""
    return f"{sender} {'' if due is None else due}"


def read_payloads(payloads: Sequence[str], reader: str) -> list[int | None]:
    """Return how many visits became due for each notification of a process other than `reader`."""
    parts = [payload.partition(" ") for payload in payloads]
    return [int(due) if due.isdecimal() else None for sender, _, due in parts if sender != reader]


class Listener:
    """A thread that calls `on_notify` with the payloads of notifications, until it is closed.

    After each new connection it calls `on_notify` with one empty payload, since others may have been missed.
    """

    def __init__(self, conninfo: str, on_notify: Callable[[Sequence[str]], object]) -> None:
        self._conninfo = conninfo
        self._on_notify = on_notify
        self._closed = threading.Event()
        self._wakeup_receiver, self._wakeup_sender = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="noetl-listen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. A thread that is connecting is not waited for."""
        self._closed.set()
        with suppress(OSError):
            self._wakeup_sender.send(b"!")
        self._thread.join(2 * RECONNECT_SECONDS)

    def _listen(self) -> None:
        import psycopg

        while not self._closed.is_set():
            with suppress(psycopg.Error), psycopg.connect(self._conninfo, autocommit=True) as connection:
                connection.execute(f"listen {CHANNEL}".encode())
                self._on_notify([MISSED])
                with selectors.DefaultSelector() as selector:
                    for source in (connection.fileno(), self._wakeup_receiver):
                        selector.register(source, selectors.EVENT_READ)
                    while not self._closed.is_set():
                        selector.select()
                        if payloads := [notice.payload for notice in connection.notifies(timeout=0)]:
                            self._on_notify(payloads)
            self._closed.wait(RECONNECT_SECONDS)
        self._wakeup_receiver.close()
        self._wakeup_sender.close()
