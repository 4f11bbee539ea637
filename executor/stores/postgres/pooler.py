"""Detection of a connection pooler, such as PgBouncer, between a store and its server.

Problem: a pooler may give each transaction another session. Then prepared statements and notifications of a
session are lost, or reach another process. If it gives each statement another session, there are no
transactions.

Algorithm: a pooler invents the process id that a connection receives at its start, while `pg_backend_pid()`
is that of the session. If they differ, a transaction prepares a statement and looks it up. A pooler that
follows prepared statements has given it another name.

Cost: nothing without a pooler, because another query reads the process id. With one, five round trips.

Limits: the configuration of a pooler may change later. So the names of prepared statements are random, and
`PostgresDatabase` prepares none after the first that is missing.
"""

from __future__ import annotations

import secrets
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from noetl.executor.errors import StoreError

if TYPE_CHECKING:
    import psycopg

_NO_TRANSACTIONS = "transaction blocks not allowed"
"""Part of the message of PgBouncer, which is in English only."""

_PROBE = "select 'noetl checks whether a pooler follows prepared statements'"


class Pooler(Enum):
    """The kinds of connection poolers between a store and its server."""

    NONE = auto()
    FOLLOWS_PREPARED = auto()
    """A pooler that prepares a statement again in each session that needs it."""

    FORGETS_PREPARED = auto()
    """A pooler whose sessions may lack a prepared statement, or have that of another process."""


def set_random_names(connection: psycopg.Connection[Any]) -> int:
    """Give the prepared statements of a connection names that no other connection uses.

    Return the number of the next one. psycopg counts from 0 in each connection, and has no public way to set
    the names.
    """
    number = connection._prepared._prepared_idx = secrets.randbits(62)  # noqa: SLF001
    return number


def find_pooler(connection: psycopg.Connection[Any], backend_pid: int) -> Pooler:
    """Return the pooler of a connection in autocommit mode whose session reports a process id.

    Raises:
        StoreError: the pooler gives each statement another session.
        psycopg.Error: the server failed.
    """
    if connection.info.backend_pid == backend_pid:
        return Pooler.NONE
    import psycopg

    own_name = f"_pg3_{set_random_names(connection)}"
    try:
        with connection.transaction():
            connection.execute(_PROBE, prepare=True)
            rows = connection.execute(
                "select name from pg_prepared_statements where statement = %s", [_PROBE], prepare=False
            ).fetchall()
            names = {row[0] for row in rows}
            if own_name in names:
                connection.execute(f"deallocate {own_name}".encode(), prepare=False)
    except psycopg.OperationalError as error:
        if _NO_TRANSACTIONS not in str(error):
            raise
        raise StoreError(
            "The store in Postgres is behind a pooler that gives each statement another session, so it has no"
            " transactions: set `pool_mode` of PgBouncer to `transaction` or `session`, or name the server in"
            " NOETL_STORE."
        ) from error
    return Pooler.FOLLOWS_PREPARED if names and own_name not in names else Pooler.FORGETS_PREPARED
