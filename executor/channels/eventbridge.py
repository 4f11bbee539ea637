"""Channels of type `eventbridge`: an event on a bus of Amazon EventBridge."""

from __future__ import annotations

import json

from noetl.executor.channels.message import Message
from noetl.executor.clients import aws
from noetl.executor.errors import ActionError
from noetl.executor.model.deliveries import SEND_SECONDS, DeliveryFailure
from noetl.executor.patience import bounded_by_invocation

SOURCE = "noetl"
"""The source of the events. Their `detail-type` is the type of the message, such as `run.failed`."""


def put_event(bus: str, message: Message) -> DeliveryFailure | None:
    """Put an event on a bus, by its name or its ARN. Return None if the bus has accepted it."""
    entry = {
        "EventBusName": bus,
        "Source": SOURCE,
        "DetailType": message.type,
        "Detail": json.dumps({"id": message.id, **message.body}),
    }
    subject, seconds = f"event bus `{bus}`", bounded_by_invocation(SEND_SECONDS)
    try:
        client = aws.client("events", aws.region_of_arn(bus))
        answer = aws.call_with_timeout(seconds, subject, lambda: client.put_events(Entries=[entry]))
    except ActionError as error:
        return DeliveryFailure(error.message, is_away=error.retryable)
    if not answer.get("FailedEntryCount"):
        return None
    refused = answer["Entries"][0]
    return DeliveryFailure(f"{subject}: {refused.get('ErrorMessage')} ({refused.get('ErrorCode')})")
