"""The address of a Postgres database, and the defaults of its connections and sessions.

What the URI of the user sets is kept. Defaults fill in what it leaves open.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from noetl.executor.errors import StoreAwayError, StoreError
from noetl.executor.stores.postgres.pooler import set_random_names

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS = 10
DEFAULTS = {
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "noetl",
    # A server that vanishes without closing its connections is noticed within a minute.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
SETTINGS = {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "20s"}
"""Settings of a session without a pooler, unless the URI, the role or the database sets them otherwise.

A session of a process that has vanished holds its locks until it is idle for 20 seconds. Statements that
wait for these locks have longer.
"""

_AWAY = ("08", "57P", "53300")
"""Beginnings of SQLSTATE codes: connection exception, operator intervention, too many connections."""

_DEFAULT_ROWS = ", ".join(f"('{name}', '{value}')" for name, value in SETTINGS.items())
_CONFIGURE = f"""
    select set_config(name, ours, false) from pg_settings
    join (values {_DEFAULT_ROWS}) as o (name, ours) using (name)
    where source = 'default'
    union all select set_config('default_transaction_isolation', 'read committed', false)
"""


def conninfo_of(uri: str) -> str:
    """Return a libpq connection string: the URI, completed by DEFAULTS.

    Raises:
        StoreError: the URI is invalid. The message repeats no part of it, since any part may be a password.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        given = conninfo_to_dict(uri)
    except psycopg.Error as error:
        reason = re.sub(r'(?<!parameter: )(?<!option )"[^"]*"', "…", _reason(error)).split(": …")[0]
        raise StoreError(f"The URI of the store in Postgres is invalid: {reason}.") from None
    port = str(given.get("port", ""))
    has_at_sign = any("@" in str(given.get(part, "")) for part in ("host", "dbname"))
    if has_at_sign or not set(port) <= set("0123456789,"):
        message = "its port must be a number, and @ : / ? # in a user or password must be encoded as in %40"
        raise StoreError(f"The URI of the store in Postgres is invalid: {message}.")
    parameters: dict[str, Any] = {**DEFAULTS, **given}
    return make_conninfo("", **parameters)


def configure_session(connection: psycopg.Connection[Any]) -> None:
    """Apply SETTINGS to a session that belongs to this process alone.

    Behind a pooler, the next client of the session would have them, too.
    """
    connection.execute(_CONFIGURE.encode(), prepare=False)


def prepare_client(connection: psycopg.Connection[Any]) -> None:
    """Give the prepared statements of a connection random names.

    The session of a pooler may have those of another process, and a name of that process would execute its
    statement.
    """
    set_random_names(connection)
    # Without a handler, psycopg keeps all notifications. A session of a pooler may listen for others.
    connection.add_notify_handler(lambda _: None)


def failure_of(error: BaseException, problem: str = "failed") -> StoreError:
    """Return the StoreError for an error of the driver."""
    error_type = StoreAwayError if _is_away(error) else StoreError
    return error_type(f"The store in Postgres {problem}: {_reason(error)}.")


def _reason(error: BaseException) -> str:
    lines = str(error).strip().split("\n")
    first = lines[1].lstrip("- ") if len(lines) > 1 and lines[0].endswith("were:") else lines[0]
    return first.rstrip(".") or type(error).__name__


def _is_away(error: BaseException) -> bool:
    """Return whether an error says that the server cannot be reached, or accepts no connections now."""
    import psycopg

    state = getattr(error, "sqlstate", None)
    return isinstance(error, psycopg.OperationalError) and (state is None or state.startswith(_AWAY))
