"""Connections whose operations end with the block of `time_limit` that uses them, for httpcore.

The operations wait in slices, so that a thread sees the cancellation of its run while a server is silent.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore

from noetl.executor.clients.time_limit import wait_in_slices
from noetl.executor.clients.tls_connection import TlsConnection

MAX_INFORMATIONAL = 20
"""How many informational answers (1xx) may precede an answer."""

_CHUNK_BYTES = 64 * 1024
_LONGEST_START = 16
"""The characters of a status line that tell whether an answer is informational."""


class DeadlineStream(httpcore.NetworkStream):
    """A TCP connection, also with TLS.

    `connect_seconds` is the longest time of a TLS handshake. `round_trip_seconds` is how long the connection
    was opened: the time of a round trip to the server.
    """

    def __init__(
        self,
        connection: socket.socket | TlsConnection,
        connect_seconds: float,
        round_trip_seconds: float = 0.0,
    ) -> None:
        self._connection = connection
        self._connect_seconds = connect_seconds
        self.round_trip_seconds = round_trip_seconds
        self._heads = AnswerHeads()
        self.has_answer = False
        """Whether a byte has arrived since the last request."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes; none at the end.

        Raises:
            httpcore.ReadTimeout: the server sent nothing in time.
            httpcore.RemoteProtocolError: it sent too many informational answers.
        """
        with _mapped(httpcore.ReadTimeout, httpcore.ReadError):
            chunk: bytes = self._wait(lambda: self._connection.recv(max_bytes))
        self.has_answer = self.has_answer or bool(chunk)
        self._heads.feed(chunk)
        return chunk

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all bytes.

        Raises:
            httpcore.WriteTimeout: the server did not take them in time.
        """
        self._heads = AnswerHeads()
        self.has_answer = False
        unsent = memoryview(buffer)
        with _mapped(httpcore.WriteTimeout, httpcore.WriteError):
            while unsent:
                unsent = unsent[self._send_part(unsent[:_CHUNK_BYTES]) :]
            if isinstance(self._connection, TlsConnection):
                self._wait(self._connection.flush)

    def _send_part(self, chunk: memoryview) -> int:
        sent: int = self._wait(lambda: self._connection.send(chunk))
        return sent

    def acknowledge(self) -> None:
        """Let the system acknowledge what has arrived at once, where it can (Linux)."""
        if hasattr(socket, "TCP_QUICKACK"):
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> DeadlineStream:
        """Return the connection after the TLS handshake. A failure closes it.

        Raises:
            httpcore.ConnectTimeout: the handshake takes too long.
            httpcore.ConnectError: it fails. The cause is an `ssl.SSLError`.
        """
        try:
            with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
                secured = TlsConnection(self._socket, ssl_context, server_hostname)
                self._wait(secured.do_handshake, self._connect_seconds)
                self._wait(secured.flush, self._connect_seconds)
        except BaseException:
            self.close()
            raise
        return DeadlineStream(secured, self._connect_seconds, self.round_trip_seconds)

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for; None for an unknown name."""
        connection = self._connection
        secured = connection if isinstance(connection, TlsConnection) else None
        if info == "ssl_object":
            return secured and secured.tls
        if info == "is_readable":
            has_unread = secured is not None and secured.has_unread
            return has_unread or _is_ready(self._socket, select.POLLIN, 0.0)
        return self._socket if info == "socket" else None

    @property
    def _socket(self) -> socket.socket:
        connection = self._connection
        return connection.socket if isinstance(connection, TlsConnection) else connection

    def _wait(self, operation: Callable[[], Any], limit: float = float("inf")) -> Any:
        def attempt(seconds: float) -> Any:
            self._socket.settimeout(seconds)
            return operation()

        return wait_in_slices(attempt, limit)


def connect(address: str, port: int, seconds: float) -> DeadlineStream:
    """Return a connection to an IP address.

    Raises:
        httpcore.ConnectTimeout: it does not answer within `seconds`.
        httpcore.ConnectError: it refuses the connection.
    """
    started_at = time.monotonic()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            try:
                connection.connect((address, port))
            except BlockingIOError:
                wait_in_slices(lambda slice_seconds: _finish_connecting(connection, slice_seconds), seconds)
    except BaseException:
        connection.close()
        raise
    return DeadlineStream(connection, seconds, time.monotonic() - started_at)


def _finish_connecting(connection: socket.socket, seconds: float) -> None:
    if not _is_ready(connection, select.POLLOUT, seconds):
        raise TimeoutError
    if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(number, os.strerror(number))


def _is_ready(connection: socket.socket, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), event)
    return bool(poll.poll(seconds * 1000))


class AnswerHeads:
    r"""The heads of the answers to one request, up to that of the final answer.

    An informational answer has no body, so the next head follows at once (RFC 9110, 15.2).

    >>> heads = AnswerHeads()
    >>> heads.feed(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nbody")
    >>> heads.informational_count, heads.has_final
    (1, True)
    """

    def __init__(self) -> None:
        self.informational_count = 0
        self.has_final = False
        self._pending = b""

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes that the server sent.

        Raises:
            httpcore.RemoteProtocolError: there are more than `MAX_INFORMATIONAL` informational answers.
        """
        if self.has_final:
            return
        pending = self._pending + chunk
        while pending and not self.has_final:
            line = pending.lstrip(b"\r\n")[:_LONGEST_START]
            version, blank, status = line.partition(b" ")
            if blank and not status:
                break
            if blank and not (version.startswith(b"HTTP/") and status.startswith(b"1")):
                self.has_final = True
                break
            _, end, rest = pending.replace(b"\r\n", b"\n").partition(b"\n\n")
            if not end:
                break
            self._count()
            pending = rest
        # h11 refuses a head that is longer than 100 KiB.
        self._pending = b"" if self.has_final else pending

    def _count(self) -> None:
        self.informational_count += 1
        if self.informational_count > MAX_INFORMATIONAL:
            raise httpcore.RemoteProtocolError(
                f"the server sent more than {MAX_INFORMATIONAL} informational answers"
            )


@contextmanager
def _mapped(timeout_error: type[Exception], other_error: type[Exception]) -> Iterator[None]:
    """Raise the errors of httpcore instead of those of sockets."""
    try:
        yield
    except TimeoutError as error:
        raise timeout_error(str(error)) from error
    except OSError as error:
        raise other_error(str(error)) from error
