"""A server of a test that holds its connections with a hostile talk."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Talk = Callable[[socket.socket, "HostileServer"], None]
"""The side of the server in one connection. It ends with an OSError when the client hangs up."""


class HostileServer:
    """A server of a hostile talk: it counts the bytes that its clients take."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.is_reached = threading.Event()
        self.closing = threading.Event()
        self.sent = 0
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def send(self, client: socket.socket, data: bytes) -> None:
        client.sendall(data)
        self.sent += len(data)

    def is_left(self, client: socket.socket, seconds: float = 0.0) -> bool:
        """Return whether the client hangs up, or the test ends, within some seconds."""
        return bool(select.select([client], [], [], seconds)[0]) or self.closing.is_set()

    def close(self) -> None:
        self.closing.set()
        with suppress(OSError), socket.create_connection(self._listener.getsockname()):
            pass
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self.closing.is_set():
                client.close()
                return
            thread = threading.Thread(target=self._hold, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _hold(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(30)
            self.is_reached.set()
            self._talk(client, self)


@contextmanager
def serve_hostile(talk: Talk) -> Iterator[HostileServer]:
    server = HostileServer(talk)
    try:
        yield server
    finally:
        server.close()
