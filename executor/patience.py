"""The time for which an operation may wait for a store that is away.

Problem: a worker should wait while its store is restarted. A request should fail soon instead, because each
waiting request holds a thread and all threads together are few.

Algorithm: a context variable says how long the operations of this context may wait. Connections, retries and
clients ask it. Without a value they wait as workers do.

Limits: it bounds the wait for a connection and for retries. A statement that the server executes may take
longer: `noetl.executor.stores.postgres.patient_connection` says how long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SECONDS: ContextVar[float | None] = ContextVar("noetl_patience", default=None)


def patience_seconds() -> float | None:
    """Return how long an operation may wait for the store, or None for as long as a worker does."""
    return _SECONDS.get()


@contextmanager
def limited_patience(seconds: float) -> Iterator[None]:
    """Let the operations of this block wait for an absent store for `seconds`."""
    token = _SECONDS.set(seconds)
    try:
        yield
    finally:
        _SECONDS.reset(token)
