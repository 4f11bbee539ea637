"""Time of a database for one committed row, as durable as a step: the lower bound of a step."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROWS = 200
BODY = "x" * 100


def sqlite_row(folder: Path) -> float:
    """Measure a transaction that inserts one row: write-ahead log, `synchronous=FULL`. Return seconds."""
    db = sqlite3.connect(folder / "plain.db", isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute("create table if not exists rows (id integer primary key, body text)")

    def write() -> None:
        db.execute("begin immediate")
        db.execute("insert into rows (body) values (?)", (BODY,))
        db.execute("commit")

    seconds = _median_seconds(write)
    db.close()
    return seconds


def postgres_row(dsn: str) -> float:
    """Measure a transaction that reads and locks a row, and inserts another one. Return seconds."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table if not exists locked (id integer primary key)")
        connection.execute("insert into locked values (1) on conflict do nothing")
        connection.execute("create table if not exists plain (id bigserial primary key, body text)")

        def write() -> None:
            with connection.transaction():
                connection.execute("select id from locked where id = 1 for update").fetchone()
                connection.execute("insert into plain (body) values (%s)", [BODY])

        return _median_seconds(write)


def _median_seconds(write: Callable[[], object]) -> float:
    times = []
    for _ in range(ROWS):
        started = time.perf_counter()
        write()
        times.append(time.perf_counter() - started)
    return median(times)
