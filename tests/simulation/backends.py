"""Stores that the crash matrix runs on, with fault points at the calls inside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from noetl.executor.stores.finding import Finding
from noetl.executor.stores.plan_uses import PlanUses
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql.queue import SqlQueue
from noetl.executor.stores.sql.runs import SqlRuns
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.migrations import upgrade
from tests.simulation.faults import FaultInjectingDatabase, FaultPoints
from tests.sql_tables import columns_of_tables

UNCOMPARED_ROWS = {"waits": "true", "facts": "kind = 'cached'"}
"""Conditions of the rows that may change after the end of all runs, by table.

A wait is closed then, and a lost claim reuses a cached result before its commit is refused.
"""

BACKEND_NAMES = ("memory store", "memory", "SQLite", "Postgres", "DynamoDB")


class StoreBackend(Protocol):
    """A store with fault points at the calls inside it."""

    name: str
    points: FaultPoints

    def clear(self) -> Any:
        """Delete everything, and return the store."""
        ...

    def reopen(self) -> Any:
        """Return the store as a new process sees it."""
        ...

    def check_consistency(self) -> list[Finding]:
        """Return the inconsistencies of the store."""
        ...

    def dump(self) -> Any:
        """Return the data of all runs, to compare it.

        It omits whether a wait is closed, and which results are reused. Neither affects a run that has ended.
        """
        ...

    def close(self) -> None: ...


class SqlBackend:
    """A store in SQL.

    With `reopens`, a new process opens the database again, and the connection of the crashed one stays as it
    was. Otherwise a new process has only empty caches.
    """

    def __init__(self, name: str, open_store: Callable[[], SqlStore], *, reopens: bool = False) -> None:
        self.name = name
        self.points = FaultPoints()
        self._open_store = open_store
        self._reopens = reopens
        self._databases: list[Any] = []
        self._open()
        self._tables = sorted(columns_of_tables(self.store))

    def _open(self) -> None:
        self.store = self._open_store()
        self._database = self.store.database
        self._databases.append(self._database)
        database: Any = FaultInjectingDatabase(self._database, self.points)
        for holder, name in (
            (self.store.context, "database"),
            (self.store.queue, "_database"),
            (self.store.maintenance, "_database"),
        ):
            if hasattr(holder, name):
                setattr(holder, name, database)

    def clear(self) -> SqlStore:
        with self._database.transaction() as db:
            for table in self._tables:
                db.execute(f"delete from {table}")
        while len(self._databases) > 1:
            self._databases.pop(0).close()
        self._clear_caches()
        return self.store

    def reopen(self) -> SqlStore:
        if self._reopens:
            self._open()
        else:
            self._clear_caches()
        return self.store

    def _clear_caches(self) -> None:
        self.store.plans.parts.clear()
        self.store.plans.uses = PlanUses()
        if (cache := getattr(self.store.queue, "_queue_of", None)) is not None:
            cache.cache_clear()

    def check_consistency(self) -> list[Finding]:
        return self.store.maintenance.check_consistency()

    def dump(self) -> dict[str, list[str]]:
        tables = {
            table: self._database.fetch_all(
                f"select * from {table} where not ({UNCOMPARED_ROWS.get(table, 'false')})"
            )
            for table in self._tables
        }
        return {table: sorted(str(dict(row)) for row in rows) for table, rows in tables.items()}

    def close(self) -> None:
        for database in self._databases:
            database.close()


def memory_backend(part: type[SqlQueue | SqlRuns] | None = None) -> SqlBackend:
    """Create a SQLite store in memory, with another queue or other runs if there is a `part`.

    It has the same code and SQL as one in a file, without disk and reopening.
    """

    def open_store() -> SqliteStore:
        store = SqliteStore(":memory:")
        if part is not None:
            name = "queue" if issubclass(part, SqlQueue) else "runs"
            setattr(store, name, part(store.context, store.plans))
        return store

    return SqlBackend("memory", open_store)


def sqlite_backend(folder: Path) -> SqlBackend:
    """Create a SQLite store in a file. A new process opens the file again, and recovers from its log."""

    def open_store() -> SqliteStore:
        store = SqliteStore(str(folder / "noetl.db"))
        store.file.flushes_commits = False
        return store

    return SqlBackend("SQLite", open_store, reopens=True)


def postgres_backend(dsn: str) -> SqlBackend:
    """Create a store in an empty database of a Postgres server."""
    upgrade(dsn)
    return SqlBackend("Postgres", lambda: PostgresStore(dsn))
