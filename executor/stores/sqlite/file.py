"""The SQLite file of a store: its schema, a connection for each thread, one write transaction at a time.

Problem: many threads of one machine read and write one file. A connection must not be used by two threads at
once, and must not be closed in the middle of a query.

Algorithm: write-ahead logging. Source: SQLite documentation, "Write-Ahead Logging". Each thread has its own
connection. A lock of the process and `begin immediate` let one write transaction run at a time, so write
transactions are serializable.

Cost: each transaction waits until it is on the disk. Those of several threads share that (`log_flush.py`).

Limits: one machine. A transaction waits for one of another process for up to BUSY_SECONDS, and then fails.
That of a request fails sooner (`write_lock.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from noetl.executor.errors import ChangedSchemaError, SchemaError, StoreError, StoreLockedError
from noetl.executor.patience import patience_seconds
from noetl.executor.precedence import StoreOperation
from noetl.executor.stores.sql.database import Result, unstorable_text
from noetl.executor.stores.sql.statements import Statements, to_numbered
from noetl.executor.stores.sqlite.file_identity import FileIdentity
from noetl.executor.stores.sqlite.log_flush import LogFlush
from noetl.executor.stores.sqlite.write_lock import BUSY_SECONDS, PRIMARY_CODE, WriteLock, is_locked

SCRIPTS = {
    2: "schema.sql",
    3: "keys.sql",
    4: "traces.sql",
    5: "open_runs.sql",
    6: "ended_runs.sql",
    7: "visits.sql",
    8: "failures.sql",
    9: "answer_fields.sql",
    10: "stacks.sql",
    11: "turns.sql",
    12: "lists.sql",
    13: "request_counts.sql",
    14: "child_runs.sql",
    15: "shares.sql",
    16: "plan_uses.sql",
    17: "run_bytes.sql",
    18: "facts.sql",
    19: "tag_keys.sql",
    20: "registered_by.sql",
    21: "open_waits.sql",
    22: "run_times.sql",
    23: "damaged_runs.sql",
    24: "own_pauses.sql",
    25: "cached_results.sql",
    26: "triggers.sql",
    27: "outbox.sql",
    28: "aliases.sql",
    29: "gates.sql",
    30: "debounced.sql",
    31: "rates.sql",
    32: "flows.sql",
    33: "starts.sql",
    34: "kept_gates.sql",
    35: "run_data.sql",
    36: "deletions.sql",
}
"""Script that brings a store to each version, from the version before it or from an empty file."""

STATEMENTS = Statements(Path(__file__).parent / "queries", to_numbered)
SCHEMA_VERSION = max(SCRIPTS)
STORE_TABLES = {"plans", "runs", "visits"}
"""Tables that every store has had since its first version."""
_MEMORY = ":memory:"
"""The path of a database that SQLite keeps in memory."""

_DAMAGE_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_FIRST_WITH_OCTET_LENGTH = (3, 43)
"""The first version of SQLite that has `octet_length`. It does not read the text that it measures."""

MIN_FREE_BYTES = 1024 * 1024
"""How many bytes of its disk a store needs, below which it counts as full."""
LOG_PAGES = 4000
"""Length of the log, in pages, at which SQLite writes it back to the file.

A write-back waits for the disk twice. This is four times the default of SQLite.
"""
FRAME_BYTES = 4096 + 24
"""Length of a page in the log, with its header. SQLite cuts the log to LOG_PAGES when it starts it again."""

MAX_LOG_BYTES = 64 * 1024 * 1024
"""Length of the log at which workers cut it (`write_ahead_log.py`). It grows as long as a reader stays."""

CLOSE_TIMEOUT_SECONDS = 2.0
"""Time that `close` waits for a connection that a thread is using."""

CUT_SECONDS = 0.1
"""How long the log is not cut because of statements that read it. Other writers wait meanwhile."""


class CheckpointMode(StrEnum):
    """The mode of a checkpoint: next to readers and writers, or up to the end of the log.

    The log then starts again, or is cut at once.
    """

    PASSIVE = "passive"
    RESTART = "restart"
    TRUNCATE = "truncate"


class LogPages(NamedTuple):
    """Number of pages of the log that are written back to the file, and of those that are not."""

    written: int
    unwritten: int


class SqliteFile:
    """The file at a path.

    If `create` is true, a missing file and its folder are created, and a store of an earlier version is
    upgraded. Otherwise opening a file writes nothing into it.

    Raises:
        StoreError: any method, if the file cannot be used; the constructor also if the file is not a store.
        SchemaError: the constructor, if the store has a later version, or an earlier one without `create`;
            transactions and `probe` (ChangedSchemaError), if another process has upgraded the store since.
    """

    max_plan_parts = 500
    """As in `Database`: adding or deleting so many takes a few milliseconds."""

    max_deleted_rows = 500
    """As in `Database`: this takes some milliseconds."""

    def __init__(self, path: str, *, create: bool = True) -> None:
        self.path = Path(path)
        self._path = str(self.path)
        self.clock: Callable[[], float] = time.time
        """The clock of the machine, which all processes of the file share."""
        self._is_in_memory = path == _MEMORY
        self._is_prepared = False
        """True if the schema is that of this version, unless another process upgrades it."""
        self._is_read_only = False
        self._identity: FileIdentity | None = None
        self._damage: str | None = None
        self._has_failed_write = False
        self._local = threading.local()
        self._connections: dict[threading.Thread, _Connection] = {}
        self._connecting = threading.Lock()
        self._writing = WriteLock(f"The store at {path} failed: another process has locked it.")
        self._flush = LogFlush()
        self.flushes_commits = True
        """Whether a transaction waits until it is on the disk. Tests that need no disk go without."""
        self.max_log_bytes = MAX_LOG_BYTES
        self.log_pages = LOG_PAGES
        self.commit_log_pages: int | None = None
        """Length of the log, in pages, at which a commit writes it back. 0 is never, None is `log_pages`."""
        if not create and not self.path.exists():
            raise StoreError(f"There is no store at {path}.")
        try:
            _create_folder(self.path.parent)
            if not self._is_in_memory:
                self._is_read_only = not _prepare_file(self.path, must_write=create)
                version = read_schema_version(self.path)
                if not create and version < SCHEMA_VERSION:
                    raise SchemaError(
                        f"The store at {path} has schema {version}, and this version of noetl needs"
                        f" {SCHEMA_VERSION}: run `noetl db upgrade --store sqlite:///{path}`."
                    )
                self._identity = FileIdentity(self.path)
            self._prepare_schema()
            self._is_prepared = True
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(
                f"The store at {path} cannot be opened: {getattr(error, 'strerror', None) or error}."
            ) from error
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections, and leave those open that a thread uses for longer than
        CLOSE_TIMEOUT_SECONDS.

        SQLite crashes if a connection is closed in the middle of a query.
        """
        self._close(lambda _: True)
        self._local.__dict__.clear()
        self._flush.close()
        if self._identity is not None:
            self._identity.close()

    def connection(self) -> sqlite3.Connection:
        """Return the connection of this thread."""
        return self._thread_connection().db

    def check_identity(self) -> None:
        """Raise StoreError if the file or its log was deleted or replaced."""
        if self._identity is not None:
            self._identity.check()

    def _thread_connection(self, *, is_reading: bool = False) -> _Connection:
        """Return the connection of this thread, if the file is still the same.

        Each write checks this, but of many reads only some.
        """
        connection: _Connection | None = getattr(self._local, "connection", None)
        if self._identity is not None:
            if connection is None:
                self._identity.check()
            elif is_reading:
                self._identity.check_for_read()
            else:
                self._identity.check_for_write()
        if connection is None:
            db = self._connect()
            connection = _Connection(db)
            # A service starts and ends threads with its load, and connections of ended threads would
            # accumulate.
            self._close(lambda thread: not thread.is_alive())
            db.row_factory = sqlite3.Row
            with connection.in_use:
                with self._connecting:
                    self._connections[threading.current_thread()] = connection
                db.execute("pragma journal_mode = wal")
                db.execute("pragma synchronous = normal")
                db.execute(f"pragma wal_autocheckpoint = {self.log_pages}")
                db.execute(f"pragma journal_size_limit = {self.log_pages * FRAME_BYTES}")
                if self._identity is not None:
                    # The first read opens the log.
                    db.execute("pragma user_version").fetchone()
                    self._identity.remember_log()
                    if not self._is_read_only:
                        self._open_log()
            self._local.connection = connection
        return connection

    def _open_log(self) -> None:
        try:
            self._flush.open(f"{self._path}-wal")
        except OSError as error:
            raise self._failure(error) from error

    def _connect(self) -> sqlite3.Connection:
        address = _read_only_address(self.path) if self._is_read_only else self._path
        db = sqlite3.connect(
            address,
            uri=self._is_read_only,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        if sqlite3.sqlite_version_info < _FIRST_WITH_OCTET_LENGTH:
            db.create_function("octet_length", 1, _octet_length)
        return db

    def _close(self, is_closed: Callable[[threading.Thread], bool]) -> None:
        """Close the connections of the threads that `is_closed` selects."""
        with self._connecting:
            for thread in [thread for thread in self._connections if is_closed(thread)]:
                connection = self._connections.pop(thread)
                if connection.in_use.acquire(timeout=CLOSE_TIMEOUT_SECONDS):
                    connection.db.close()
                    connection.in_use.release()
            if not self._connections and self._identity is not None:
                self._identity.forget_log()
                self._flush.close()

    @contextmanager
    def transaction(self, after_commit: Callable[[], object] = lambda: None) -> Iterator[SqliteWriter]:
        """Begin a write transaction, and call `after_commit` when it is on the disk.

        Only one is open at a time.
        """
        try:
            connection = self._thread_connection()
            db = connection.db
            with StoreOperation():
                with self._writing, connection.in_use:
                    if connection.log_pages != self.commit_log_pages:
                        self._set_checkpoints(connection)
                    self._writing.begin(connection.begin)
                    try:
                        if self._is_prepared:
                            self._check_version(db)
                        yield SqliteWriter(db)
                        db.execute("commit")
                    except BaseException:
                        if db.in_transaction:
                            db.execute("rollback")
                        raise
                self._wait_for_disk()
            self._has_failed_write = False
        except UnicodeEncodeError as error:
            raise unstorable_text() from error
        except StoreLockedError:
            self._has_failed_write = True
            raise
        except sqlite3.Error as error:
            self._has_failed_write = True
            raise self._failure(error) from error
        after_commit()

    def _wait_for_disk(self) -> None:
        """Return when all commits before this call are on the disk."""
        if not self.flushes_commits:
            return
        try:
            self._flush.wait()
        except OSError as error:
            self._has_failed_write = True
            raise self._failure(error) from error

    def _set_checkpoints(self, connection: _Connection) -> None:
        """Let the commits of a connection write the log back, or not."""
        connection.log_pages = self.commit_log_pages
        pages = self.log_pages if connection.log_pages is None else connection.log_pages
        connection.db.execute(f"pragma wal_autocheckpoint = {pages}")

    def write_back(self, mode: CheckpointMode, patience_seconds: float | None = None) -> LogPages | None:
        """Write the log back to the file, and return its pages, or None if it is in use.

        The mode PASSIVE makes no caller wait, and leaves pages that a reader may need. The others let writers
        of this process wait. RESTART lets the log start again with the next commit. TRUNCATE cuts it. They
        do nothing if a reader stays in the log for longer than the patience, which is CUT_SECONDS by default.
        """
        stops_writers = mode is not CheckpointMode.PASSIVE
        seconds = CUT_SECONDS if patience_seconds is None else patience_seconds
        try:
            connection = self._thread_connection()
            with StoreOperation(), self._writing if stops_writers else nullcontext(), connection.in_use:
                connection.set_busy_seconds(seconds)
                try:
                    checkpoint = connection.db.execute(f"pragma wal_checkpoint({mode})")
                    is_busy, pages, written = checkpoint.fetchone()
                finally:
                    connection.set_busy_seconds(BUSY_SECONDS)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        return None if is_busy else LogPages(written, pages - written)

    def fetch_all(self, query: str, /, **values: Any) -> list[sqlite3.Row]:
        """Return all rows of a query."""
        try:
            connection = self._thread_connection(is_reading=True)
            with StoreOperation(), connection.in_use:
                connection.set_busy_seconds(patience_seconds() or BUSY_SECONDS)
                return SqliteWriter(connection.db).execute(query, **values).fetchall()
        except UnicodeEncodeError:
            # No row has half of a surrogate pair.
            return []
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def fetch_one(self, query: str, /, **values: Any) -> sqlite3.Row:
        """Return the first row of a query, or raise StoreError if there is none."""
        rows = self.fetch_all(query, **values)
        if not rows:
            raise StoreError(f"The store at {self.path} is damaged: a required row is missing.")
        return rows[0]

    def failures_part(self, run_id: str, visit_id: str, start: int, length: int) -> str:
        """Return a part of the failed items of a visit. SQLite reads the pages of the file up to its end."""
        try:
            connection = self._thread_connection(is_reading=True)
            with StoreOperation(), connection.in_use:
                db = connection.db
                # Both reads see one version of the row.
                db.execute("begin")
                try:
                    found = SqliteWriter(db).execute("visits.find_failures", run_id=run_id, visit_id=visit_id)
                    row = found.fetchone()
                    if row is None:
                        return ""
                    with db.blobopen("visits", "failures", row["place"], readonly=True) as text:
                        text.seek(min(start, len(text)))
                        return text.read(length).decode("ascii")
                finally:
                    db.execute("commit")
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def probe(self) -> None:
        """Return if the file answers, can be written, and was not found damaged before."""
        self.check_identity()
        self.fetch_all("plans.find_use", hash="")
        self._check_version(self.connection())
        if self._damage is not None:
            raise StoreError(self._damage)
        if not self._is_in_memory:
            if shutil.disk_usage(self.path).free < MIN_FREE_BYTES:
                raise StoreError(f"The store at {self.path} has no room: its disk is full.")
            if not os.access(self.path, os.W_OK):
                raise StoreError(f"The store at {self.path} is read-only.")
            if self._has_failed_write:
                self._write_again()

    def _write_again(self) -> None:
        """Write a page as it is: a failing disk or an exhausted quota does not show otherwise."""
        db = self.connection()
        with self.transaction():
            version = db.execute("pragma user_version").fetchone()[0]
            db.execute(f"pragma user_version = {version}")

    def _failure(self, error: sqlite3.Error | OSError) -> StoreError:
        """Return the error of an operation that failed. Remember if the file is damaged.

        A read that relies on an earlier check fails in any way if the file was replaced since.
        """
        try:
            self.check_identity()
        except StoreError as missing_file:
            return missing_file
        if getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE in _DAMAGE_CODES:
            self._damage = f"The store at {self.path} is damaged: {error}. Restore a copy of it."
        if is_locked(error):
            return StoreLockedError(self._writing.message)
        return StoreError(f"The store at {self.path} failed: {error}.")

    def encode_list(self, values: Sequence[str]) -> str:
        """Return a list as JSON."""
        return json.dumps(list(values))

    def notify(self, due: int | None) -> None:
        """Return at once: workers of other processes poll the file."""

    def _prepare_schema(self) -> None:
        db = self.connection()
        version = db.execute("pragma user_version").fetchone()[0]
        if version == 0 or min(SCRIPTS) <= version < SCHEMA_VERSION:
            with self.transaction():
                # Another process may have upgraded the file since.
                version = db.execute("pragma user_version").fetchone()[0]
                for script in (script for number, script in SCRIPTS.items() if number > version):
                    for statement in _statements(files(__package__).joinpath(script).read_text("utf-8")):
                        db.execute(statement)
                db.execute(f"pragma user_version = {max(version, SCHEMA_VERSION)}")
        else:
            self._check_version(db)

    def _check_version(self, db: sqlite3.Connection) -> None:
        """Raise SchemaError if the store has another schema: statements of this version may damage runs."""
        (version,) = db.execute("pragma user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        if not self._is_prepared:
            raise SchemaError(
                f"The store at {self.path} has schema {version}, but this version of noetl knows only"
                f" {SCHEMA_VERSION}: install a later version."
            )
        found = f"The store has schema {version}, but this process knows only {SCHEMA_VERSION}"
        if version < SCHEMA_VERSION:
            raise ChangedSchemaError(
                f"{found}: an earlier copy has replaced the store. Restart this process."
            )
        raise ChangedSchemaError(
            f"{found}: another process has upgraded the store. Restart this process with the later version of"
            " noetl."
        )


def _octet_length(text: str | None) -> int | None:
    """Return the number of bytes of a text in UTF-8, for versions of SQLite without this function."""
    return None if text is None else len(text.encode())


def read_schema_version(path: Path) -> int:
    """Return the version of the schema of a file, 0 if the file is empty. Nothing is written.

    Raises:
        StoreError: the file is the database of another program.
        sqlite3.Error: it is no database, or cannot be read.
    """
    with closing(sqlite3.connect(_read_only_address(path), uri=True, timeout=BUSY_SECONDS)) as db:
        tables = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
        if tables and not tables >= STORE_TABLES:
            raise StoreError(
                f"The file {path} is a database of another program: name another file with --store or"
                " NOETL_STORE."
            )
        version: int = db.execute("pragma user_version").fetchone()[0]
        return version


def _read_only_address(path: Path) -> str:
    """Return the URI of a file that is only read.

    SQLite would create an empty log next to a file without one. It does not, if the file does not change.
    """
    log = Path(f"{path}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    return f"{path.absolute().as_uri()}?{'mode=ro' if has_log else 'mode=ro&immutable=1'}"


class SqliteWriter:
    """The write transaction of a connection. It needs no locks, since only one is open at a time."""

    __slots__ = ("_db", "returned_slots")

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.returned_slots: list[Result] = []

    def execute(self, query: str, /, **values: Any) -> sqlite3.Cursor:
        text, values_of = STATEMENTS.text(query, values)
        return self._db.execute(text, values_of(values))

    def executemany(self, query: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        if listed := list(rows):
            text, values_of = STATEMENTS.text(query, listed[0])
            self._db.executemany(text, map(values_of, listed))

    def lock_run(self, run_id: str) -> None:
        """Return at once."""

    def mark_run_written(self, run_id: str) -> None:
        """Return at once: no queue is notified."""

    def columns_of_run(self, data: Mapping[str, str]) -> Mapping[str, str]:
        """Return nothing: data has a table of its own."""
        return {}

    def write_run_data(self, run_id: str, data: Mapping[str, str]) -> None:
        """Write the data of a run into its table."""
        self.execute("runs.write_data", run_id=run_id, **data)

    def lock_name(self, name: str) -> None:
        """Return at once."""


@dataclass(slots=True)
class _Connection:
    """The connection of a thread, and a lock that is held while the thread uses it."""

    db: sqlite3.Connection
    in_use: threading.RLock = field(default_factory=threading.RLock)
    log_pages: int | None = None
    busy_seconds: float = BUSY_SECONDS

    def set_busy_seconds(self, seconds: float) -> None:
        """Let statements wait so long for the locks of other connections."""
        if seconds != self.busy_seconds:
            self.busy_seconds = seconds
            self.db.execute(f"pragma busy_timeout = {1000 * seconds:.0f}")

    def begin(self, busy_seconds: float) -> None:
        """Begin a write transaction, and wait so long for the lock of the file."""
        self.set_busy_seconds(busy_seconds)
        self.db.execute("begin immediate")


def _prepare_file(path: Path, *, must_write: bool) -> bool:
    """Create a file that does not exist, and return whether it can be written.

    Raises:
        OSError: it cannot be created.
        StoreError: it cannot be written, although it must.
    """
    if not path.is_file():
        # Only the owner may read runs. SQLite gives its other files the permissions of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    is_writable = os.access(path, os.W_OK)
    if must_write and not is_writable:
        raise StoreError(f"The store at {path} is read-only.")
    return is_writable


def _create_folder(folder: Path) -> None:
    """Create the folder of a store, with a `.gitignore` for all of its files."""
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        (folder / ".gitignore").write_text("*\n")


def _statements(script: str) -> list[str]:
    text = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    statements = [""]
    for clause in text.split(";")[:-1]:
        statements[-1] += f"{clause};"
        if sqlite3.complete_statement(statements[-1]):  # The body of a trigger has statements of its own.
            statements.append("")
    return statements[:-1]
