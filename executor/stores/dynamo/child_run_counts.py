"""Counts of child runs in DynamoDB.

Problem: many workers start child runs of one root at the same time. Transactions that write one item cancel
each other.

Algorithm: a sharded counter. Source: Amazon DynamoDB Developer Guide, "write sharding". A limit of less than
SHARDED_FROM is one counter, so that it is exact. A greater one is divided among SHARDS counters, by the hash
of the id of the child run. Each accepts a tenth more than its share, since the hash does not spread evenly.

Cost: one item in the transaction that starts a child run.

Limits: a tenth more than the limit. Counts expire as long after the last start as runs after their end.

The item stores `started`, the number of runs.
"""

from __future__ import annotations

import hashlib

from noetl.executor.model.run import Run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.expressions import Update

SHARDS = 8
SHARDED_FROM = 10_000
"""With fewer runs, the share of a counter would be uneven by more than a tenth."""


class ChildRunCounts:
    """The counters of child runs in a table. They expire after `retention_seconds`, or never."""

    def __init__(self, retention_seconds: float | None) -> None:
        self._retention_seconds = retention_seconds

    def count(self, run: Run, limit: int) -> Update | None:
        """Return the write that counts a child run unless its root has too many, or None for another run."""
        if run.root is None:
            return None
        number, allowed = choose_counter(run.id, limit)
        seconds = self._retention_seconds
        expires = {} if seconds is None else {"expires": int(run.created_at + seconds)}
        key = keys.child_runs(run.root, number)
        return Update(key, expires, add={"started": 1}, when=(("started", "absent or <", allowed),))


def choose_counter(run_id: str, limit: int) -> tuple[int, int]:
    """Return the number of the counter that counts a child run, and how many runs it may count.

    >>> choose_counter("r", 25)
    (0, 25)
    """
    if limit < SHARDED_FROM:
        return 0, limit
    number = hashlib.blake2b(run_id.encode(), digest_size=4).digest()[0] % SHARDS
    return number, limit * 11 // (10 * SHARDS)
