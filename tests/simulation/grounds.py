"""The stores that the matrix is run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from noetl.executor.stores.finding import Finding
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql.consistency import check_consistency
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.migrations import upgrade

from tests.simulation.faults import Points, WatchedDatabase

OF_RUNS = (
    "runs", "visits", "history", "joins", "arrivals", "visit_counts", "parts", "waits", "tokens", "idempotency_keys",
)  # fmt: skip
NAMES = ("memory", "SQLite", "Postgres", "DynamoDB")


class Ground(Protocol):
    """A store whose inner calls are points too."""

    name: str
    points: Points

    def empty(self) -> Any:
        """The store, with nothing in it."""
        ...

    def again(self) -> Any:
        """The store as a process finds it that has just started."""
        ...

    def examine(self) -> list[Finding]:
        """What is wrong with it."""
        ...

    def contents(self) -> Any:
        """What it holds of runs, to be compared; not whether a wait is closed, which nobody can tell after the end."""
        ...

    def close(self) -> None: ...


class SqlGround:
    """A store in SQL, which `opened` opens. With `reopens` a new process opens it anew, and the one before is left as it
    was; else it has only forgotten what it had read.
    """

    def __init__(self, name: str, opened: Callable[[], SqlStore], *, reopens: bool = False) -> None:
        self.name = name
        self.points = Points()
        self._opened = opened
        self._reopens = reopens
        self._left: list[Any] = []
        self._open()

    def _open(self) -> None:
        self.store = self._opened()
        self._database = self.store.database
        self._left.append(self._database)
        watched: Any = WatchedDatabase(self._database, self.points)
        self.store.database = watched
        for name in {"file", "postgres"} & vars(self.store).keys():
            setattr(self.store, name, watched)

    def empty(self) -> SqlStore:
        with self._database.transaction() as db:
            for table in (*OF_RUNS, "playbooks", "plan_parts", "plans"):
                db.execute(f"delete from {table}")
        while len(self._left) > 1:
            self._left.pop(0).close()
        self._forget()
        return self.store

    def again(self) -> SqlStore:
        if self._reopens:
            self._open()
        else:
            self._forget()
        return self.store

    def _forget(self) -> None:
        for name in ("_header", "_step", "_task", "_queue_of"):
            if (cache := getattr(self.store, name, None)) is not None:
                cache.cache_clear()

    def examine(self) -> list[Finding]:
        return check_consistency(self._database)

    def contents(self) -> dict[str, list[str]]:
        found = {
            table: self._database.fetch_all(f"select * from {table}") for table in OF_RUNS if table != "waits"
        }
        return {table: sorted(str(dict(row)) for row in rows) for table, rows in found.items()}

    def close(self) -> None:
        for database in self._left:
            database.close()


def in_memory(store: type[SqliteStore] = SqliteStore) -> SqlGround:
    """SQLite without a file. It is the same code and the same SQL; what a disk and a new process add, the file shows."""
    return SqlGround("memory", lambda: store(":memory:"))


def in_file(folder: Path) -> SqlGround:
    """A file of SQLite. Whoever starts after a crash opens it anew, and finds what is in its log."""

    def opened() -> SqliteStore:
        store = SqliteStore(str(folder / "noetl.db"))
        store.file.connection().execute("pragma synchronous = off")
        return store

    return SqlGround("SQLite", opened, reopens=True)


def in_postgres(dsn: str) -> SqlGround:
    """An empty database of a server."""
    upgrade(dsn)
    return SqlGround("Postgres", lambda: PostgresStore(dsn))
