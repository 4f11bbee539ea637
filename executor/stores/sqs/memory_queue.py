"""A queue of due messages in memory, for queues that have no SQS queue, such as those of local runs."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Collection, Mapping, Sequence

from noetl.executor.stores.sqs.due_message import DueMessage


class InMemoryQueue:
    """Due visits that this process knows of. Of each visit only the newest message counts.

    Messages are taken from the tenants in turn. Of a tenant, the message that has been due longest is taken,
    and in turn the one of the visits that wait for nothing. So thousands of timers that are due at once do
    not delay new runs. The table knows of others, so a caller that finds no message reads the table and calls
    `replace`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tenants: dict[str, dict[str, _TenantMessages]] = {}
        """The messages of each queue and tenant. The tenant that was served last is at the end."""
        self._newest: dict[tuple[str, str], int] = {}
        self._count = 0

    def add(self, queue: str, messages: Sequence[DueMessage]) -> None:
        """Add messages to a queue."""
        with self._lock:
            tenants = self._tenants.setdefault(queue, {})
            for message in messages:
                self._count += 1
                self._newest[message.run_id, message.visit_id] = self._count
                tenants.setdefault(message.tenant, _TenantMessages()).add(message, self._count)

    def take(self, queue: str, now: float, passed_over: Collection[str] = ()) -> DueMessage | None:
        """Remove and return the next due message of the tenant whose turn it is, or None if none is due.

        No message of a tenant in `passed_over` is taken.
        """
        with self._lock:
            tenants = self._tenants.get(queue, {})
            for tenant in list(tenants):
                messages = tenants[tenant]
                message = None if tenant in passed_over else messages.take(now, self._newest)
                if messages.is_empty:
                    del tenants[tenant]
                if message is not None:
                    del self._newest[message.run_id, message.visit_id]
                    if tenant in tenants:
                        tenants[tenant] = tenants.pop(tenant)
                    return message
            return None

    def replace(self, queue: str, messages: Sequence[DueMessage]) -> None:
        """Replace all messages of a queue. The turns of its tenants stay."""
        with self._lock:
            for removed in self._tenants.setdefault(queue, {}).values():
                for message, count in removed.clear():
                    if self._newest.get((message.run_id, message.visit_id)) == count:
                        del self._newest[message.run_id, message.visit_id]
        self.add(queue, messages)


class _TenantMessages:
    """The messages of a tenant in a queue: two heaps by due time, one of the visits that wait for nothing."""

    def __init__(self) -> None:
        self._ready: list[tuple[float, int, DueMessage]] = []
        self._waiting: list[tuple[float, int, DueMessage]] = []
        self._taken = 0

    @property
    def is_empty(self) -> bool:
        """True if no message is left."""
        return not self._ready and not self._waiting

    def add(self, message: DueMessage, count: int) -> None:
        """Add a message. `count` is its number in the queue."""
        heap = self._ready if message.is_ready else self._waiting
        heapq.heappush(heap, (message.due_at, count, message))

    def take(self, now: float, newest: Mapping[tuple[str, str], int]) -> DueMessage | None:
        """Remove and return the next due message that is the newest of its visit, or None."""
        due = [heap for heap in (self._ready, self._waiting) if _drop_superseded(heap, newest, now)]
        if not due:
            return None
        self._taken += 1
        takes_ready = self._taken % 2 == 1 and due[0] is self._ready
        return heapq.heappop(due[0] if takes_ready else min(due))[2]

    def clear(self) -> list[tuple[DueMessage, int]]:
        """Remove and return all messages with their numbers."""
        removed = [(message, count) for _, count, message in (*self._ready, *self._waiting)]
        self._ready.clear()
        self._waiting.clear()
        return removed


def _drop_superseded(
    heap: list[tuple[float, int, DueMessage]], newest: Mapping[tuple[str, str], int], now: float
) -> bool:
    """Remove due messages from the top of a heap that are not the newest. Return whether one is left."""
    while heap and heap[0][0] <= now:
        _, count, message = heap[0]
        if newest.get((message.run_id, message.visit_id)) == count:
            return True
        heapq.heappop(heap)
    return False
