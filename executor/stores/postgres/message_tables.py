"""Tables of messages in the database of a store in Postgres, which triggers read.

Problem: several processes read one table, and each may die after it has started the run of a message.

Algorithm: competing consumers. A transaction locks some rows and passes over those that others have locked
(`SKIP LOCKED`). It stays open while their messages are handled. Then it deletes the rows that are done. The
others count one receive more, and are dead after the greatest number of receives. So does a row whose
handling fails for an unknown reason, since it would block those behind it.

A body is read as text, since Python cannot represent every `jsonb`: a number may have too many digits.

Cost: one transaction for each batch, and one connection for each process that reads tables.

Limits: if the process dies, its transaction is rolled back, and nothing was counted. The rows are handled
again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from noetl.executor.errors import RejectedError, StoreError, TriggerChangedError
from noetl.executor.stores.postgres.address import failure_of

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[dict[str, Any]]

_SELECT = (
    "select id, body::text as body, receives from {} where dead_at is null"
    " order by id limit %s for update skip locked"
)
_DELETE = "delete from {} where id = any(%s)"
_COUNT = (
    "update {} set receives = receives + 1, dead_at = case when receives + 1 >= %s then now() end"
    " where id = any(%s)"
)


class MessageTables:
    """The tables of messages. One thread reads them."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None

    def read_batch(
        self, table: str, limit: int, max_receives: int, handle: Callable[[Mapping[str, Any]], bool]
    ) -> int:
        """Handle up to `limit` messages of a table, and return their number.

        `handle` gets a row with `id`, `body` as text and `receives`, and returns whether it is done. If it
        raises an error, the rows before are written, and the error is raised.

        Raises:
            StoreError: the database cannot be reached, or there is no such table.
        """
        import psycopg

        try:
            connection = self._open()
            with connection.transaction():
                rows = connection.execute(_statement(_SELECT, table), (limit,)).fetchall()
                done, counted, problem = _handle_all(rows, handle)
                if done:
                    connection.execute(_statement(_DELETE, table), (done,))
                if counted:
                    connection.execute(_statement(_COUNT, table), (max_receives, counted))
        except psycopg.Error as error:
            self.close()
            raise failure_of(error) from error
        if problem is not None:
            raise problem
        return len(rows)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection


def _handle_all(
    rows: list[dict[str, Any]], handle: Callable[[Mapping[str, Any]], bool]
) -> tuple[list[Any], list[Any], Exception | None]:
    """Return the ids of rows that are done, those of refused rows, and the error that has ended the batch."""
    done: list[Any] = []
    counted: list[Any] = []
    for row in rows:
        try:
            (done if handle(row) else counted).append(row["id"])
        except (RejectedError, StoreError, TriggerChangedError) as problem:
            return done, counted, problem
        except Exception as problem:  # noqa: BLE001  The caller raises it.
            return done, [*counted, row["id"]], problem
    return done, counted, None


def _statement(text: str, table: str) -> Any:
    """Return a statement with the name of a table, which may have a schema."""
    from psycopg import sql

    return sql.SQL(text).format(sql.Identifier(*table.split(".")))
