"""The SQS queue of due messages."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.clients.aws_retry import call_with_retries, each_try, store_client
from noetl.executor.errors import ActionError, StoreError
from noetl.executor.model.run import NEVER
from noetl.executor.stores.sqs.due_message import MAX_DELAY_SECONDS, DueMessage
from noetl.executor.stores.sqs.outbox_message import OutboxMessage
from noetl.executor.stores.sqs.trigger_message import TriggerMessage

QueueMessage = DueMessage | TriggerMessage | OutboxMessage

MAX_BATCH = 10
"""Number of messages that one call of SQS sends or receives at most."""

_GROUP = re.compile(r"[!-}]{1,128}")
"""A tenant that can be the name of a message group as it is."""


class MessageQueue:
    """A queue of SQS."""

    def __init__(self, url: str) -> None:
        self.url = url

    def send(self, messages: Sequence[QueueMessage], now: float) -> None:
        """Send messages, each delayed until what it names is due.

        Skip visits that only an answer makes due.

        The tenant is the message group. A standard queue with groups is a fair queue of SQS: a tenant with
        many messages does not delay those of other tenants.
        """
        entries = [_to_entry(message, now) for message in messages if message.due_at < NEVER]
        if len(entries) == 1:
            self._call("send_message", **entries[0])
            return
        for start in range(0, len(entries), MAX_BATCH):
            self._send_batch(entries[start : start + MAX_BATCH])

    def _send_batch(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Send up to MAX_BATCH messages, and those again that SQS did not accept."""
        remaining = {str(number): {"Id": str(number), **entry} for number, entry in enumerate(entries)}
        for _ in each_try():
            response = self._call("send_message_batch", Entries=list(remaining.values()))
            remaining = {failed["Id"]: remaining[failed["Id"]] for failed in response.get("Failed", ())}
            if not remaining:
                return
        raise StoreError("The queue of the store (NOETL_QUEUE) is overloaded: it does not accept messages.")

    def check_access(self) -> None:
        """Check that the queue exists and may be used.

        Raises:
            StoreError: it does not exist, or access is denied.
        """
        self._call("get_queue_attributes", AttributeNames=["QueueArn"])

    def receive(self, wait_seconds: int, visibility_seconds: int) -> list[dict[str, Any]]:
        """Return up to MAX_BATCH messages. Other receivers do not see them for `visibility_seconds`."""
        response = self._call(
            "receive_message",
            MaxNumberOfMessages=MAX_BATCH,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=visibility_seconds,
        )
        return list(response.get("Messages", ()))

    def delete(self, handle: str) -> None:
        """Delete a received message."""
        self._call("delete_message", ReceiptHandle=handle)

    def extend_visibility(self, handle: str, seconds: int) -> None:
        """Keep a received message invisible to other receivers for `seconds` from now."""
        self._call("change_message_visibility", ReceiptHandle=handle, VisibilityTimeout=seconds)

    def _call(self, call: str, **parameters: Any) -> dict[str, Any]:
        try:
            method = getattr(store_client("sqs"), call)
        except ActionError as error:
            raise StoreError(
                f"The queue of the store (NOETL_QUEUE) cannot be used: {error.message}"
            ) from error
        response: dict[str, Any] = call_with_retries(
            f"queue {self.url} (NOETL_QUEUE)", lambda: method(QueueUrl=self.url, **parameters)
        )
        return response


def _to_entry(message: QueueMessage, now: float) -> dict[str, Any]:
    """Return the parameters of SQS for a message.

    >>> _to_entry(DueMessage("r", "v", "s", 2.0, tenant="acme"), now=2.0)["MessageGroupId"]
    'acme'
    """
    delay = _delay_seconds(message.due_at, now)
    entry = {"MessageBody": message.encode(), "MessageGroupId": _group_of(message.tenant)}
    return entry | ({"DelaySeconds": delay} if delay else {})


def _group_of(tenant: str) -> str:
    """Return the message group of a tenant, for which SQS allows 128 characters of ASCII without blanks.

    >>> _group_of("acme"), _group_of("a b")[:11]
    ('acme', '~c8687a08aa')
    """
    if _GROUP.fullmatch(tenant):
        return tenant
    return "~" + hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()


def _delay_seconds(due_at: float, now: float) -> int:
    """Return the whole seconds until a visit is due, up to the longest delay of SQS.

    >>> _delay_seconds(2.2, 1.0), _delay_seconds(0.0, 1.0), _delay_seconds(5000.0, 1.0)
    (2, 0, 900)
    """
    return min(max(math.ceil(due_at - now), 0), MAX_DELAY_SECONDS)
