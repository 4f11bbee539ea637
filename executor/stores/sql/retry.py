"""Operations that are done again when a database has failed for a reason that passes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from noetl.executor.stores.sql.database import UnwrittenError

MAX_RETRIES = 8
FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")


def retry_unwritten(operation: Callable[P, T]) -> Callable[P, T]:
    """The operation, done again a few times when it failed and is known to have written nothing.

    Pauses double, and their length is left to chance, so that two which are in each other's way do not meet again.
    """

    @wraps(operation)
    def repeat(*args: P.args, **options: P.kwargs) -> T:
        for repetition in range(MAX_RETRIES):
            try:
                return operation(*args, **options)
            except UnwrittenError:
                longest = min(FIRST_PAUSE_SECONDS * 2**repetition, LONGEST_PAUSE_SECONDS)
                time.sleep(random.uniform(longest / 2, longest))
        return operation(*args, **options)

    return repeat
