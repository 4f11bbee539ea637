"""The time for which an operation may wait for a store that is away.

Problem: a worker should wait while its store is restarted. A request should fail soon instead, because each
waiting request holds a thread and all threads together are few.

Algorithm: a context variable says how long the operations of this context may wait. Connections, retries and
clients ask it. Without a value they wait as workers do. The invocation of a function ends at a known time. So
a second variable says until when its operations are tried again.

Limits: it bounds the wait for a connection and for retries. A statement that the server executes may take
longer: `noetl.executor.stores.postgres.patient_connection` says how long.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MAX_RETRY_SECONDS = 30.0
"""How long an operation of an invocation is tried again, if the invocation lasts that long."""

_SECONDS: ContextVar[float | None] = ContextVar("noetl_patience", default=None)
_RETRIES_END_AT: ContextVar[float | None] = ContextVar("noetl_retries_end_at", default=None)


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


def end_of_retries() -> float | None:
    """Return until when an operation that begins now is tried again, on `time.monotonic`.

    Return None outside of an invocation: then the number of tries is limited.
    """
    ends_at = _RETRIES_END_AT.get()
    return None if ends_at is None else min(ends_at, time.monotonic() + MAX_RETRY_SECONDS)


def bounded_by_invocation(seconds: float) -> float:
    """Return `seconds`, or what an invocation leaves of them for an operation that begins now.

    >>> with retrying_until(time.monotonic() + 5.0):
    ...     bounded_by_invocation(2.0), bounded_by_invocation(9.0) < 6.0
    (2.0, True)
    """
    ends_at = _RETRIES_END_AT.get()
    return seconds if ends_at is None else max(min(seconds, ends_at - time.monotonic()), 0.0)


@contextmanager
def retrying_until(ends_at: float) -> Iterator[None]:
    """Let the operations of this block be tried again until a time on `time.monotonic`."""
    token = _RETRIES_END_AT.set(ends_at)
    try:
        yield
    finally:
        _RETRIES_END_AT.reset(token)
