"""The Postgres of a store: its connections, its schema, and what other processes have to say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from executor.errors import StoreError

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

    Connection = psycopg.Connection[dict[str, Any]]

CONNECT_SECONDS = 10.0
STATEMENT_SECONDS = 30
LISTEN_SECONDS = 0.5
CHANNEL = "noetl"
_MOST_CONNECTIONS = 64
SCHEMA_VERSION = 1
"""How many of the migrations in `infra/postgres` this version needs."""


class PostgresDatabase:
    """The database that a libpq URI leads to.

    Raises:
        StoreError: any method, when it cannot be reached or fails; the constructor also when its schema is not up to date.
    """

    def __init__(self, uri: str) -> None:
        try:
            import psycopg
            from psycopg.rows import dict_row
            from psycopg_pool import ConnectionPool
        except ImportError as error:
            raise StoreError("A store in Postgres needs the extra `postgres` of this installation.") from error
        self._uri = uri
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            uri,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "connect_timeout": int(CONNECT_SECONDS),
                "application_name": "noetl",
                "options": f"-c statement_timeout={STATEMENT_SECONDS * 1000} -c idle_in_transaction_session_timeout=60000",
            },
            min_size=1,
            max_size=_MOST_CONNECTIONS,
            timeout=CONNECT_SECONDS,
            reconnect_timeout=CONNECT_SECONDS,
            open=False,
        )
        self._closed = threading.Event()
        self._listeners: list[threading.Thread] = []
        try:
            # A pool that finds no server says so after a while only, and not why.
            with psycopg.connect(uri, autocommit=True, connect_timeout=int(CONNECT_SECONDS)) as connection:
                _check_schema(connection)
            self._pool.open()
        except BaseException as error:
            self.close()
            if isinstance(error, StoreError):
                raise
            raise self._failure(error) from error

    def close(self) -> None:
        self._closed.set()
        for thread in self._listeners:
            thread.join(2 * LISTEN_SECONDS)
        self._pool.close(timeout=5)

    @contextmanager
    def transaction(self) -> Iterator[PostgresWriter]:
        """A transaction. Statements wait for those of others that have locked the same rows."""
        with self._failing(), self._pool.connection() as connection, connection.transaction():
            yield PostgresWriter(connection)

    def all(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """The rows that a query finds."""
        with self._failing(), self._pool.connection() as connection:
            return PostgresWriter(connection).execute(query, values).fetchall()

    def one(self, query: str, *values: Any) -> dict[str, Any]:
        """The first row that a query finds, where there must be one."""
        rows = self.all(query, *values)
        if not rows:
            raise StoreError("The store in Postgres lacks what it should hold.")
        return rows[0]

    def lock_name(self, db: Any, name: str) -> None:
        """Let no other transaction lock the name until this one is done."""
        db.execute("select pg_advisory_xact_lock(hashtextextended(?, 0))", (name,))

    def notify(self) -> None:
        """Let other processes know that something is due or has changed. That it could not be done is not an error."""
        with suppress(StoreError):
            self.all(f"select pg_notify('{CHANNEL}', '')")

    def lock_run(self, db: Any, run_id: str) -> None:
        """Let no other transaction write to a run until this one is done."""
        db.execute("select 1 from runs where id = ? for update", (run_id,))

    def listen(self, heard: Callable[[], object]) -> None:
        """From now on a thread calls `heard` when a process has written something that is due, until the database is closed."""
        thread = threading.Thread(target=self._listen, args=(heard,), name="noetl-listen", daemon=True)
        self._listeners.append(thread)
        thread.start()

    def _listen(self, heard: Callable[[], object]) -> None:
        import psycopg

        while not self._closed.is_set():
            # Who does not hear looks by himself now and then, so a connection that is lost is only slower.
            with suppress(psycopg.Error), psycopg.connect(self._uri, autocommit=True) as connection:
                connection.execute(f"listen {CHANNEL}".encode())
                while not self._closed.is_set():
                    for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                        heard()
            self._closed.wait(LISTEN_SECONDS)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: BaseException) -> StoreError:
        reason = str(error).strip().split("\n")[0]
        return StoreError(f"The store in Postgres failed: {reason}.")


class PostgresWriter:
    """A connection that takes the SQL of `executor.stores.database`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, query: str, values: Sequence[Any] = (), /) -> psycopg.Cursor[dict[str, Any]]:
        return self._connection.execute(_translated(query), [_plain(value) for value in values])

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> None:
        listed = [[_plain(value) for value in row] for row in rows]
        if len(listed) == 1:
            self._connection.execute(_translated(query), listed[0])
        elif listed:
            with self._connection.cursor() as cursor:
                cursor.executemany(_translated(query), listed)


def _check_schema(connection: psycopg.Connection[Any]) -> None:
    there = connection.execute("select to_regclass('noetl_migrations')").fetchone()
    applied = 0
    if there is not None and there[0] is not None:
        row = connection.execute("select coalesce(max(number), 0) from noetl_migrations").fetchone()
        applied = 0 if row is None else row[0]
    if applied < SCHEMA_VERSION:
        raise StoreError("The schema of the store in Postgres is not up to date: run `noetl db upgrade`.")
    if applied > SCHEMA_VERSION:
        message = f"The store in Postgres has schema {applied}, and this version of noetl knows {SCHEMA_VERSION}."
        raise StoreError(message)


@lru_cache(maxsize=1024)
def _translated(query: str) -> bytes:
    return query.replace("?", "%s").encode()


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
