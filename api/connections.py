"""The connections of `noetl serve`: time limits for headers and for reading, and room for new connections.

Problem: a server reads the header of a request before it calls the app. So the app cannot limit its time, and
uvicorn does not. Some thousand connections without a request keep all others out. So do clients that do not
read their responses.

Algorithm: a connection waits while it has no request whose header is complete and whose response is not. A
timer for each connection closes it if it has waited for HEADER_SECONDS, however slowly bytes drip in. If
there are too many connections, a new one replaces the oldest that waits. If none waits, it replaces the
oldest whose client has not read the end of its response. A client that must be waited for before more can be
sent has `send_seconds` to read MIN_SENT_BYTES, again and again. Read is what its system has acknowledged.
When the server stops, a client has STOP_SECONDS for its response. A server would wait for
each client that reads a little now and then.

A request that cannot be parsed, such as one with a header that is too long, is answered with a problem
document. What follows it is discarded until the client closes the connection, or a timer does. If it were
closed with unread bytes, the system of the client would discard the answer.

An app that does not read a body cannot see that its client leaves. So each request has a function that finds
it out from the state of the connection.

A connection is read in parts, between which others are read. A part may hold thousands of chunks of a byte
each, which h11 parses one by one (`noetl.api.reading_queue`).

Cost: a timer each HEADER_SECONDS for each connection, and one each `send_seconds` for one that reads slowly.

Limits: `max_connections`. If all of them have requests, a new connection is answered with 503. So the
requests of each client are limited as well (`noetl.api.http.open_requests`). The bodies of
requests are limited by `noetl.api.http.open_bodies`. A system with a full buffer acknowledges in steps: Linux
when a sixteenth of the buffer is free, which may be 400 KB. So a client that reads less in `send_seconds` may
be closed although it reads. Whether a client has left while its body is not read is known on Linux only. Its
system says so when all that it sent has arrived, or at once if it drops the rest.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import time
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar

from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.api.reading_queue import (
    FEW_LINES,
    FIRST_READ_BYTES,
    SLOW_SECONDS,
    ReadingQueue,
    next_read_bytes,
)
from noetl.executor.errors import SettingError
from noetl.executor.runtime.file_limit import RESERVED_FILES, raise_file_limit

HEADER_SECONDS = 10.0
"""How long a connection may take for the header of a request."""

MAX_HEADER_KIB = 16
"""How long a header may be that is not complete after a part. It is the default of h11."""

DEFAULT_SEND_SECONDS = 30
MAX_SEND_SECONDS = 3600
MIN_SENT_BYTES = 16 * 1024
"""How many bytes the system of a slow client must take in the time of `NOETL_SEND_SECONDS`."""

STOP_SECONDS = 8.0
"""How long a client may leave its response unread after a signal to stop. Workers have 20 seconds more."""

DEFAULT_CONNECTIONS = 2000
MAX_CONNECTIONS = 60_000

HAS_LEFT = "noetl.has_left"
"""The key of a scope with a function that returns whether the client has closed the connection."""

_ENDED_STATES = (7, 8)
"""The states `CLOSE` and `CLOSE_WAIT` of a connection of TCP, as Linux numbers them."""

_log = logging.getLogger("noetl.api")

_FULL = {
    "type": "urn:noetl:problem:too-many-connections",
    "title": "Too many connections",
    "status": 503,
    "detail": "The service has as many requests as it accepts. Try again later.",
}


def read_max_connections(settings: Mapping[str, str]) -> int:
    """Return how many connections `noetl serve` accepts at the same time.

    Raises:
        SettingError: `NOETL_MAX_CONNECTIONS` is not a whole number from 1 to MAX_CONNECTIONS.
    """
    return _read_number(settings, "NOETL_MAX_CONNECTIONS", DEFAULT_CONNECTIONS, MAX_CONNECTIONS)


def read_send_seconds(settings: Mapping[str, str]) -> int:
    """Return how long a client may read nothing of its response.

    Raises:
        SettingError: `NOETL_SEND_SECONDS` is not a whole number from 1 to MAX_SEND_SECONDS.
    """
    return _read_number(settings, "NOETL_SEND_SECONDS", DEFAULT_SEND_SECONDS, MAX_SEND_SECONDS)


def _read_number(settings: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    text = settings.get(name, "").strip() or str(default)
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= maximum:
        raise SettingError(f"{name} is {text!r}; it must be a whole number from 1 to {maximum}.")
    return int(text)


class ConnectionTable:
    """The open connections of a server, the oldest first."""

    def __init__(
        self,
        max_connections: int,
        header_seconds: float = HEADER_SECONDS,
        send_seconds: float = DEFAULT_SEND_SECONDS,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self._stop_seconds = stop_seconds
        self._max_connections = max_connections
        self._header_seconds = header_seconds
        self._send_seconds = send_seconds
        self._timers: dict[TimedConnection, asyncio.TimerHandle] = {}
        self._send_timers: dict[TimedConnection, asyncio.TimerHandle] = {}
        self.closed = 0
        self.reading_queue = ReadingQueue()

    def __len__(self) -> int:
        return len(self._timers)

    @property
    def connections(self) -> tuple[TimedConnection, ...]:
        """Open connections."""
        return tuple(self._timers)

    def add(self, connection: TimedConnection) -> None:
        """Add a connection. If the table is full, close another one that waits, or else the new one."""
        if len(self) >= self._max_connections and not self._close_oldest():
            connection.refuse()
            return
        self._schedule(connection)

    def remove(self, connection: TimedConnection) -> None:
        """Remove a connection that is closed."""
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()
        self.stop_send_timer(connection)

    def start_send_timer(self, connection: TimedConnection) -> None:
        """Close a connection unless its client reads enough in time, again and again."""
        if connection not in self._send_timers:
            self._schedule_send_check(connection)

    def stop_send_timer(self, connection: TimedConnection) -> None:
        """Wait for the client of a connection no longer."""
        timer = self._send_timers.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _schedule_send_check(self, connection: TimedConnection) -> None:
        loop, unread = asyncio.get_running_loop(), connection.unread_bytes
        timer = loop.call_later(self._send_seconds, self._check_sending, connection, unread)
        self._send_timers[connection] = timer

    def _check_sending(self, connection: TimedConnection, earlier_bytes: int) -> None:
        if not connection.unsent_bytes:
            self.stop_send_timer(connection)
        elif connection.unread_bytes > max(earlier_bytes - MIN_SENT_BYTES, 0):
            _log.warning(
                "a client has not read its response for %g s (NOETL_SEND_SECONDS)", self._send_seconds
            )
            self._close(connection)
        else:
            self._schedule_send_check(connection)

    def end(self, connection: TimedConnection, *, was_unread: bool = False) -> None:
        """Close a connection of a server that stops, if its client leaves the response unread twice."""
        loop = asyncio.get_running_loop()
        loop.call_later(self._stop_seconds / 2, self._check_end, connection, was_unread)

    def _check_end(self, connection: TimedConnection, was_unread: bool) -> None:
        if connection not in self._timers:
            return
        is_unread = connection.unsent_bytes > 0
        if was_unread and is_unread:
            self._close(connection)
        else:
            self.end(connection, was_unread=is_unread)

    def _close_oldest(self) -> bool:
        """Close the oldest connection that waits, or else the oldest whose client has not read its response.

        Return False if there is none.
        """
        waiting = (connection for connection in self._timers if connection.is_waiting)
        unread = (connection for connection in self._timers if connection.is_answered)
        connection = next(waiting, None) or next(unread, None)
        if connection is not None:
            self._close(connection)
        return connection is not None

    def _schedule(self, connection: TimedConnection) -> None:
        request = connection.cycle if connection.is_waiting else connection
        loop = asyncio.get_running_loop()
        self._timers[connection] = loop.call_later(self._header_seconds, self._check, connection, request)

    def _check(self, connection: TimedConnection, earlier_request: object) -> None:
        if connection.is_waiting and connection.cycle is earlier_request:
            self._close(connection)
            return
        if connection.unsent_bytes:
            self.start_send_timer(connection)
        self._schedule(connection)

    def _close(self, connection: TimedConnection) -> None:
        self.remove(connection)
        self.closed += 1
        connection.transport.abort()


class TimedConnection(asyncio.Protocol):
    """The part of a protocol of uvicorn that knows its table. `cycle` is its latest request."""

    table: ClassVar[ConnectionTable]
    transport: asyncio.Transport
    app: ASGIApp
    cycle: Any
    conn: Any
    flow: Any
    is_refused = False
    read_bytes = FIRST_READ_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The attribute of the transports of asyncio for the size of a read. Other transports ignore it.
        transport.max_size = self.read_bytes  # type: ignore[attr-defined]
        self.app = partial(_call_app, self.app, self)
        super().connection_made(transport)
        self.table.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_refused:
            return
        earlier_request, started_at = self.cycle, time.thread_time()
        super().data_received(data)
        seconds = time.thread_time() - started_at
        # Garbage collection takes as long, but then there are few lines.
        is_slow = seconds > SLOW_SECONDS and data.count(b"\n") > FEW_LINES
        self.read_bytes = next_read_bytes(
            self.read_bytes, is_first=is_slow or self.cycle is not earlier_request
        )
        self.transport.max_size = self.read_bytes  # type: ignore[attr-defined]
        if is_slow and not self.transport.is_closing():
            self.table.reading_queue.add(self, seconds)

    @property
    def address(self) -> str:
        """The address of the client, as far as it is known."""
        peer = self.transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""

    def stop_reading(self) -> None:
        """Leave what the client sends to the system for a while."""
        self.transport.pause_reading()

    def continue_reading(self) -> bool:
        """Read on, unless the application has not read what was received.

        Return False if the connection is closed, or is closed now because its client has left.
        """
        if self.has_left():
            self.transport.abort()
            return False
        if not self.flow.read_paused:
            self.transport.resume_reading()
        return True

    def send_400_response(self, msg: str) -> None:
        """Answer a request that h11 refuses, and discard what follows. The server calls it in the handler."""
        status = HTTPStatus(getattr(sys.exception(), "error_status_hint", HTTPStatus.BAD_REQUEST))
        is_long = status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        detail = f"The header has more than {MAX_HEADER_KIB} KiB." if is_long else msg
        document = {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail}
        self.is_refused = True
        self._leave_request()
        answer = _write_answer(self.conn, status, json.dumps(document).encode())
        if answer is None:
            self.transport.close()
            return
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _leave_request(self) -> None:
        """Let the application of the latest request see a client that has left. Its body cannot be read."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def shutdown(self) -> None:
        """Close the connection after its response. The server calls it when it stops."""
        self.table.end(self)
        super().shutdown()  # type: ignore[misc]

    def pause_writing(self) -> None:
        super().pause_writing()
        self.table.start_send_timer(self)

    def resume_writing(self) -> None:
        self.table.stop_send_timer(self)
        super().resume_writing()

    @property
    def unsent_bytes(self) -> int:
        """Return how many bytes of responses the system has not taken, because the client does not read."""
        return self.transport.get_write_buffer_size()

    @property
    def unread_bytes(self) -> int:
        """Return how many bytes of responses the system of the client has not acknowledged.

        The buffer of this system takes more only when a third of it is free: megabytes. So a client may read
        for long before `unsent_bytes` is less. Where the system does not count, it is `unsent_bytes`.
        """
        return self.unsent_bytes + _queued_bytes(self.transport.get_extra_info("socket"))

    def has_left(self) -> bool:
        """Return whether the client has closed the connection, even if what it sent is not read."""
        return self.transport.is_closing() or _is_ended(self.transport.get_extra_info("socket"))

    @property
    def is_waiting(self) -> bool:
        """Return whether the server waits for the header of a request, and the last response is sent."""
        return self.is_answered and not self.unsent_bytes

    @property
    def is_answered(self) -> bool:
        """Return whether the connection has no request, or the whole response was given to the transport."""
        return self.cycle is None or self.cycle.response_complete

    def refuse(self) -> None:
        """Answer with 503 before any request, and close the connection."""
        body = json.dumps(_FULL).encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


async def _call_app(
    app: ASGIApp, connection: TimedConnection, scope: Scope, receive: Receive, send: Send
) -> None:
    """Call an app with a scope that says whether the client of the connection has left."""
    await app({**scope, HAS_LEFT: connection.has_left}, receive, send)


def _is_ended(connection: Any) -> bool:
    """Return whether the system knows that the client of a socket has left; False if it does not say."""
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except (AttributeError, OSError):
        return False
    return state in _ENDED_STATES


def _write_answer(connection: Any, status: HTTPStatus, body: bytes) -> bytes | None:
    """Return the bytes of a problem document that ends a connection of h11.

    It is None if the request has an answer already, or its beginning. Its body was refused later.
    """
    import h11

    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return None
    headers = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    answer = h11.Response(status_code=status, headers=headers, reason=status.phrase.encode())
    parts = (connection.send(part) for part in (answer, h11.Data(body), h11.EndOfMessage()))
    return b"".join(filter(None, parts))


def _queued_bytes(connection: Any) -> int:
    """Return how many bytes the system keeps for the client of a socket; 0 if it does not say."""
    try:
        import fcntl
        import termios

        queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    except (AttributeError, ImportError, OSError, ValueError):
        return 0
    return int.from_bytes(queued, sys.byteorder)


def timed_protocol(table: ConnectionTable) -> type[asyncio.Protocol]:
    """Return the protocol of uvicorn with the limits of a table.

    It parses with h11, which limits the bytes of a header. httptools does not, and uvicorn would take it
    where it is installed.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return type("TimedProtocol", (TimedConnection, H11Protocol), {"table": table})


def allow_connections(wanted: int) -> int:
    """Raise the limit of open files of the process, and return how many of the `wanted` connections fit."""
    return max(min(wanted, raise_file_limit() - RESERVED_FILES), 1)
