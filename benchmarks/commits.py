"""Commits of many threads to SQLite: `python -m benchmarks.commits`.

Threads insert rows of 500 bytes, each in a transaction that is on the disk when the thread goes on. The
baseline is SQLite itself, whose commits wait for the disk one after the other (`synchronous = full`), behind
a lock as in the store. Rounds of both alternate on the same disk. Rates and times are medians of the rounds,
and so are the ratios of rounds that follow each other.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import report
from benchmarks.speed import FOLDER
from noetl.executor.stores.sqlite.file import SqliteFile

THREADS = (1, 2, 4, 8)
COMMITS = 100
"""How many commits each thread makes in a round."""
ROUNDS = 5
TEXT = "x" * 500
CREATE, INSERT = "create table written (text)", "insert into written values (?)"

COLUMNS: tuple[report.Column, ...] = (
    ("threads", lambda row: str(row["threads"])),
    ("one after the other", lambda row: f"{row['plain_rate']:,.0f}/s"),
    ("store", lambda row: f"{row['store_rate']:,.0f}/s"),
    ("ratio", lambda row: f"{row['rate_ratio']:.1f}"),
    ("p99", lambda row: f"{row['plain_p99'] * 1e3:.0f} ms"),
    ("p99 of the store", lambda row: f"{row['store_p99'] * 1e3:.0f} ms"),
    ("ratio ", lambda row: f"{row['p99_ratio']:.2f}"),
)


class Round(NamedTuple):
    """Commits in a second, and the 99th percentile of their time in seconds."""

    rate: float
    p99: float


def measure_round(threads: int, commits: int, commit: Callable[[], object]) -> Round:
    """Let threads call `commit`, and return what they have reached."""
    times: list[float] = []

    def work() -> None:
        for _ in range(commits):
            began_at = time.perf_counter()
            commit()
            times.append(time.perf_counter() - began_at)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began_at = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - began_at
    return Round(len(times) / seconds, sorted(times)[int(len(times) * 0.99)])


def measure_plain(folder: Path, threads: int, commits: int) -> Round:
    """Measure SQLite that waits for the disk in each commit."""
    lock = threading.Lock()
    with closing(sqlite3.connect(folder / "plain.db", isolation_level=None, check_same_thread=False)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        db.execute(CREATE)

        def commit() -> None:
            with lock:
                db.execute("begin immediate")
                db.execute(INSERT, (TEXT,))
                db.execute("commit")

        return measure_round(threads, commits, commit)


def measure_store(folder: Path, threads: int, commits: int) -> Round:
    """Measure the file of a store."""
    with closing(SqliteFile(str(folder / "store.db"))) as file:
        with file.transaction():
            file.connection().execute(CREATE)

        def commit() -> None:
            with file.transaction():
                file.connection().execute(INSERT, (TEXT,))

        return measure_round(threads, commits, commit)


def measure(threads: int, commits: int = COMMITS, rounds: int = ROUNDS) -> report.Row:
    """Return the medians of alternating rounds, and of their ratios."""
    pairs = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            plain = measure_plain(Path(folder), threads, commits)
            pairs.append((plain, measure_store(Path(folder), threads, commits)))
    return {
        "threads": threads,
        "plain_rate": median(plain.rate for plain, _ in pairs),
        "store_rate": median(store.rate for _, store in pairs),
        "rate_ratio": median(store.rate / plain.rate for plain, store in pairs),
        "plain_p99": median(plain.p99 for plain, _ in pairs),
        "store_p99": median(store.p99 for _, store in pairs),
        "p99_ratio": median(store.p99 / plain.p99 for plain, store in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    rows = [measure(threads, rounds=options.rounds) for threads in THREADS]
    if options.json:
        print(json.dumps({"machine": report.machine(), "rows": rows}))
    else:
        print(report.table("Commits of threads to SQLite, medians", COLUMNS, rows))


if __name__ == "__main__":
    main()
