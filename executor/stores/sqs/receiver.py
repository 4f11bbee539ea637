"""MessageQueue that this process receives itself, as `noetl worker` does. A function behind the queue is given its messages.

A message guards the visit that was claimed by it, and all that the same worker walks behind it: it is deleted when
nothing of that is left to do here. A worker that dies deletes nothing, so its message comes again.
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
    """The messages that were received from a queue and that nobody has looked at, and those that guard a claim."""

    def __init__(self, messages: MessageQueue) -> None:
        self._messages = messages
        self._received: deque[dict[str, Any]] = deque()
        self._guards: dict[tuple[str, str], str] = {}
        self._visible_after = 30
        self._polling = Lock()

    def take(self) -> dict[str, Any] | None:
        """A message that was received, if there is one."""
        try:
            return self._received.popleft()
        except IndexError:
            return None

    def poll(self, visible_after: int) -> int:
        """Wait a little for messages, unless another thread does; how many have come. Nobody else sees one for so many seconds,
        and then it comes again, unless it is prolonged.
        """
        self._visible_after = visible_after
        if not self._polling.acquire(blocking=False):
            return 0
        try:
            found = self._messages.receive(POLL_SECONDS, visible_after)
        finally:
            self._polling.release()
        self._received.extend(found)
        return len(found)

    def guard(self, visit: Visit, handle: str) -> None:
        """Let a message stay until the visit is done."""
        self._guards[visit.run_id, visit.id] = handle

    def prolong(self, run_id: str, visit_id: str) -> None:
        """Let nobody else see the message that guards a visit for as long again."""
        handle = self._guards.get((run_id, visit_id))
        if handle is not None:
            with suppress(StoreError):
                self._messages.hide(handle, self._visible_after)

    def done(self, run_id: str, visit_id: str, following: Visit | None = None) -> None:
        """Delete the message that guards a visit, or let it guard the one that the same worker goes on with."""
        handle = self._guards.pop((run_id, visit_id), None)
        if handle is None:
            return
        if following is not None:
            self.guard(following, handle)
            return
        self.delete(handle)

    def delete(self, handle: str) -> None:
        # One that stays comes again, and is found done.
        with suppress(StoreError):
            self._messages.delete(handle)
