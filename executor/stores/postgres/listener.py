"""What other processes that share a Postgres have to say."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

CHANNEL = "noetl"
AGAIN_SECONDS = 0.5
"""How long after a failure a connection is tried again."""


class Listener:
    """A thread that calls `heard` when a process has written something that is due, until it is closed.

    Who does not hear looks by himself now and then, so a connection that is lost makes work slower, not less.
    """

    def __init__(self, conninfo: str, heard: Callable[[], object]) -> None:
        self._conninfo = conninfo
        self._heard = heard
        self._closed = threading.Event()
        self._bell, self._rope = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="noetl-listen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, which may be busy with connecting: that is not waited for."""
        self._closed.set()
        with suppress(OSError):
            self._rope.send(b"!")
        self._thread.join(2 * AGAIN_SECONDS)

    def _listen(self) -> None:
        import psycopg

        while not self._closed.is_set():
            with suppress(psycopg.Error), psycopg.connect(self._conninfo, autocommit=True) as connection:
                connection.execute(f"listen {CHANNEL}".encode())
                # Something may have been said while nobody listened.
                self._heard()
                with selectors.DefaultSelector() as selector:
                    for source in (connection.fileno(), self._bell):
                        selector.register(source, selectors.EVENT_READ)
                    while not self._closed.is_set():
                        selector.select()
                        if list(connection.notifies(timeout=0)):
                            self._heard()
            self._closed.wait(AGAIN_SECONDS)
        self._bell.close()
        self._rope.close()
