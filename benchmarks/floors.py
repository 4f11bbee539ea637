"""What a database takes for one committed row, as durable as a step: nothing that keeps steps in it can take less for one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROWS = 200
BODY = "x" * 100


def sqlite_row(folder: Path) -> float:
    """Seconds of a transaction that inserts a row into a table of its own: write-ahead log, `synchronous=FULL`."""
    db = sqlite3.connect(folder / "plain.db", isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute("create table if not exists rows (id integer primary key, body text)")

    def write() -> None:
        db.execute("begin immediate")
        db.execute("insert into rows (body) values (?)", (BODY,))
        db.execute("commit")

    found = _median(write)
    db.close()
    return found


def postgres_row(dsn: str) -> float:
    """Seconds of a transaction that reads a row, which it locks, and inserts another."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table if not exists locked (id integer primary key)")
        connection.execute("insert into locked values (1) on conflict do nothing")
        connection.execute("create table if not exists plain (id bigserial primary key, body text)")

        def write() -> None:
            with connection.transaction():
                connection.execute("select id from locked where id = 1 for update").fetchone()
                connection.execute("insert into plain (body) values (%s)", [BODY])

        return _median(write)


def _median(write: Callable[[], object]) -> float:
    times = []
    for _ in range(ROWS):
        started = time.perf_counter()
        write()
        times.append(time.perf_counter() - started)
    return median(times)
