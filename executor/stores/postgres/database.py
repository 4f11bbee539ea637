"""The Postgres of a store: its connections, its schema, and which of its failures pass."""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from noetl.executor.errors import SchemaError, SettingError, StoreError
from noetl.executor.model.run import NEVER, SERVICE
from noetl.executor.stores.postgres.address import CONNECT_SECONDS, conninfo_of, failure_of, settle
from noetl.executor.stores.postgres.listener import CHANNEL, Listener
from noetl.executor.stores.sql.branches import ACTIVE
from noetl.executor.stores.sql.database import UnwrittenError
from noetl.executor.stores.sql.retry import retry_unwritten
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.messages import MessageQueue

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

    Connection = psycopg.Connection[dict[str, Any]]

MOST_CONNECTIONS = 64
MOST_CONNECTIONS_BESIDE_A_QUEUE = 4
"""Of each of the many processes that are called for a queue's messages. Threads hold one for as long as a statement takes."""

PREPARE_AFTER = 5
"""How often a connection sees a statement before it prepares it."""

SCHEMA_VERSION = 5
"""How many of the migrations in `infra/postgres` this version needs."""

_MADE_DUE = f"""
    select run_id, id, step, due_at from visits
    where run_id = any(?) and queue = ? and {ACTIVE} and (status <> 'running' or due_at <= ?) and due_at < ?
    and xmin = pg_current_xact_id()::xid
"""
"""What the transaction itself has made due, now or later, whichever statement it was: a row says which transaction wrote it. A
claim is none of it, unless it was given back.
"""

_LOCK_RUN = "select 1 from runs where id = ? for update"

_OVERDUE = f"""
    select run_id, id, step, due_at from visits where queue = ? and {ACTIVE} and due_at < ? order by due_at, position limit ?
"""

_IN_THE_WAY = ("40001", "40P01")
"""Transactions were in each other's way, and the server has undone this one."""

_NOT_PREPARED = ("26000", "42P05")
"""A connection is not the session it was: something that pools transactions stands between."""

_FAREWELLS = ("57P01", "57P02", "57P03", "57P05", "25P03")
"""The server ends the session, and with it what was not committed."""

_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""One that is made without asking the system for anything."""

_STALE_PLAN = "0A000"
"""Among other things: a table has other columns than when the statement was prepared."""

logger = logging.getLogger("noetl.executor")


class PostgresDatabase:
    """The database that a libpq URI leads to, or what gives one: it is asked for every new connection, so that a password may
    change. With `messages`, those are told of what a transaction has made due for workers of a
    service, once it is committed; otherwise other processes hear of it from the server.

    Raises:
        StoreError: any method, when it cannot be reached or fails; the constructor also when its schema is not up to date.
        UnwrittenError: `transaction`, `change` and `change_of`, when it failed for a reason that passes, and nothing was written.
    """

    def __init__(self, uri: str | Callable[[], str], messages: MessageQueue | None = None) -> None:
        try:
            import psycopg
            from psycopg.rows import dict_row
            from psycopg_pool import ConnectionPool
        except ImportError as error:
            raise StoreError(
                "A store in Postgres needs the extra `postgres` of this installation."
            ) from error
        self._uri = uri
        self._messages = messages
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            self._conninfo,
            kwargs={"autocommit": True, "row_factory": dict_row},
            min_size=1,
            max_size=MOST_CONNECTIONS if messages is None else MOST_CONNECTIONS_BESIDE_A_QUEUE,
            timeout=CONNECT_SECONDS,
            reconnect_timeout=CONNECT_SECONDS,
            configure=settle,
            check=_check,
            open=False,
        )
        self._prepare_after: int | None = PREPARE_AFTER
        self._listeners: list[Listener] = []
        self._at_work = threading.local()
        try:
            # A pool that finds no server says so after a while only, and not why.
            with psycopg.connect(self._conninfo(), autocommit=True) as connection:
                _check_schema(connection)
            self._pool.open()
        except BaseException as error:
            self.close()
            if isinstance(error, StoreError | SettingError):
                raise
            raise failure_of(error) from error

    def _conninfo(self) -> str:
        return conninfo_of(self._uri if isinstance(self._uri, str) else self._uri())

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._pool.close(timeout=5)

    @contextmanager
    def transaction(self) -> Iterator[PostgresWriter]:
        """A transaction. Statements wait for those of others that have locked the same rows. What this thread reads meanwhile
        by `all` and `one` belongs to it. Statements are sent together until somebody wants to know what one of them gave.
        """
        is_committing = False
        due: list[DueMessage] = []
        with self._connection(lambda: not is_committing) as connection:
            try:
                # A transaction of psycopg would wait for the answer to its `begin`.
                with connection.pipeline():
                    connection.execute("BEGIN")
                    self._at_work.writer = writer = PostgresWriter(connection)
                    yield writer
                    if self._messages is not None and writer.runs:
                        told = (list(writer.runs), SERVICE, time.time(), NEVER)
                        due = _notes(writer.execute(_MADE_DUE, told).fetchall())
                    is_committing = True
                    connection.execute("COMMIT")
            except BaseException:
                # A connection that is lost has nothing to undo; why it is, is what is to be told.
                with suppress(Exception):
                    connection.rollback()
                raise
            finally:
                self._at_work.writer = None
        self.send_messages(due)

    def fetch_all(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """The rows that a query finds."""
        if not all(map(_can_be_kept, values)):
            return []
        writer: PostgresWriter | None = getattr(self._at_work, "writer", None)
        return self._read(query, values) if writer is None else writer.execute(query, values).fetchall()

    def fetch_one(self, query: str, *values: Any) -> dict[str, Any]:
        """The first row that a query finds, where there must be one."""
        rows = self.fetch_all(query, *values)
        if not rows:
            raise StoreError("The store in Postgres lacks what it should hold.")
        return rows[0]

    def execute_returning(self, query: str, *values: Any) -> dict[str, Any] | None:
        """The row that a statement gives, if any, which is a transaction of its own."""
        with self._connection(lambda: False) as connection:
            return PostgresWriter(connection).execute(query, values).fetchone()

    def execute_returning_locked(self, run_id: str, query: str, *values: Any) -> dict[str, Any] | None:
        """The row that a statement gives, if any, in a transaction of its own which has locked the run before."""
        with self._connection(lambda: False) as connection:
            # What is sent before the server is asked to come to an end of it is one transaction.
            with connection.pipeline():
                writer = PostgresWriter(connection)
                writer.execute(_LOCK_RUN, (run_id,))
                given = writer.execute(query, values)
            return given.fetchone()

    def lock_name(self, db: Any, name: str) -> None:
        """Let no other transaction lock the name until this one is done."""
        db.execute("select pg_advisory_xact_lock(hashtextextended(?, 0))", (name,))

    def lock_run(self, db: Any, run_id: str) -> None:
        """Let no other transaction write to a run until this one is done."""
        self.mark_run_written(db, run_id)
        db.execute(_LOCK_RUN, (run_id,))

    def mark_run_written(self, db: Any, run_id: str) -> None:
        """Say that this transaction writes to a run which one of its statements has locked."""
        self._at_work.writer.runs.add(run_id)

    def find_overdue(self, since: float, limit: int) -> list[DueMessage]:
        """So many of the visits that were due before a time, and are of workers of a service."""
        return _notes(self.fetch_all(_OVERDUE, SERVICE, since, limit))

    def send_messages(self, messages: Sequence[DueMessage]) -> None:
        """Send messages about what is due. That it could not be done is not an error: a sweep finds what nobody goes on with."""
        if self._messages is None or not messages:
            return
        try:
            self._messages.send(messages, time.time())
        except StoreError as error:
            logger.warning(
                "no message was sent about %d visits that are due; a sweep sends it: %s", len(messages), error
            )

    def notify(self) -> None:
        """Let other processes know that something is due or has changed. That it could not be done is not an error."""
        if self._messages is None:
            with suppress(StoreError):
                self.execute_returning(f"select pg_notify('{CHANNEL}', '')")

    def listen(self, heard: Callable[[], object]) -> None:
        """From now on a thread calls `heard` when a process has written something that is due, until the database is closed."""
        if self._messages is None:
            self._listeners.append(Listener(self._conninfo(), heard))

    @retry_unwritten
    def _read(self, query: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        with self._connection(lambda: True) as connection:
            return PostgresWriter(connection).execute(query, values).fetchall()

    @contextmanager
    def _connection(self, is_unwritten: Callable[[], bool]) -> Iterator[Connection]:
        """A connection of the pool. `is_unwritten` tells whether what is lost with it cannot have been written."""
        import psycopg
        from psycopg_pool import PoolTimeout

        try:
            with self._pool.connection() as connection:
                connection.prepare_threshold = self._prepare_after
                try:
                    yield connection
                except psycopg.Error as error:
                    if self._passes(error, connection, is_unwritten):
                        raise UnwrittenError(str(failure_of(error))) from error
                    raise
        except PoolTimeout as error:
            raise self._why_no_connection() from error
        except psycopg.Error as error:
            raise failure_of(error) from error

    def _passes(self, error: psycopg.Error, connection: Connection, is_unwritten: Callable[[], bool]) -> bool:
        """Whether nothing was written, and the same may go well the next time."""
        if error.sqlstate in _IN_THE_WAY:
            return True
        if error.sqlstate in _NOT_PREPARED or (error.sqlstate == _STALE_PLAN and "cached plan" in str(error)):
            if error.sqlstate in _NOT_PREPARED:
                self._prepare_after = None
            connection.close()
            return True
        return (connection.broken or error.sqlstate in _FAREWELLS) and is_unwritten()

    def _why_no_connection(self) -> StoreError:
        """What keeps the pool from giving a connection, which it does not say."""
        import psycopg

        try:
            psycopg.connect(self._conninfo(), connect_timeout=2).close()
        except psycopg.Error as error:
            return failure_of(error)
        return StoreError("The store in Postgres failed: all connections of this process are in use.")


class PostgresWriter:
    """A connection that takes the SQL of `noetl.executor.stores.sql.database`. `runs` are those that its transaction writes to."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.runs: set[str] = set()

    def execute(self, query: str, values: Sequence[Any] = (), /) -> PostgresResult:
        return PostgresResult(
            self._connection.execute(_translated(query), [_plain(value) for value in values])
        )

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> None:
        listed = [[_plain(value) for value in row] for row in rows]
        if len(listed) == 1:
            self._connection.execute(_translated(query), listed[0])
        elif listed:
            with self._connection.cursor() as cursor:
                cursor.executemany(_translated(query), listed)


class PostgresResult:
    """What a statement gave. Of one that was sent in a pipeline nothing is known until it is asked for."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: psycopg.Cursor[dict[str, Any]]) -> None:
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        if self._cursor.pgresult is None:
            # `Pipeline.sync` would wait for the answer to what it has sent in part only, when that is much.
            try:
                self._cursor.fetchone()
            except self._cursor.connection.ProgrammingError:
                if self._cursor.pgresult is None:
                    raise
        return self._cursor.rowcount

    def fetchone(self) -> dict[str, Any] | None:
        return self._cursor.fetchone()

    def fetchall(self) -> list[dict[str, Any]]:
        return self._cursor.fetchall()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._cursor)


def _notes(rows: Iterable[Mapping[str, Any]]) -> list[DueMessage]:
    return [DueMessage(row["run_id"], row["id"], row["step"], row["due_at"]) for row in rows]


def _check(connection: psycopg.Connection[Any]) -> None:
    """Nothing, unless the server has something to say to an idle connection: farewell, most likely."""
    with _Selector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        if selector.select(0):
            connection.execute("select 1", prepare=False)


def _check_schema(connection: psycopg.Connection[Any]) -> None:
    there = connection.execute("select to_regclass('noetl_migrations')").fetchone()
    applied = 0
    if there is not None and there[0] is not None:
        row = connection.execute("select coalesce(max(number), 0) from noetl_migrations").fetchone()
        applied = 0 if row is None else row[0]
    if applied < SCHEMA_VERSION:
        raise SchemaError("The schema of the store in Postgres is not up to date: run `noetl db upgrade`.")
    if applied > SCHEMA_VERSION:
        message = f"The store in Postgres has schema {applied}, and this version of noetl knows {SCHEMA_VERSION}: it takes a later one."
        raise SchemaError(message)


@lru_cache(maxsize=1024)
def _translated(query: str) -> bytes:
    return query.replace("%", "%%").replace("?", "%s").encode()


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _can_be_kept(value: Any) -> bool:
    """Whether there can be such a value in a column: not text with a NUL, or half a surrogate pair, in it."""
    if not isinstance(value, str):
        return True
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
