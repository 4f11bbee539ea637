"""The Postgres database of a store: connections, transactions, and failures that may be retried.

Problem: a transaction may take several round trips, and may fail because of a conflict, a restart or a lost
connection. Only a transaction that certainly wrote nothing may be retried.

Algorithm: statements are sent in a pipeline, and the client waits only if it needs a result. A failure
counts as "nothing written" if the server rolled back, or if the connection was lost before `COMMIT` was
sent. Visits that a transaction made due are found by `xmin`, the id of the transaction that wrote a row.

Cost: one round trip for each result that the code needs, and one for `COMMIT`.

Limits: a connection that is lost during `COMMIT` leaves open whether the transaction was applied.
"""

from __future__ import annotations

import logging
import secrets
import selectors
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noetl.executor.errors import ChangedSchemaError, SchemaError, SettingError, StoreAwayError, StoreError
from noetl.executor.model.run import NEVER, SERVICE_QUEUE
from noetl.executor.patience import patience_seconds
from noetl.executor.precedence import StoreOperation
from noetl.executor.stores.postgres.address import (
    CONNECT_SECONDS,
    configure_session,
    conninfo_of,
    failure_of,
    prepare_client,
)
from noetl.executor.stores.postgres.listener import (
    CHANNEL,
    Listener,
    read_payloads,
    write_payload,
)
from noetl.executor.stores.postgres.notifier import Notifier
from noetl.executor.stores.postgres.pooler import Pooler, find_pooler
from noetl.executor.stores.sql.database import AwayUnwrittenError, Result, UnwrittenError, unstorable_text
from noetl.executor.stores.sql.statements import Statements, to_psycopg
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.executor.stores.store_clock import StoreClock

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

    Connection = psycopg.Connection[dict[str, Any]]

STATEMENTS = Statements(Path(__file__).parent / "queries", to_psycopg)
DEFAULT_THREADS = 8
EXTRA_CONNECTIONS = 8
"""Connections of a process for requests, leases and the sweep. A statement holds one briefly."""

MAX_CONNECTIONS = 64
MAX_CONNECTIONS_WITH_QUEUE = 4
"""Connections of a process if messages of a queue start many processes. A statement holds one."""

MAX_IDLE_SECONDS = 60.0
"""How long a connection is kept that nothing needs: a restart of the server makes many at once."""

CLOSE_SECONDS = 5.0
"""How long `close` waits for threads that still use a connection."""

PREPARE_AFTER = 5
"""Number of executions of a statement after which a connection prepares it."""

SCHEMA_VERSION = 33
"""Number of migrations in `infra/postgres` that this version needs."""

_CONFLICTS = ("40001", "40P01")
"""Serialization failure and deadlock: the server has rolled back this transaction."""

_NOT_PREPARED = ("26000", "42P05")
"""Prepared statement missing or duplicate: a pooler gives each transaction another session."""

_SESSION_ENDED = ("57P01", "57P02", "57P03", "57P05", "25P03")
"""The server has ended the session and rolled back its transaction."""

_READ_ONLY = "25006"
"""The session may not write: its server is a standby, or was read-only when the session began."""

_DISK_FAILURES = ("53100", "58030")
"""The disk of the server is full, or has failed. Reads and small writes may go on."""

_TRIED_BYTES = 100_000
"""Size of the row that shows whether the server has room again: more than what is free in a table."""

_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""A selector that is created without a system call."""

_STALE_PLAN = ("0A000", "RevalidateCachedQuery")
"""A table has other columns than when the statement was prepared: the code, which has other causes too, and
the function of the server. The message has the language of the server.
"""

logger = logging.getLogger("noetl.executor")


class PostgresDatabase:
    """The database at a libpq URI, or at the URI that a function returns for every new connection.

    The function allows a password to change. The process has at most EXTRA_CONNECTIONS more connections than
    `threads`, which execute visits, also when all connect at once after a restart of the server.

    With `message_queue`, a committed transaction sends messages about the visits of service runs that it made
    due. Without it, other processes receive a `NOTIFY`.

    Raises:
        StoreError: any method, if the database cannot be reached or fails; the constructor also if its
            schema is not up to date.
        UnwrittenError: any method, if it failed for a transient reason and wrote nothing.
    """

    max_plan_parts = sys.maxsize
    """As in `Database`: writers of Postgres do not wait for each other."""

    max_deleted_rows = 5000
    """As in `Database`. Each statement reads past the rows that were deleted before."""

    def __init__(
        self,
        uri: str | Callable[[], str],
        message_queue: MessageQueue | None = None,
        threads: int | None = None,
    ) -> None:
        try:
            import psycopg
            from psycopg.rows import dict_row
            from psycopg_pool import ConnectionPool

            from noetl.executor.stores.postgres.patient_connection import PatientConnection
        except ImportError as error:
            from noetl.executor.extras import install_command

            command = install_command("postgres", sys.executable)
            raise StoreError(
                f"A store in Postgres needs the package psycopg. Install it with `{command}`."
            ) from error
        self._uri = uri
        self.message_queue = message_queue
        max_connections = min((threads or DEFAULT_THREADS) + EXTRA_CONNECTIONS, MAX_CONNECTIONS)
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            self._conninfo,
            connection_class=PatientConnection,
            kwargs={"autocommit": True, "row_factory": dict_row},
            min_size=1,
            max_size=max_connections if message_queue is None else MAX_CONNECTIONS_WITH_QUEUE,
            timeout=CONNECT_SECONDS,
            reconnect_timeout=CONNECT_SECONDS,
            max_idle=MAX_IDLE_SECONDS,
            configure=self._configure,
            check=_check_connection,
            open=False,
        )
        self._prepare_after: int | None = PREPARE_AFTER
        self._pooler = Pooler.NONE
        self._listeners: list[Listener] = []
        self._notifier = Notifier(self._send_notification)
        self._has_failed_disk = False
        self._process = secrets.token_hex(8)
        """The sender of the notifications of this process, which needs none of them itself."""
        self._thread = threading.local()
        try:
            # A pool that finds no server reports it late and without the reason.
            with psycopg.connect(self._conninfo(), autocommit=True) as connection:
                self._pooler = find_pooler(connection, _check_schema(connection))
            if self._pooler is Pooler.FORGETS_PREPARED:
                self._prepare_after = None
            self._pool.open()
            self.clock = StoreClock(lambda: float(self.fetch_one("database.read_time")["seconds"]))
        except BaseException as error:
            self.close()
            if isinstance(error, StoreError | SettingError):
                raise
            raise failure_of(error) from error

    def _conninfo(self) -> str:
        return conninfo_of(self._uri if isinstance(self._uri, str) else self._uri())

    def _configure(self, connection: psycopg.Connection[Any]) -> None:
        """Configure a new connection of the pool."""
        if self._pooler is Pooler.NONE:
            configure_session(connection)
        prepare_client(connection)

    def connect_session(self) -> Connection:
        """Return a new connection, which is not one of the pool, and prepares nothing.

        Raises:
            psycopg.Error: the database cannot be reached.
        """
        import psycopg
        from psycopg.rows import dict_row

        return psycopg.connect(
            self._conninfo(), autocommit=True, prepare_threshold=None, row_factory=dict_row
        )

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._notifier.close(CLOSE_SECONDS)
        self._pool.close(timeout=CLOSE_SECONDS)

    @contextmanager
    def transaction(self, after_commit: Callable[[], object] = lambda: None) -> Iterator[PostgresWriter]:
        """Begin a transaction in a pipeline: statements are sent together until a result is needed.

        What this thread reads by `fetch_all` and `fetch_one` meanwhile is part of the transaction.
        """
        is_committing = False
        due: list[DueMessage] = []
        with self._connection(lambda: not is_committing) as connection:
            try:
                # A transaction of psycopg would wait for the result of its `begin`.
                with connection.pipeline():
                    connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                    self._thread.writer = writer = PostgresWriter(connection)
                    yield writer
                    if self.message_queue is not None and writer.runs:
                        due = writer.find_made_due()
                    is_committing = True
                    connection.execute("COMMIT")
            except BaseException:
                # On a lost connection the rollback fails too. The first error must be reported.
                with suppress(Exception):
                    connection.rollback()
                raise
            finally:
                self._thread.writer = None
        self.send_messages(due)
        after_commit()

    def fetch_all(self, query: str, /, **values: Any) -> list[dict[str, Any]]:
        """Return all rows of a query."""
        if not all(map(_is_storable, values.values())):
            return []
        writer: PostgresWriter | None = getattr(self._thread, "writer", None)
        if writer is not None:
            return writer.execute(query, **values).fetchall()
        with self._connection(lambda: True) as connection:
            return PostgresWriter(connection).execute(query, **values).fetchall()

    def fetch_one(self, query: str, /, **values: Any) -> dict[str, Any]:
        """Return the first row of a query, or raise StoreError if there is none."""
        rows = self.fetch_all(query, **values)
        if not rows:
            raise StoreError("The store in Postgres is damaged: a required row is missing.")
        return rows[0]

    def failures_part(self, run_id: str, visit_id: str, start: int, length: int) -> str:
        """Return a part of the failed items of a visit."""
        key = {"run_id": run_id, "visit_id": visit_id}
        rows = self.fetch_all("visits.failures_text", **key, place=start + 1, length=length)
        return str(rows[0]["part"]) if rows else ""

    def probe(self) -> None:
        """Return if the server answers, and lets the store write."""
        if not self.fetch_one("database.is_writable")["writable"]:
            raise StoreError(
                "The store in Postgres is read-only: name the primary server in NOETL_STORE, or let its user"
                " write."
            )
        if self._has_failed_disk:
            self._write_again()

    def _write_again(self) -> None:
        """Write a large row and roll it back. That a disk is full or fails does not show otherwise."""
        row = {"hash": f"probe {self._process}", "header": "", "source": secrets.token_hex(_TRIED_BYTES // 2)}
        with self._connection(lambda: True) as connection, connection.transaction(force_rollback=True):
            PostgresWriter(connection).execute("plans.add", **row, now=0.0)
        self._has_failed_disk = False

    def execute_returning(self, query: str, /, **values: Any) -> dict[str, Any] | None:
        """Execute one statement as a transaction, and return its first row or None."""
        with self._connection(lambda: False) as connection:
            return PostgresWriter(connection).execute(query, **values).fetchone()

    def execute_returning_locked(self, query: str, /, **values: Any) -> dict[str, Any] | None:
        """Lock the run `run_id` and execute one statement in a transaction. Return its first row or None."""
        lock = ("database.lock_run", {"run_id": values["run_id"]})
        return self.execute_together([lock, (query, values)])[1]

    def execute_together(
        self, statements: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> list[dict[str, Any] | None]:
        """Execute statements as one transaction, in one round trip. Return the first row or None of each."""
        with self._connection(lambda: False) as connection:
            # Statements of a pipeline up to its synchronization are one transaction.
            with connection.pipeline():
                writer = PostgresWriter(connection)
                results = [writer.execute(query, **values) for query, values in statements]
            return [result.fetchone() for result in results]

    def encode_list(self, values: Sequence[str]) -> list[str]:
        """Return a list, which the driver sends as an array."""
        return list(values)

    def find_overdue(self, before: float, limit: int) -> list[DueMessage]:
        """Return messages about up to `limit` visits of service runs that were due before a time."""
        return _due_messages(
            self.fetch_all("database.find_overdue", queue=SERVICE_QUEUE, before=before, limit=limit)
        )

    def send_messages(self, messages: Sequence[DueMessage]) -> None:
        """Send messages about due visits. A failure is only logged, since a sweep sends them again."""
        if self.message_queue is None or not messages:
            return
        try:
            self.message_queue.send(messages, self.clock())
        except StoreError as error:
            logger.warning(
                "no message was sent about %d due visits; a sweep will send them: %s", len(messages), error
            )

    def notify(self, due: int | None) -> None:
        """Let a thread notify other processes that runs changed, and how many visits became due."""
        if self.message_queue is None:
            self._notifier.notify(due)

    def _send_notification(self, due: int | None) -> None:
        """Notify other processes. A failure is ignored, since they also poll."""
        with suppress(StoreError):
            message = write_payload(self._process, due)
            self.execute_returning("database.notify", channel=CHANNEL, message=message)

    def listen(self, on_notify: Callable[[int | None], object]) -> None:
        """Start a thread that calls `on_notify` for each notification of another process, until the database
        is closed. Its argument is the number of visits that became due, or None if it is unknown.

        A pooler may lose notifications, or give them to other clients. Behind one, no thread is started.
        """

        def receive(payloads: Sequence[str]) -> None:
            for due in read_payloads(payloads, self._process):
                on_notify(due)

        if self.message_queue is None and self._pooler is Pooler.NONE:
            self._listeners.append(Listener(self._conninfo(), receive))

    @contextmanager
    def _connection(self, is_unwritten: Callable[[], bool]) -> Iterator[Connection]:
        """Take a connection of the pool. `is_unwritten` says whether a lost connection has certainly
        written nothing.
        """
        import psycopg
        from psycopg_pool import PoolTimeout

        try:
            with StoreOperation(), self._pool.connection(timeout=patience_seconds()) as connection:
                connection.prepare_threshold = self._prepare_after
                try:
                    yield connection
                except psycopg.Error as error:
                    self._has_failed_disk = self._has_failed_disk or error.sqlstate in _DISK_FAILURES
                    if self._may_retry(error, connection, is_unwritten):
                        raise _unwritten(failure_of(error)) from error
                    raise
        except PoolTimeout as error:
            raise self._connection_failure() from error
        except UnicodeEncodeError as error:
            raise unstorable_text() from error
        except psycopg.Error as error:
            # The driver refuses a NUL itself, so the server has given no code.
            if isinstance(error, psycopg.DataError) and error.sqlstate is None:
                raise unstorable_text() from error
            raise failure_of(error) from error

    def _may_retry(
        self, error: psycopg.Error, connection: Connection, is_unwritten: Callable[[], bool]
    ) -> bool:
        """Return whether nothing was written and a retry may succeed."""
        if error.sqlstate in _CONFLICTS:
            return True
        if error.sqlstate == _READ_ONLY:
            # It stays so until its end. A new session may reach another server, or be allowed to write.
            connection.close()
            return False
        is_stale = (error.sqlstate, error.diag.source_function) == _STALE_PLAN
        if is_stale or error.sqlstate in _NOT_PREPARED:
            if error.sqlstate in _NOT_PREPARED:
                self._prepare_after = None
            connection.close()
            return True
        return (connection.broken or error.sqlstate in _SESSION_ENDED) and is_unwritten()

    def _connection_failure(self) -> StoreError:
        """Return why the pool has no connection, which the pool does not report."""
        import psycopg

        seconds = patience_seconds()
        if seconds is not None:
            return StoreAwayError(f"The store in Postgres failed: no connection within {seconds:g} s.")
        try:
            psycopg.connect(self._conninfo(), connect_timeout=2).close()
        except psycopg.Error as error:
            return failure_of(error)
        statistics = self._pool.get_stats()
        if statistics["pool_size"] < self._pool.max_size:
            return StoreAwayError("The store in Postgres failed: it was away for some seconds, and is back.")
        return StoreError("The store in Postgres failed: all connections of this process are in use.")


def _unwritten(failure: StoreError) -> UnwrittenError:
    """Return the error that lets an operation be retried. The last one says whether the server is away."""
    error_type = AwayUnwrittenError if isinstance(failure, StoreAwayError) else UnwrittenError
    return error_type(str(failure))


class PostgresWriter:
    """A connection that accepts the queries of `sql/database.py`. `runs` are those that it writes to."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.runs: set[str] = set()
        self.returned_slots: list[Result] = []

    def execute(self, query: str, /, **values: Any) -> PostgresResult:
        return PostgresResult(self._connection.execute(STATEMENTS.text(query, values), _to_columns(values)))

    def executemany(self, query: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        listed = [_to_columns(values) for values in rows]
        if len(listed) == 1:
            self._connection.execute(STATEMENTS.text(query, listed[0]), listed[0])
        elif listed:
            with self._connection.cursor() as cursor:
                cursor.executemany(STATEMENTS.text(query, listed[0]), listed)

    def lock_name(self, name: str) -> None:
        """Lock a name until the end of the transaction."""
        self.execute("database.lock_name", name=name)

    def lock_run(self, run_id: str) -> None:
        """Lock a run against other writers until the end of the transaction."""
        self.mark_run_written(run_id)
        self.execute("database.lock_run", run_id=run_id)

    def mark_run_written(self, run_id: str) -> None:
        """Register that the transaction writes to a run that one of its statements has locked."""
        self.runs.add(run_id)

    def columns_of_run(self, data: Mapping[str, str]) -> Mapping[str, str]:
        """Return all data: Postgres keeps large values apart by itself."""
        return data

    def write_run_data(self, run_id: str, data: Mapping[str, str]) -> None:
        """Return at once: the row of a run has its data."""

    def find_made_due(self) -> list[DueMessage]:
        """Return messages about the visits of service runs that this transaction has made due."""
        rows = self.execute("database.made_due", run_ids=list(self.runs), queue=SERVICE_QUEUE, never=NEVER)
        return _due_messages(rows)


class PostgresResult:
    """The result of a statement, which a pipeline fetches when it is used."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: psycopg.Cursor[dict[str, Any]]) -> None:
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        if self._cursor.pgresult is None:
            # `Pipeline.sync` would block forever if a long statement was sent only in part.
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


def _due_messages(rows: Iterable[Mapping[str, Any]]) -> list[DueMessage]:
    return [
        DueMessage(row["run_id"], row["id"], row["step"], row["due_at"], tenant=row["tenant"]) for row in rows
    ]


def _check_connection(connection: psycopg.Connection[Any]) -> None:
    """Check an idle connection if the server has sent something, most likely that it ends the session."""
    with _Selector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        if selector.select(0):
            connection.execute("select 1", prepare=False)


def _check_schema(connection: psycopg.Connection[Any]) -> int:
    """Check that the schema is that of this version. Return the process id of the session."""
    query = "select to_regclass('noetl_migrations') is not null, pg_backend_pid()"
    row = connection.execute(query).fetchone()
    assert row is not None
    has_table, backend_pid = row
    applied = 0
    if has_table:
        row = connection.execute("select coalesce(max(number), 0) from noetl_migrations").fetchone()
        applied = 0 if row is None else row[0]
    if applied < SCHEMA_VERSION:
        raise SchemaError("The schema of the store in Postgres is not up to date: run `noetl db upgrade`.")
    if applied > SCHEMA_VERSION:
        raise ChangedSchemaError(
            f"The store in Postgres has schema {applied}, but this version of noetl knows only"
            f" {SCHEMA_VERSION}: install a later version."
        )
    return int(backend_pid)


def _to_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def _is_storable(value: Any) -> bool:
    """Return whether a column can hold the value: no text with a NUL or with half a surrogate pair."""
    if isinstance(value, list):
        return all(map(_is_storable, value))
    if not isinstance(value, str):
        return True
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
