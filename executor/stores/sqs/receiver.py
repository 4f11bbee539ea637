"""Messages that a worker process (`noetl worker`) receives itself. A Lambda function is given its messages
by AWS.

Problem: a message must be delivered again if its worker dies, and deleted if its visit is done. One message
may lead to a chain of visits that the same worker executes.

Algorithm: visibility timeout and late acknowledgement. Source: Amazon SQS Developer Guide. A received
message is bound to the visit that was claimed with it. When the worker continues with the next visit of the
branch, the message is bound to that visit. It is deleted when the worker has nothing left to do for it.
Renewing the claim also extends the visibility timeout of the message.

Cost: one extension for each renewal, and one deletion for each chain of visits.

Limits: a failed deletion or extension is ignored. The message then comes again, and the store finds its
visit done.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from threading import Lock
from typing import Any

from noetl.executor.errors import StoreError
from noetl.executor.model.run import Visit
from noetl.executor.stores.sqs.messages import MessageQueue

POLL_SECONDS = 2


class MessageReceiver:
    """Received messages that no thread has taken yet, and messages that are bound to a claimed visit."""

    def __init__(self, queue: MessageQueue) -> None:
        self._queue = queue
        self._received: deque[dict[str, Any]] = deque()
        self._bound_handles: dict[tuple[str, str], str] = {}
        self._visibility_seconds = 30
        self._polling = Lock()

    def take(self) -> dict[str, Any] | None:
        """Remove and return a received message, or return None."""
        try:
            return self._received.popleft()
        except IndexError:
            return None

    def poll(self, visibility_seconds: int) -> int:
        """Wait up to POLL_SECONDS for messages, unless another thread waits, and return how many arrived.

        Each stays invisible to other receivers for `visibility_seconds`, unless it is extended.
        """
        self._visibility_seconds = visibility_seconds
        if not self._polling.acquire(blocking=False):
            return 0
        try:
            messages = self._queue.receive(POLL_SECONDS, visibility_seconds)
        finally:
            self._polling.release()
        self._received.extend(messages)
        return len(messages)

    def bind(self, visit: Visit, handle: str) -> None:
        """Keep a message until the visit is done."""
        self._bound_handles[visit.run_id, visit.id] = handle

    def extend(self, run_id: str, visit_id: str) -> None:
        """Extend the visibility timeout of the message that is bound to a visit."""
        handle = self._bound_handles.get((run_id, visit_id))
        if handle is not None:
            with suppress(StoreError):
                self._queue.extend_visibility(handle, self._visibility_seconds)

    def finish(self, run_id: str, visit_id: str, following: Visit | None = None) -> None:
        """Delete the message that is bound to a visit, or bind it to the visit that the same worker executes
        next.
        """
        handle = self._bound_handles.pop((run_id, visit_id), None)
        if handle is None:
            return
        if following is not None:
            self.bind(following, handle)
            return
        self.delete(handle)

    def delete(self, handle: str) -> None:
        """Delete a message; after a failure it is delivered again, and its visit is found done."""
        with suppress(StoreError):
            self._queue.delete(handle)
