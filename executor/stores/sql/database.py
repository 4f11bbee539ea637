"""What SQL stores ask of their database, in the SQL that SQLite and Postgres share, with `?` for values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from noetl.executor.errors import StoreError


class UnwrittenError(StoreError):
    """The database failed for a reason that passes, and nothing was written: the whole operation may be done again."""


class Result(Protocol):
    """What a statement gave: rows, which are read by the names of their columns, or how many it changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Writer(Protocol):
    """A write transaction at work."""

    def execute(self, query: str, values: Sequence[Any] = ..., /) -> Result: ...

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> Any: ...


class Database(Protocol):
    """A database. Every method may be called from any thread, and raises StoreError when the database fails."""

    def close(self) -> None:
        """Give up every connection."""
        ...

    def transaction(self) -> AbstractContextManager[Writer]:
        """A write transaction, which is undone when an exception leaves it."""
        ...

    def fetch_all(self, query: str, *values: Any) -> list[Any]:
        """The rows that a query finds."""
        ...

    def fetch_one(self, query: str, *values: Any) -> Any:
        """The first row that a query finds, where there must be one."""
        ...

    def lock_name(self, db: Writer, name: str) -> None:
        """Let no other transaction lock the name until this one is done."""
        ...

    def lock_run(self, db: Writer, run_id: str) -> None:
        """Let no other transaction write to a run until this one is done. Who locks two runs locks the one first that waits
        for the other.
        """
        ...

    def mark_run_written(self, db: Writer, run_id: str) -> None:
        """Say that this transaction writes to a run which one of its statements has locked."""
        ...
