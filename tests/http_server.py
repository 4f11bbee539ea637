"""HTTP server of a test, in threads of the test process."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

POLL_SECONDS = 0.01


def find_free_port() -> int:
    """Return a port of this machine on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that the server received. Names of headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class StubServer:
    """A running server: its port, the requests so far, and the addresses of the client connections.

    `closing` is set before the server shuts down.
    """

    port: int
    requests: list[ReceivedRequest] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)
    closing: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


class StubExchange(BaseHTTPRequestHandler):
    """A request in progress (`received`), and methods that send the response."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    received: ReceivedRequest

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        """Send a whole response. Underscores in the names of headers become hyphens."""
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value: Any, status: int = 200) -> None:
        self.reply(status, json.dumps(value).encode(), content_type="application/json")


class _SilentServer(ThreadingHTTPServer):
    """A server that prints no errors."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def serve(answer: Callable[[StubExchange], None], tls: ssl.SSLContext | None = None) -> Iterator[StubServer]:
    """Serve on a free port of this machine. Call `answer` for every request, in its own thread."""

    class RecordingHandler(StubExchange):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self._handle
            raise AttributeError(name)

        def _handle(self) -> None:
            length = int(self.headers.get("content-length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.received = ReceivedRequest(self.command, self.path, headers, self.rfile.read(length))
            server.requests.append(self.received)
            server.connections.add(self.client_address)
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    with _SilentServer(("127.0.0.1", 0), RecordingHandler) as listener:
        if tls is not None:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        server = StubServer(listener.server_address[1])
        thread = threading.Thread(target=listener.serve_forever, args=(POLL_SECONDS,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            listener.shutdown()
            thread.join()
