"""Messages about visits that have become due: ids only. They are hints; what is true stands in the table."""

from __future__ import annotations

import heapq
import json
import math
import threading
from collections.abc import Sequence
from typing import Any

from executor.clients.aws import client
from executor.clients.aws_retry import MOST_TRIES, pause_seconds, repeating
from executor.errors import ActionError, MessageError, StoreError
from executor.model.run import NEVER
from planner.frozen import record

LONGEST_DELAY_SECONDS = 900
GRACE_SECONDS = 120.0
"""How long something may be overdue before it counts as lost: messages and workers have their time."""

MOST_MESSAGES = 10
_FORMAT = 1


@record
class Note:
    """That a visit is due at a time. `cause` is the visit it follows when it may have no item yet ("" for the beginning of the
    run), else None; `spread` how the run is spread; `holders` the visits whose values its step reads.
    """

    run_id: str
    visit_id: str
    step: str
    due_at: float
    spread: int = 1
    cause: str | None = None
    holders: tuple[str, ...] = ()

    def to_text(self) -> str:
        found = {"v": _FORMAT, "run": self.run_id, "visit": self.visit_id, "step": self.step, "due": self.due_at}
        found |= {"spread": self.spread} if self.spread != 1 else {}
        found |= {"cause": self.cause} if self.cause is not None else {}
        found |= {"reads": list(self.holders)} if self.holders else {}
        return json.dumps(found, separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> Note:
        """What `to_text` wrote.

        Raises:
            MessageError: it is something else.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            if found["v"] != _FORMAT:
                raise MessageError(f"a message of format {found['v']!r}, and this version of noetl knows {_FORMAT}")
            note = cls(
                found["run"],
                found["visit"],
                found["step"],
                float(found["due"]),
                int(found.get("spread", 1)),
                found.get("cause"),
                tuple(found.get("reads", ())),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise MessageError("a message that is none of noetl's") from error
        ids = (note.run_id, note.visit_id, note.step, note.cause or "", *note.holders)
        if not all(isinstance(id, str) for id in ids) or not (note.run_id and note.visit_id and 1 <= note.spread <= 64):
            raise MessageError("a message that is none of noetl's")
        return note


class Memory:
    """What this process knows to be due in queues that have no messages: the table says what else is. Of a visit only what was
    told last counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heaps: dict[str, list[tuple[float, int, Note]]] = {}
        self._last: dict[tuple[str, str], int] = {}
        self._count = 0

    def add(self, queue: str, notes: Sequence[Note]) -> None:
        with self._lock:
            for note in notes:
                self._count += 1
                self._last[note.run_id, note.visit_id] = self._count
                heapq.heappush(self._heaps.setdefault(queue, []), (note.due_at, self._count, note))

    def take(self, queue: str, now: float) -> Note | None:
        """The note that has been due longest, which is forgotten."""
        with self._lock:
            heap = self._heaps.get(queue, [])
            while heap and heap[0][0] <= now:
                _, count, note = heapq.heappop(heap)
                if self._last.get((note.run_id, note.visit_id)) == count:
                    del self._last[note.run_id, note.visit_id]
                    return note
            return None

    def replace(self, queue: str, notes: Sequence[Note]) -> None:
        """Know these, and nothing else."""
        with self._lock:
            for _, count, note in self._heaps.pop(queue, ()):
                if self._last.get((note.run_id, note.visit_id)) == count:
                    del self._last[note.run_id, note.visit_id]
        self.add(queue, notes)


class Messages:
    """A queue of SQS."""

    def __init__(self, url: str) -> None:
        self.url = url

    def send(self, notes: Sequence[Note], now: float) -> None:
        """Send messages about what is due; none about what nothing but an answer makes due."""
        entries = [(note.to_text(), _delay(note.due_at, now)) for note in notes if note.due_at < NEVER]
        if len(entries) == 1:
            ((body, delay),) = entries
            late = {"DelaySeconds": delay} if delay else {}
            self._call("send_message", MessageBody=body, **late)
            return
        for start in range(0, len(entries), MOST_MESSAGES):
            left = {
                str(number): {"Id": str(number), "MessageBody": body, "DelaySeconds": delay}
                for number, (body, delay) in enumerate(entries[start : start + MOST_MESSAGES])
            }
            for tries in range(MOST_TRIES):
                answer = self._call("send_message_batch", Entries=list(left.values()))
                left = {failed["Id"]: left[failed["Id"]] for failed in answer.get("Failed", ())}
                if not left:
                    break
                if tries + 1 < MOST_TRIES:
                    _sleep(pause_seconds(tries))
            else:
                raise StoreError("The queue of the store (NOETL_QUEUE) is overloaded: it takes no messages.")

    def look(self) -> None:
        """Ask whether the queue is there.

        Raises:
            StoreError: it is not, or it may not be asked.
        """
        self._call("get_queue_attributes", AttributeNames=["QueueArn"])

    def receive(self, seconds: int, visible_after: int) -> list[dict[str, Any]]:
        """Up to ten messages; nobody else sees them for `visible_after` seconds."""
        answer = self._call(
            "receive_message",
            MaxNumberOfMessages=MOST_MESSAGES,
            WaitTimeSeconds=seconds,
            VisibilityTimeout=visible_after,
        )
        return list(answer.get("Messages", ()))

    def delete(self, handle: str) -> None:
        self._call("delete_message", ReceiptHandle=handle)

    def hide(self, handle: str, seconds: int) -> None:
        """Let nobody else see a message for so long."""
        self._call("change_message_visibility", ReceiptHandle=handle, VisibilityTimeout=seconds)

    def _call(self, call: str, **asked: Any) -> dict[str, Any]:
        try:
            method = getattr(client("sqs", once=True), call)
        except ActionError as error:
            raise StoreError(f"The queue of the store (NOETL_QUEUE) cannot be used: {error.message}") from error
        found: dict[str, Any] = repeating(
            f"queue {self.url} (NOETL_QUEUE)", lambda: method(QueueUrl=self.url, **asked)
        )[0]
        return found


def _delay(due_at: float, now: float) -> int:
    """For how many whole seconds a message is held back, so that it comes when its visit is due, or is sent on then."""
    return min(max(math.ceil(due_at - now), 0), LONGEST_DELAY_SECONDS)


def _sleep(seconds: float) -> None:
    threading.Event().wait(seconds)
