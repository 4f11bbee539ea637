"""The schema of a store in Postgres: numbered migrations, and the function that applies them."""

from __future__ import annotations

from pathlib import Path

import psycopg

from noetl.executor.errors import SchemaError
from noetl.executor.stores.postgres.address import conninfo_of, failure_of

FOLDER = Path(__file__).parent / "postgres"
_APPLIED = """
    create table noetl_migrations
        (number integer primary key, applied_at timestamptz not null default now())
"""
_LOCK = 7_304_905_021
"""Key of the advisory lock that serializes upgrades."""


def migrations() -> list[str]:
    """Return the SQL of all migrations in order. Their numbers start at 1."""
    return [path.read_text("utf-8") for path in sorted(FOLDER.glob("*.sql"))]


def upgrade(uri: str) -> list[int]:
    """Apply the missing migrations in one transaction, and return their numbers. Concurrent calls are safe.

    Raises:
        StoreError: the database cannot be reached, refuses, or has a later schema.
    """
    known = migrations()
    try:
        # The session of a pooler may have prepared statements of other programs, with the same names.
        with psycopg.connect(conninfo_of(uri), prepare_threshold=None) as connection:
            connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
            table = connection.execute("select to_regclass('noetl_migrations')").fetchone()
            if table is None or table[0] is None:
                # `create table if not exists` would need the right to create tables in any case.
                connection.execute(_APPLIED)
            row = connection.execute("select coalesce(max(number), 0) from noetl_migrations").fetchone()
            applied: int = 0 if row is None else row[0]
            if applied > len(known):
                raise SchemaError(
                    f"The store in Postgres has schema {applied}, but this version of noetl knows only"
                    f" {len(known)}: install a later version."
                )
            missing = list(range(applied + 1, len(known) + 1))
            for number in missing:
                connection.execute(known[number - 1].encode())
                connection.execute("insert into noetl_migrations (number) values (%s)", [number])
            return missing
    except psycopg.Error as error:
        raise failure_of(error, "cannot be upgraded") from error
