"""A limit of what clients hold open in all processes that share a store.

Problem: a function answers one request at a time. A request that waits holds a whole function, and no process
sees the requests of the others.

Algorithm: the store counts what is open, with the counter of rate limits (`RequestBatch`). Each open thing
adds one in the slot of time in which it begins, and takes it away from the same slot at its end. Everything
ends within the window of the counter, so the count of the window is what is open.

Cost: two reads and two writes at the beginning, and as many at the end.

Limits: what a process that died held counts for another minute.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from noetl.executor.errors import StoreError
from noetl.executor.model.request_counts import SLOT_SECONDS, RequestBatch
from noetl.planner.frozen import frozen, replace


@frozen
class SharedLimit:
    """A limit of open things. A tenant may have half of it. `count` counts a batch in the store."""

    name: str
    limit: int
    count: Callable[[RequestBatch], bool]
    clock: Callable[[], float] = time.time

    @contextmanager
    def open(self, tenant: str) -> Iterator[bool]:
        """Count one more open thing of a tenant during this block, and yield True.

        Yield False beyond a limit, or if the store does not answer.
        """
        slot = int(self.clock() // SLOT_SECONDS)
        digest = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        share = RequestBatch(f"{self.name} {digest}", slot, 1, max(self.limit // 2, 1))
        counted: list[RequestBatch] = []
        try:
            with suppress(StoreError):
                for batch in (share, RequestBatch(self.name, slot, 1, self.limit)):
                    if not self.count(batch):
                        break
                    counted.append(batch)
            yield len(counted) == 2
        finally:
            for batch in counted:
                with suppress(StoreError):
                    self.count(replace(batch, size=-1))
