"""Where a Postgres is, and how connections to it are made: what a libpq URI says, and ours where it says nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from noetl.executor.errors import StoreError

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS = 10
DEFAULTS = {
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "noetl",
    # Of a server that is gone without a word one learns within a minute.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
SETTINGS = {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "20s"}
"""What sessions are bound by, unless the URI, the role or the database bind them otherwise. Who waits for what a process
holds that is gone waits for longer than that process is given.
"""

_SETTLE = f"""
    select set_config(name, ours, false) from pg_settings
    join (values {", ".join(f"('{name}', '{value}')" for name, value in SETTINGS.items())}) as o (name, ours) using (name)
    where source = 'default'
    union all select set_config('default_transaction_isolation', 'read committed', false)
"""


def conninfo_of(uri: str) -> str:
    """The URI with what it leaves open, as libpq takes it.

    Raises:
        StoreError: it is not a URI of libpq. No part of it is retry_unwritten, since any may be that of a password.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        given = conninfo_to_dict(uri)
    except psycopg.Error as error:
        reason = re.sub(r'(?<!parameter: )(?<!option )"[^"]*"', "…", _reason(error)).split(": …")[0]
        raise StoreError(f"The URI of the store in Postgres cannot be read: {reason}.") from None
    port = str(given.get("port", ""))
    if any("@" in str(given.get(part, "")) for part in ("host", "dbname")) or not set(port) <= set(
        "0123456789,"
    ):
        message = (
            "its port is a number, and a sign such as @ : / ? # in a user or password is written as in %40"
        )
        raise StoreError(f"The URI of the store in Postgres cannot be read: {message}.")
    parameters: dict[str, Any] = {**DEFAULTS, **given}
    return make_conninfo("", **parameters)


def settle(connection: psycopg.Connection[Any]) -> None:
    """Bind a session by our settings: by statements, because what stands between may refuse them at the start."""
    connection.execute(_SETTLE.encode(), prepare=False)


def failure_of(error: BaseException, what: str = "failed") -> StoreError:
    """The failure as a sentence."""
    return StoreError(f"The store in Postgres {what}: {_reason(error)}.")


def _reason(error: BaseException) -> str:
    lines = str(error).strip().split("\n")
    first = lines[1].lstrip("- ") if len(lines) > 1 and lines[0].endswith("were:") else lines[0]
    return first.rstrip(".") or type(error).__name__
