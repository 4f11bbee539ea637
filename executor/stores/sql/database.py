"""The interface of a database under a SQL store.

A `query` is the name of a statement, such as `keys.add` in `queries/keys.sql`, or SQL with parameters
`:name`. The store itself uses names only; SQL is for tests and tools that look into a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from noetl.executor.errors import RejectedError, StoreAwayError, StoreError


class UnwrittenError(StoreError):
    """A transient failure that wrote nothing, so the whole operation may be retried."""


class AwayUnwrittenError(UnwrittenError, StoreAwayError):
    """A failure that wrote nothing, because the database cannot be reached."""


def unstorable_text() -> RejectedError:
    """Return the error of a write with a text that the database cannot hold."""
    message = "a text has a NUL or half of a surrogate pair, which the store cannot hold"
    return RejectedError("invalid_text", message)


class Result(Protocol):
    """The result of a statement: rows, which are read by column name, or the number of changed rows."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Writer(Protocol):
    """An open write transaction."""

    returned_slots: list[Result]
    """Results with slots that were deleted. The gates change at the end of the transaction."""

    def execute(self, query: str, /, **values: Any) -> Result:
        """Execute a statement."""
        ...

    def executemany(self, query: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Execute a statement once for each mapping of values."""
        ...

    def lock_name(self, name: str) -> None:
        """Lock a name until the end of the transaction."""
        ...

    def lock_run(self, run_id: str) -> None:
        """Lock a run against other writers until the end of the transaction.

        A transaction that locks two runs locks the parent run first, which avoids deadlocks.
        """
        ...

    def mark_run_written(self, run_id: str) -> None:
        """Register that the transaction writes to a run that one of its statements has locked."""
        ...

    def columns_of_run(self, data: Mapping[str, str]) -> Mapping[str, str]:
        """Return the data of a run that its row has: `input`, `environment` and `variables`, or nothing."""
        ...

    def write_run_data(self, run_id: str, data: Mapping[str, str]) -> None:
        """Write the data of a run that its row does not have. It replaces earlier data."""
        ...


class Database(Protocol):
    """A database. Every method may be called from any thread, and raises StoreError if the database fails."""

    max_plan_parts: int
    """How many parts of a plan one transaction adds or deletes at most. Other writers may wait for it."""

    max_deleted_rows: int
    """How many rows of deleted runs one transaction deletes at most. Other writers may wait for it."""

    @property
    def clock(self) -> Callable[[], float]:
        """Clock that all processes share that use the database, in seconds since the epoch."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...

    def transaction(self, after_commit: Callable[[], object] = ...) -> AbstractContextManager[Writer]:
        """Begin a write transaction, which an exception rolls back. After its commit, call `after_commit`."""
        ...

    def fetch_all(self, query: str, /, **values: Any) -> list[Any]:
        """Return all rows of a query."""
        ...

    def fetch_one(self, query: str, /, **values: Any) -> Any:
        """Return the first row of a query, or raise StoreError if there is none."""
        ...

    def failures_part(self, run_id: str, visit_id: str, start: int, length: int) -> str:
        """Return up to `length` characters of the column `failures` of a visit, which is ASCII or null."""
        ...

    def probe(self) -> None:
        """Return if the database answers, and can be written. The cost does not depend on its contents."""
        ...

    def encode_list(self, values: Sequence[str]) -> Any:
        """Return a list as the value of `:ids` or `:lanes` in the fragments `{in_ids}` and `{in_lanes}`."""
        ...

    def notify(self, due: int | None) -> None:
        """Notify other processes that runs changed and `due` visits became due; None is an unknown number."""
        ...
