"""The connections of `noetl serve`: a time limit for headers, and room for new connections.

Problem: a server reads the header of a request before it calls the app. So the app cannot limit its time, and
uvicorn does not. Some thousand connections without a request keep all others out.

Algorithm: a connection waits while it has no request whose header is complete and whose response is not. A
timer for each connection closes it if it has waited for HEADER_SECONDS, however slowly bytes drip in. If
there are too many connections, a new one replaces the oldest that waits.

Cost: a timer each HEADER_SECONDS for each connection.

Limits: `max_connections`. If none of them waits, a new connection is answered with 503. The bodies of
requests are limited by `noetl.api.http.open_bodies`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from noetl.executor.errors import SettingError

HEADER_SECONDS = 10.0
"""How long a connection may take for the header of a request."""

RESERVED_FILES = 200
"""Files that the process needs besides its connections: the store, pipes and folders."""

DEFAULT_CONNECTIONS = 2000
MAX_CONNECTIONS = 60_000

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
    text = settings.get("NOETL_MAX_CONNECTIONS", "").strip() or str(DEFAULT_CONNECTIONS)
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= MAX_CONNECTIONS:
        message = f"NOETL_MAX_CONNECTIONS is {text!r}; it must be a whole number from 1 to {MAX_CONNECTIONS}."
        raise SettingError(message)
    return int(text)


class ConnectionTable:
    """The open connections of a server, the oldest first."""

    def __init__(self, max_connections: int, header_seconds: float = HEADER_SECONDS) -> None:
        self._max_connections = max_connections
        self._header_seconds = header_seconds
        self._timers: dict[TimedConnection, asyncio.TimerHandle] = {}
        self.closed = 0

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

    def _close_oldest(self) -> bool:
        for connection in self._timers:
            if connection.is_waiting:
                self._close(connection)
                return True
        return False

    def _schedule(self, connection: TimedConnection) -> None:
        request = connection.cycle if connection.is_waiting else connection
        loop = asyncio.get_running_loop()
        self._timers[connection] = loop.call_later(self._header_seconds, self._check, connection, request)

    def _check(self, connection: TimedConnection, earlier_request: object) -> None:
        if connection.is_waiting and connection.cycle is earlier_request:
            self._close(connection)
        else:
            self._schedule(connection)

    def _close(self, connection: TimedConnection) -> None:
        self.remove(connection)
        self.closed += 1
        connection.transport.abort()


class TimedConnection(asyncio.Protocol):
    """The part of a protocol of uvicorn that knows its table. `cycle` is its latest request."""

    table: ClassVar[ConnectionTable]
    transport: asyncio.Transport
    cycle: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.table.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.remove(self)
        super().connection_lost(exc)

    @property
    def is_waiting(self) -> bool:
        """Return whether the server waits for the header of a request."""
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


def timed_protocol(table: ConnectionTable) -> type[asyncio.Protocol]:
    """Return the protocol of uvicorn with the limits of a table."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    return type("TimedProtocol", (TimedConnection, AutoHTTPProtocol), {"table": table})


def allow_connections(wanted: int) -> int:
    """Raise the limit of open files of the process for `wanted` connections, and return how many fit."""
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    allowed = (
        MAX_CONNECTIONS + RESERVED_FILES
        if hard == resource.RLIM_INFINITY
        else min(hard, MAX_CONNECTIONS + RESERVED_FILES)
    )
    needed = min(wanted + RESERVED_FILES, allowed)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        soft = needed
    return max(min(wanted, soft - RESERVED_FILES), 1)
