"""`message`: publishes to SQS, SNS or EventBridge."""

from __future__ import annotations

from typing import NoReturn

from executor.actions.action import Call, not_supported
from planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="message",
    description="Publishes a message. Its result is the message's id.",
    parameters={
        "to": Parameter((Kind.STRING,), "The ARN or URL of the queue, topic or bus.", required=True),
        "body": Parameter((Kind.ANY,), "What to send.", required=True, secrets=True),
        "attributes": Parameter((Kind.OBJECT,), "Attributes of the message."),
    },
    idempotent=False,
    supported=False,
)


def perform(call: Call) -> NoReturn:
    not_supported("message")
