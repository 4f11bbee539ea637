"""Retry of store operations that a database failed and rolled back.

Problem: transactions that conflict, and servers that restart, fail operations that would succeed a moment
later.

Algorithm: capped exponential backoff with jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015). Only
an UnwrittenError is retried: it says that nothing was written.

Cost: nothing while operations succeed. The pauses of all retries take at most 2.3 seconds. No retry begins
after the patience of a request.

Limits: a lost connection during `COMMIT` leaves open whether the transaction was applied. That is a plain
StoreError and is not retried; the lease of the claim then runs out, and the fence refuses the loser.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from noetl.executor.patience import patience_seconds
from noetl.executor.stores.sql.database import UnwrittenError

MAX_RETRIES = 8
FIRST_PAUSE_SECONDS = 0.01
MAX_PAUSE_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")


def retry_unwritten(operation: Callable[P, T]) -> Callable[P, T]:
    """Return the operation, retried up to MAX_RETRIES times after an UnwrittenError.

    Pauses double and have a random length, so that two conflicting operations do not meet again.
    """

    @wraps(operation)
    def retry(*args: P.args, **options: P.kwargs) -> T:
        started_at, patience = time.monotonic(), patience_seconds()
        for retries in range(MAX_RETRIES):
            try:
                return operation(*args, **options)
            except UnwrittenError:
                if patience is not None and time.monotonic() - started_at > patience:
                    raise
                longest = min(FIRST_PAUSE_SECONDS * 2**retries, MAX_PAUSE_SECONDS)
                time.sleep(random.uniform(longest / 2, longest))
        return operation(*args, **options)

    return retry


def retry_part(part: object) -> None:
    """Let all public methods of a part of a store retry after an UnwrittenError."""
    for name in dir(part):
        if not name.startswith("_") and callable(operation := getattr(part, name)):
            setattr(part, name, retry_unwritten(operation))
