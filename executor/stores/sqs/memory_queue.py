"""A queue of due messages in memory, for queues that have no SQS queue, such as those of local runs."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Sequence

from noetl.executor.stores.sqs.due_message import DueMessage


class InMemoryQueue:
    """Due visits that this process knows of. Of each visit only the newest message counts.

    The table knows of others, so a caller that finds no message reads the table and calls `replace`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heaps: dict[str, list[tuple[float, int, DueMessage]]] = {}
        self._newest: dict[tuple[str, str], int] = {}
        self._count = 0

    def add(self, queue: str, messages: Sequence[DueMessage]) -> None:
        """Add messages to a queue."""
        with self._lock:
            for message in messages:
                self._count += 1
                self._newest[message.run_id, message.visit_id] = self._count
                heapq.heappush(self._heaps.setdefault(queue, []), (message.due_at, self._count, message))

    def take(self, queue: str, now: float) -> DueMessage | None:
        """Remove and return the message that has been due longest, or return None if none is due."""
        with self._lock:
            heap = self._heaps.get(queue, [])
            while heap and heap[0][0] <= now:
                _, count, message = heapq.heappop(heap)
                if self._newest.get((message.run_id, message.visit_id)) == count:
                    del self._newest[message.run_id, message.visit_id]
                    return message
            return None

    def replace(self, queue: str, messages: Sequence[DueMessage]) -> None:
        """Replace all messages of a queue."""
        with self._lock:
            for _, count, message in self._heaps.pop(queue, ()):
                if self._newest.get((message.run_id, message.visit_id)) == count:
                    del self._newest[message.run_id, message.visit_id]
        self.add(queue, messages)
