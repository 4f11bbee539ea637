"""Connections to Postgres, kept for the next call to the same server."""

from __future__ import annotations

import logging
import math
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noetl.executor.actions._servers import Server, parsed, unreachable, vetted
from noetl.executor.actions.action import Call
from noetl.executor.clients.egress import CONNECT_SECONDS
from noetl.executor.errors import ActionError

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[dict[str, Any]]

_MOST_IDLE = 32
_IDLE_SECONDS = 60.0
_LATE_SECONDS = 1.0
"""How long after its own timeout a silent server is given up."""

_ALIVE = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""A machine that is gone is noticed within a minute, however long a statement may take."""

_log = logging.getLogger("noetl.executor")


@dataclass(frozen=True, slots=True)
class _Idle:
    servers: tuple[Server, ...]
    connection: Connection
    since: float


class Connections:
    """The idle connections of this process. Each is lent to one call at a time and comes back as good as new."""

    def __init__(self) -> None:
        self._idle: list[_Idle] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, text: str, call: Call) -> Iterator[Connection]:
        """A connection in autocommit mode, which is cut off when the call is out of time.

        Raises:
            ActionError: there is none to be had, or there must be none.
        """
        if call.capabilities.any_server:
            parsed(text)
            servers: tuple[Server, ...] = (text,)
        else:
            servers = vetted(text, call)
        # What is kept is known by its vetted addresses, so whoever gets it may reach them.
        connection = self._take(servers) or _connect(servers, call)
        watchdog = threading.Timer(call.remaining_seconds() + _LATE_SECONDS, _cut, [connection])
        watchdog.daemon = True
        watchdog.start()
        is_clean = False
        try:
            yield connection
            is_clean = True
        finally:
            watchdog.cancel()
            self._give_back(servers, connection, is_clean)

    def close(self) -> None:
        """Close all that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for entry in idle:
            entry.connection.close()

    def _take(self, servers: tuple[Server, ...]) -> Connection | None:
        """The connection used last of those that are fit for use; the others are closed."""
        now = time.monotonic()
        with self._lock:
            mine = [entry for entry in self._idle if entry.servers == servers]
            stale = [
                entry
                for entry in self._idle
                if now - entry.since > _IDLE_SECONDS or not _is_alive(entry.connection)
            ]
            usable = [entry for entry in mine if entry not in stale]
            taken = usable[-1] if usable else None
            self._idle = [entry for entry in self._idle if entry is not taken and entry not in stale]
        for entry in stale:
            entry.connection.close()
        return taken.connection if taken else None

    def _give_back(self, servers: tuple[Server, ...], connection: Connection, is_clean: bool) -> None:
        import psycopg

        # What a failed call left behind is not worth finding out.
        if is_clean:
            with suppress(psycopg.Error):
                connection.execute("discard all")
                with self._lock:
                    if len(self._idle) < _MOST_IDLE:
                        self._idle.append(_Idle(servers, connection, time.monotonic()))
                        return
        connection.close()


def limit_time(connection: Connection, call: Call) -> None:
    """Let the server itself end each statement that follows when the call is out of time."""
    milliseconds = max(min(math.ceil(call.remaining_seconds() * 1000), 2**31 - 1), 1)
    connection.execute(f"set statement_timeout = {milliseconds}")


def _connect(servers: tuple[Server, ...], call: Call) -> Connection:
    """A connection to the first server that gives one."""
    import psycopg

    failure: psycopg.Error | None = None
    for server in servers:
        try:
            return _attempt(server, call)
        except psycopg.Error as error:
            call.remaining_seconds()
            failure = error
    # Of several attempts the last one, without the advice that libpq indents below it.
    said = [line for line in str(failure).strip().splitlines() if not line[:1].isspace()]
    reason = said[-1] if said else type(failure).__name__
    _, is_fatal, told = reason.partition("FATAL:")
    is_refused = bool(is_fatal) and "too many" not in told and "starting up" not in told
    if not call.capabilities.any_server:
        _log.warning("no connection to Postgres: %s", reason)
        if not is_fatal:
            raise unreachable() from failure
        # What a server says of itself does not tell what else there is.
        reason = f"the server said: {told.strip()}"
    raise ActionError("ConnectionFailed", reason, retryable=not is_refused) from failure


def _attempt(server: Server, call: Call) -> Connection:
    import psycopg
    from psycopg.rows import dict_row

    said = parsed(server)
    wanted = said.get("connect_timeout", "")
    seconds = int(wanted) if wanted.isdecimal() and int(wanted) > 0 else CONNECT_SECONDS
    extra: dict[str, Any] = {keyword: value for keyword, value in _ALIVE.items() if keyword not in said}
    return psycopg.connect(
        server,
        autocommit=True,
        # Two seconds is the least that libpq waits.
        connect_timeout=max(math.ceil(min(seconds, call.remaining_seconds(), 3600)), 2),
        fallback_application_name=said.get("fallback_application_name", "noetl"),
        prepare_threshold=None,
        row_factory=dict_row,
        **extra,
    )


def _is_alive(connection: Connection) -> bool:
    """Whether the server has not hung up: an idle connection has nothing to read, unless it was ended."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def _cut(connection: Connection) -> None:
    """Wake up whoever waits for a server that no longer says anything."""
    import psycopg

    with suppress(psycopg.Error, OSError), socket.socket(fileno=_duplicate(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _duplicate(descriptor: int) -> int:
    import os

    return os.dup(descriptor)


CONNECTIONS = Connections()
