"""A queue of due messages in memory, for queues that have no SQS queue, such as those of local runs."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Collection, Sequence

from noetl.executor.stores.sqs.due_message import DueMessage


class InMemoryQueue:
    """Due visits that this process knows of. Of each visit only the newest message counts.

    Messages are taken from the tenants in turn, and of a tenant in the order in which they are due. The table
    knows of others, so a caller that finds no message reads the table and calls `replace`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heaps: dict[str, dict[str, list[tuple[float, int, DueMessage]]]] = {}
        """For each queue and tenant, a heap of messages. The tenant that was served last is at the end."""
        self._newest: dict[tuple[str, str], int] = {}
        self._count = 0

    def add(self, queue: str, messages: Sequence[DueMessage]) -> None:
        """Add messages to a queue."""
        with self._lock:
            heaps = self._heaps.setdefault(queue, {})
            for message in messages:
                self._count += 1
                self._newest[message.run_id, message.visit_id] = self._count
                heapq.heappush(heaps.setdefault(message.tenant, []), (message.due_at, self._count, message))

    def take(self, queue: str, now: float, passed_over: Collection[str] = ()) -> DueMessage | None:
        """Remove and return the longest due message of the tenant whose turn it is, or None if none is due.

        No message of a tenant in `passed_over` is taken.
        """
        with self._lock:
            heaps = self._heaps.get(queue, {})
            for tenant in list(heaps):
                message = None if tenant in passed_over else self._take_first(heaps[tenant], now)
                if not heaps[tenant]:
                    del heaps[tenant]
                if message is not None:
                    if tenant in heaps:
                        heaps[tenant] = heaps.pop(tenant)
                    return message
            return None

    def _take_first(self, heap: list[tuple[float, int, DueMessage]], now: float) -> DueMessage | None:
        while heap and heap[0][0] <= now:
            _, count, message = heapq.heappop(heap)
            if self._newest.get((message.run_id, message.visit_id)) == count:
                del self._newest[message.run_id, message.visit_id]
                return message
        return None

    def replace(self, queue: str, messages: Sequence[DueMessage]) -> None:
        """Replace all messages of a queue. The turns of its tenants stay."""
        with self._lock:
            heaps = self._heaps.pop(queue, {})
            for _, count, message in (entry for heap in heaps.values() for entry in heap):
                if self._newest.get((message.run_id, message.visit_id)) == count:
                    del self._newest[message.run_id, message.visit_id]
            self._heaps[queue] = {tenant: [] for tenant in heaps}
        self.add(queue, messages)
