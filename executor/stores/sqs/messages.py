"""MessageQueue about visits that have become due: ids only. They are hints; what is true stands in the table."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

from noetl.executor.clients.aws import client
from noetl.executor.clients.aws_retry import MAX_TRIES, call_with_retries, pause_seconds
from noetl.executor.errors import ActionError, StoreError
from noetl.executor.model.run import NEVER
from noetl.executor.stores.sqs.due_message import LONGEST_DELAY_SECONDS, DueMessage

MOST_MESSAGES = 10


class MessageQueue:
    """A queue of SQS."""

    def __init__(self, url: str) -> None:
        self.url = url

    def send(self, notes: Sequence[DueMessage], now: float) -> None:
        """Send messages about what is due; none about what nothing but an answer makes due."""
        entries = [(note.encode(), _delay(note.due_at, now)) for note in notes if note.due_at < NEVER]
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
            for tries in range(MAX_TRIES):
                answer = self._call("send_message_batch", Entries=list(left.values()))
                left = {failed["Id"]: left[failed["Id"]] for failed in answer.get("Failed", ())}
                if not left:
                    break
                if tries + 1 < MAX_TRIES:
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
            raise StoreError(
                f"The queue of the store (NOETL_QUEUE) cannot be used: {error.message}"
            ) from error
        found: dict[str, Any] = call_with_retries(
            f"queue {self.url} (NOETL_QUEUE)", lambda: method(QueueUrl=self.url, **asked)
        )[0]
        return found


def _delay(due_at: float, now: float) -> int:
    """For how many whole seconds a message is held back, so that it comes when its visit is due, or is sent on then."""
    return min(max(math.ceil(due_at - now), 0), LONGEST_DELAY_SECONDS)


def _sleep(seconds: float) -> None:
    threading.Event().wait(seconds)
