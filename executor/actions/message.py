"""`message`: publishes to a queue of SQS, a topic of SNS or a bus of EventBridge."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import text_of, write_json
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

_ARN = re.compile(
    r"arn:[\w-]+:(?P<service>sqs|sns|events):(?P<region>[\w-]+):(?P<account>\d+):(?P<name>[\w.,/+-]+)"
)
_QUEUE_URL = re.compile(r"https?://(?P<host>[^/\s?#@]+)/(?P<account>\d+)/(?P<name>[\w.-]+)")


def _is_nowhere(to: str) -> str | None:
    if _ARN.fullmatch(to) or _QUEUE_URL.fullmatch(to):
        return None
    return "it is neither the URL of a queue nor the ARN of a queue, a topic or a bus"


DECLARATION = ActionDeclaration(
    type="message",
    description="Publishes a message. Its result is the message's id.",
    parameters={
        "to": Parameter(
            (Kind.STRING,),
            "The URL of a queue, or the ARN of a queue, a topic or a bus (for a queue's, `sqs:GetQueueUrl` is needed).",
            required=True,
            refuses=_is_nowhere,
        ),
        "body": Parameter(
            (Kind.ANY,),
            "What to send: text as it is, the rest as JSON. A bus takes objects.",
            required=True,
            secrets=True,
        ),
        "attributes": Parameter(
            (Kind.OBJECT,),
            "Attributes of the message; one that is none is left out. Of an event: `source` and `detail_type`.",
        ),
        "group": Parameter(
            (Kind.STRING,), "The group within a FIFO queue or topic: that of the run unless given."
        ),
    },
    idempotent=False,
)

_QUEUE_HOST = re.compile(r"(?:sqs\.(?P<region>[\w-]+)|(?P<old>[\w-]+)\.queue)\.amazonaws\.com(?:\.cn)?")
_EVENT = ("source", "detail_type")


def perform(call: Call) -> str:
    from noetl.executor.clients import aws

    to = call.parameters["to"]
    arn, url = _ARN.fullmatch(to), _QUEUE_URL.fullmatch(to)
    if arn and arn["service"] == "sns":
        return aws.in_time(call.remaining_seconds(), f"`{to}`", lambda: _publish(call, to, arn["region"]))
    if arn and arn["service"] == "events":
        return aws.in_time(call.remaining_seconds(), f"`{to}`", lambda: _put_event(call, to, arn["region"]))
    queue = arn or url
    assert queue is not None
    _refuse_our_own(queue["account"], queue["name"])
    if arn:
        region = arn["region"]
    else:
        host = _QUEUE_HOST.fullmatch(queue["host"])
        region = host and (host["region"] or host["old"])
    return aws.in_time(
        call.remaining_seconds(), f"`{to}`", lambda: _send(call, queue, region, is_arn=bool(arn))
    )


def _refuse_our_own(account: str, name: str) -> None:
    own = _QUEUE_URL.fullmatch(os.environ.get("NOETL_QUEUE", ""))
    if own and (own["account"], own["name"]) == (account, name):
        message = f"the queue {name!r} is the one that drives runs (NOETL_QUEUE)"
        raise ActionError("AccessDenied", message, retryable=False)


def _send(call: Call, queue: re.Match[str], region: str | None, *, is_arn: bool) -> str:
    from noetl.executor.clients import aws

    sqs = aws.client("sqs", region)
    url = queue[0]
    if is_arn:
        url = sqs.get_queue_url(QueueName=queue["name"], QueueOwnerAWSAccountId=queue["account"])["QueueUrl"]
    answer = sqs.send_message(
        QueueUrl=url,
        MessageBody=_body(call),
        MessageAttributes=_attributes(call.parameters.get("attributes", {})),
        **_order(call, queue["name"]),
    )
    return str(answer["MessageId"])


def _publish(call: Call, arn: str, region: str) -> str:
    from noetl.executor.clients import aws

    answer = aws.client("sns", region).publish(
        TopicArn=arn,
        Message=_body(call),
        MessageAttributes=_attributes(call.parameters.get("attributes", {})),
        **_order(call, arn),
    )
    return str(answer["MessageId"])


def _put_event(call: Call, arn: str, region: str) -> str:
    from noetl.executor.clients import aws

    body, attributes = call.parameters["body"], call.parameters.get("attributes", {})
    if not isinstance(body, dict):
        raise _wrong("`body` must be an object, since that is what an event is")
    if unknown := [name for name in attributes if name not in _EVENT]:
        raise _wrong(f"`attributes`: an event has `source` and `detail_type`, and no `{unknown[0]}`")
    entry = {
        "EventBusName": arn,
        "Source": text_of(attributes.get("source")) or "noetl",
        "DetailType": text_of(attributes.get("detail_type")) or "message",
        "Detail": write_json(body),
    }
    (answer,) = aws.client("events", region).put_events(Entries=[entry])["Entries"]
    if "ErrorCode" in answer:
        raise aws.failure(answer["ErrorCode"], f"`{arn}`: {answer.get('ErrorMessage') or 'refused'}")
    return str(answer["EventId"])


def _body(call: Call) -> str:
    body = call.parameters["body"]
    return str(body) if isinstance(body, str) else write_json(body)


def _attributes(given: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {
        name: {"DataType": "Number" if _is_number(value) else "String", "StringValue": text_of(value)}
        for name, value in given.items()
        if value is not None
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(call: Call, name: str) -> dict[str, str]:
    """What only FIFO queues and topics take: they drop what they have seen under the same key within five minutes."""
    if not name.endswith(".fifo"):
        if "group" in call.parameters:
            raise _wrong("`group` is for queues and topics whose names end with `.fifo`")
        return {}
    group = call.parameters.get("group") or str(call.labels.get("run", "noetl"))
    return {"MessageGroupId": group, "MessageDeduplicationId": call.idempotency_key}


def _wrong(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)
