"""The SQLite file of a store: its schema, a connection for each thread, one write transaction at a time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from noetl.executor.errors import SchemaError, StoreError
from noetl.executor.stores.sql.database import Writer

SCRIPTS = {
    2: "schema.sql",
    3: "keys.sql",
    4: "traces.sql",
    5: "open_runs.sql",
    6: "ended_runs.sql",
    7: "visits.sql",
}
"""What brings a store to each version, from the one before it or from nothing."""

SCHEMA_VERSION = max(SCRIPTS)
BUSY_SECONDS = 10.0
LOG_PAGES = 4000
"""How long the log gets before it is written back, which waits for the disk twice: four times as long as SQLite would let it."""
PATIENCE_SECONDS = 2.0


class SqliteFile:
    """The file at a path. It and its folder are made when they are not there and `create` is true.

    Raises:
        StoreError: any method, when the file cannot be used; the constructor also when it is not such a store.
    """

    def __init__(self, path: str, *, create: bool = True) -> None:
        self.path = Path(path)
        self._local = threading.local()
        self._connections: dict[threading.Thread, _Connection] = {}
        self._connecting = threading.Lock()
        self._writing = threading.Lock()
        if not create and not self.path.exists():
            raise StoreError(f"There is no store at {path}.")
        try:
            _make_folder(self.path.parent)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(f"The store at {path} cannot be opened: {error}.") from error
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection. One that a thread has in use is waited for, and left to it when that takes long: SQLite
        does not survive that a connection is closed in the middle of a query.
        """
        self._close(lambda _: True)
        self._local.__dict__.clear()

    def connection(self) -> sqlite3.Connection:
        """The connection of this thread."""
        return self._held().db

    def _held(self) -> _Connection:
        held: _Connection | None = getattr(self._local, "held", None)
        if held is None:
            db = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            held = _Connection(db)
            # Threads come and go with the load of a service; what they leave open would pile up.
            self._close(lambda thread: not thread.is_alive())
            db.row_factory = sqlite3.Row
            with held.in_use:
                with self._connecting:
                    self._connections[threading.current_thread()] = held
                db.execute("pragma journal_mode = wal")
                db.execute("pragma synchronous = full")
                db.execute(f"pragma wal_autocheckpoint = {LOG_PAGES}")
            self._local.held = held
        return held

    def _close(self, which: Callable[[threading.Thread], bool]) -> None:
        with self._connecting:
            for thread in [thread for thread in self._connections if which(thread)]:
                connection = self._connections.pop(thread)
                if connection.in_use.acquire(timeout=PATIENCE_SECONDS):
                    connection.db.close()
                    connection.in_use.release()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, the only one at its time."""
        try:
            held = self._held()
            db = held.db
            with self._writing, held.in_use:
                db.execute("begin immediate")
                try:
                    yield db
                    db.execute("commit")
                except BaseException:
                    if db.in_transaction:
                        db.execute("rollback")
                    raise
        except sqlite3.Error as error:
            raise StoreError(f"The store at {self.path} failed: {error}.") from error

    def fetch_all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """The rows that a query finds."""
        try:
            held = self._held()
            with held.in_use:
                return held.db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"The store at {self.path} failed: {error}.") from error

    def fetch_one(self, query: str, *values: Any) -> sqlite3.Row:
        """The first row that a query finds, where there must be one."""
        rows = self.fetch_all(query, *values)
        if not rows:
            raise StoreError(f"The store at {self.path} lacks what it should hold.")
        return rows[0]

    def lock_run(self, db: Writer, run_id: str) -> None:
        """There is nothing to do: write transactions follow each other."""

    def mark_run_written(self, db: Writer, run_id: str) -> None:
        """There is nothing to do: workers look for what is due."""

    def lock_name(self, db: Writer, name: str) -> None:
        """There is nothing to do: write transactions follow each other."""

    def _prepare(self) -> None:
        db = self.connection()
        version = db.execute("pragma user_version").fetchone()[0]
        if version == 0 or min(SCRIPTS) <= version < SCHEMA_VERSION:
            with self.transaction() as db:
                # Another process may have been faster.
                version = db.execute("pragma user_version").fetchone()[0]
                for script in (script for number, script in SCRIPTS.items() if number > version):
                    for statement in _statements(
                        files("noetl.executor.stores.sqlite").joinpath(script).read_text("utf-8")
                    ):
                        db.execute(statement)
                db.execute(f"pragma user_version = {max(version, SCHEMA_VERSION)}")
        elif version != SCHEMA_VERSION:
            message = f"The store at {self.path} has schema {version}, and this version of noetl knows {SCHEMA_VERSION}: it takes a later one."
            raise SchemaError(message)


@dataclass(frozen=True, slots=True)
class _Connection:
    """What a thread has open, and whether it is in the middle of using it."""

    db: sqlite3.Connection
    in_use: threading.RLock = field(default_factory=threading.RLock)


def _make_folder(folder: Path) -> None:
    """Make the folder of a store. Git passes over one that is made here."""
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("*\n")


def _statements(script: str) -> list[str]:
    text = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    return [statement for statement in text.split(";") if statement.strip()]
