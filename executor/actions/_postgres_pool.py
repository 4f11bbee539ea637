"""Pool of Postgres connections, shared by all runs of the process.

Problem: open few connections, and let no run use a connection to a server that it must not reach.

Algorithm: a keyed object pool. The key is the tuple of vetted connection strings, each with one address. So a
caller gets only connections to addresses that were vetted for it. A connection is idle or lent to one call.
After a successful call `DISCARD ALL` resets the session. After a failure, and behind a pooler such as
PgBouncer, the connection is closed.
Source: PostgreSQL documentation, DISCARD.

Cost: a look-up is linear in the idle connections, at most 32. A look-up also polls each idle socket.

Limits: at most 32 idle connections for 60 seconds each. The number of lent connections is not limited.
"""

from __future__ import annotations

import atexit
import logging
import math
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noetl.executor.actions._postgres_servers import ConnectionString, connection_error, parse, vet_servers
from noetl.executor.actions.action import Call
from noetl.executor.clients.egress import CONNECT_SECONDS
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.json_values import read_json

if TYPE_CHECKING:
    import psycopg

    from noetl.executor.actions._postgres_connection import BoundedConnection as Connection
    from noetl.executor.model.arriving_data import ArrivingData

_MAX_IDLE = 32
_MAX_IDLE_SECONDS = 60.0
_MIN_CONNECT_SECONDS = 2
"""The shortest timeout that libpq accepts."""

_KEEPALIVE = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""Settings that detect an unreachable server within a minute, however long a statement runs."""

_PERMANENT_REFUSALS = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "permission denied",
)
"""Parts of messages about a user or a database that a server does not accept (SQLSTATE 28 and 3D)."""

_log = logging.getLogger("noetl.executor")


@dataclass(frozen=True, slots=True)
class _IdleConnection:
    servers: tuple[ConnectionString, ...]
    connection: Connection
    idle_since: float


class ConnectionPool:
    """The idle connections of this process."""

    def __init__(self) -> None:
        self._idle: list[_IdleConnection] = []
        self._lock = threading.Lock()

    @contextmanager
    def connection(self, connection_string: str, call: Call, arriving: ArrivingData) -> Iterator[Connection]:
        """Provide a connection in autocommit mode, whose waits end with the call.

        Raises:
            ActionError: no server accepts a connection, or the connection is forbidden.
        """
        if call.capabilities.any_server:
            parse(connection_string)
            servers: tuple[ConnectionString, ...] = (connection_string,)
        else:
            servers = vet_servers(connection_string, call)
        connection = self._take(servers) or _connect(servers, call)
        from noetl.executor.actions._postgres_connection import CallMeter

        is_clean = False
        try:
            with CallMeter(call, arriving).measure(connection):
                yield connection
                is_clean = _is_reset(connection)
        finally:
            self._put_back(servers, connection, is_clean)

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for entry in idle:
            entry.connection.close()

    def _take(self, servers: tuple[ConnectionString, ...]) -> Connection | None:
        """Take the most recently used connection to `servers`. Close all stale connections."""
        now = time.monotonic()
        with self._lock:
            stale = [
                entry
                for entry in self._idle
                if now - entry.idle_since > _MAX_IDLE_SECONDS or not _is_alive(entry.connection)
            ]
            usable = [entry for entry in self._idle if entry.servers == servers and entry not in stale]
            taken = usable[-1] if usable else None
            self._idle = [entry for entry in self._idle if entry is not taken and entry not in stale]
        for entry in stale:
            entry.connection.close()
        return taken.connection if taken else None

    def _put_back(
        self, servers: tuple[ConnectionString, ...], connection: Connection, is_clean: bool
    ) -> None:
        if is_clean:
            with self._lock:
                if len(self._idle) < _MAX_IDLE:
                    self._idle.append(_IdleConnection(servers, connection, time.monotonic()))
                    return
        connection.close()


def _is_reset(connection: Connection) -> bool:
    """Reset the session, and return whether this succeeded in the time of the call.

    A session behind a pooler is not reset, because it may belong to another client by now.
    """
    import psycopg

    if connection.find_pooler():
        return False
    try:
        connection.execute("discard all")
    except (psycopg.Error, ActionError, CancelledError):
        return False
    return True


def limit_statement_time(connection: Connection, call: Call) -> None:
    """Let the server stop each later statement at the deadline of the call.

    Behind a pooler, the session may belong to another client after the transaction. There the setting ends
    with it, and is not made without one.
    """
    from psycopg.pq import TransactionStatus

    is_local = connection.find_pooler()
    if is_local and connection.info.transaction_status != TransactionStatus.INTRANS:
        return
    milliseconds = max(min(math.ceil(call.remaining_seconds() * 1000), 2**31 - 1), 1)
    connection.execute(f"set {'local ' if is_local else ''}statement_timeout = {milliseconds}")


def _connect(servers: tuple[ConnectionString, ...], call: Call) -> Connection:
    """Connect to the first server that accepts a connection."""
    import psycopg

    failure: psycopg.Error | None = None
    for server in servers:
        try:
            return _connect_to(server, call)
        except psycopg.Error as error:
            call.remaining_seconds()
            failure = error
    assert failure is not None
    raise _connect_failure(failure, call) from failure


def _connect_failure(failure: psycopg.Error, call: Call) -> ActionError:
    """Return the error of an action whose last connection attempt failed.

    The message hides whether a port is closed or silent, unless the capabilities allow any server. A message
    of the server itself, which libpq marks with `FATAL:`, reveals nothing about other machines.
    """
    # libpq indents its advice. Its last line without indentation is about the last attempt.
    lines = [line for line in str(failure).strip().splitlines() if not line[:1].isspace()]
    reason = lines[-1] if lines else type(failure).__name__
    _, is_from_server, server_message = reason.partition("FATAL:")
    retryable = not is_from_server or not _is_permanent(server_message)
    if not call.capabilities.any_server:
        _log.warning("no connection to Postgres: %s", reason)
        if not is_from_server:
            return connection_error()
        reason = f"the server refused the connection: {server_message.strip()}"
    return ActionError("ConnectionFailed", reason, retryable=retryable)


def _is_permanent(message: str) -> bool:
    """Return whether a server has refused a user or a database, which another attempt does not change.

    libpq does not report the SQLSTATE of a refused connection, and servers speak many languages. So a message
    that is not known counts as temporary: the server starts, stops, recovers or has no free connection.
    """
    # PgBouncer reports the last error of its server, which may have been corrected.
    if "server login has been failing" in message:
        return False
    return any(words in message for words in _PERMANENT_REFUSALS)


def _connect_to(server: ConnectionString, call: Call) -> Connection:
    from psycopg.types.json import set_json_loads

    from noetl.executor.actions._postgres_connection import BoundedConnection

    keywords = parse(server)
    timeout = keywords.get("connect_timeout", "")
    seconds = int(timeout) if timeout.isdecimal() and int(timeout) > 0 else CONNECT_SECONDS
    defaults: dict[str, Any] = {name: value for name, value in _KEEPALIVE.items() if name not in keywords}
    connection = BoundedConnection.connect_for(
        call,
        server,
        connect_timeout=max(math.ceil(min(seconds, call.remaining_seconds(), 3600)), _MIN_CONNECT_SECONDS),
        fallback_application_name=keywords.get("fallback_application_name", "noetl"),
        **defaults,
    )
    set_json_loads(_load_json, connection)
    return connection


def _load_json(data: str | bytes) -> Any:
    """Return the value of a column of the types json and jsonb.

    Raises:
        ActionError: `LimitExceeded`, if it is nested too deeply or has a number with too many digits.
    """
    try:
        return read_json(data.decode() if isinstance(data, bytes) else data)
    except ValueError as error:
        raise ActionError("LimitExceeded", f"JSON in a row: {error}", retryable=False) from None


def _is_alive(connection: Connection) -> bool:
    """Return whether the server has kept the connection open.

    An idle connection becomes readable only when the server closes it.
    """
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


CONNECTION_POOL = ConnectionPool()
atexit.register(CONNECTION_POOL.close)
