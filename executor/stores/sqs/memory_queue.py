"""An in-memory queue of due messages, for stores whose queue is polled."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Sequence

from noetl.executor.stores.sqs.due_message import DueMessage


class InMemoryQueue:
    """What this process knows to be due in queues that have no messages: the table says what else is. Of a visit only what was
    told last counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heaps: dict[str, list[tuple[float, int, DueMessage]]] = {}
        self._last: dict[tuple[str, str], int] = {}
        self._count = 0

    def add(self, queue: str, notes: Sequence[DueMessage]) -> None:
        with self._lock:
            for note in notes:
                self._count += 1
                self._last[note.run_id, note.visit_id] = self._count
                heapq.heappush(self._heaps.setdefault(queue, []), (note.due_at, self._count, note))

    def take(self, queue: str, now: float) -> DueMessage | None:
        """The note that has been due longest, which is forgotten."""
        with self._lock:
            heap = self._heaps.get(queue, [])
            while heap and heap[0][0] <= now:
                _, count, note = heapq.heappop(heap)
                if self._last.get((note.run_id, note.visit_id)) == count:
                    del self._last[note.run_id, note.visit_id]
                    return note
            return None

    def replace(self, queue: str, notes: Sequence[DueMessage]) -> None:
        """Know these, and nothing else."""
        with self._lock:
            for _, count, note in self._heaps.pop(queue, ()):
                if self._last.get((note.run_id, note.visit_id)) == count:
                    del self._last[note.run_id, note.visit_id]
        self.add(queue, notes)
