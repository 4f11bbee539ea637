"""A SQL store whose process dies between two transactions, and what each transaction deletes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from noetl.executor.stores.sql.database import Result, Writer
from noetl.executor.stores.sql.store import SqlStore


class ProcessDiedError(Exception):
    """The process has died."""


class CountingWriter:
    """A transaction that counts the rows of deleted runs that its statements delete."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.deleted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def execute(self, query: str, /, **values: Any) -> Result:
        result = self._writer.execute(query, **values)
        if query.startswith("deletions.delete"):
            self.deleted += result.rowcount
        return result


@contextmanager
def observed_transactions(store: SqlStore, allowed: int | None = None) -> Iterator[list[int]]:
    """Yield the numbers of rows that each transaction deletes, and die instead of the one after `allowed`."""
    deleted: list[int] = []
    begin = store.database.transaction

    @contextmanager
    def transaction(*options: Callable[[], object]) -> Iterator[Writer]:
        if allowed is not None and len(deleted) >= allowed:
            raise ProcessDiedError
        with begin(*options) as db:
            writer = CountingWriter(db)
            yield writer
        deleted.append(writer.deleted)

    store.database.transaction = transaction  # type: ignore[method-assign, assignment]
    try:
        yield deleted
    finally:
        store.database.transaction = begin  # type: ignore[method-assign]


def die_after(store: SqlStore, transactions: int, operation: Callable[[], object]) -> bool:
    """Perform an operation, and die after some transactions. Return whether the process has died."""
    with observed_transactions(store, transactions):
        try:
            operation()
        except ProcessDiedError:
            return True
    return False
