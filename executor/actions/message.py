"""`message`: publish to a queue of SQS, a topic of SNS or a bus of EventBridge."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import MAX_WRITTEN, to_text, write_json
from noetl.executor.security.allowed_sources import SOURCES_SETTING
from noetl.executor.security.service_resources import find_resource_setting
from noetl.planner.catalogue import ActionDeclaration, Destination, Kind, Parameter
from noetl.planner.diagnostics.wording import abbreviate, quote_text, shorten

_ARN = re.compile(
    r"arn:[\w-]+:(?P<service>sqs|sns|events):(?P<region>[\w-]+):(?P<account>\d+):(?P<name>[\w.,/+-]+)"
)
_QUEUE_URL = re.compile(r"https?://(?P<host>[^/\s?#@]+)/(?P<account>\d+)/(?P<name>[\w.-]+)")


def _check_target(target: str) -> str | None:
    if _ARN.fullmatch(target) or _QUEUE_URL.fullmatch(target):
        return None
    return "use the URL of a queue, or the ARN of a queue, a topic or a bus"


DECLARATION = ActionDeclaration(
    type="message",
    extra=("aws", "boto3"),
    description="Publishes a message. Its result is the message's id.",
    parameters={
        "to": Parameter(
            (Kind.STRING,),
            "The URL of a queue, or the ARN of a queue, a topic or a bus."
            " The ARN of a queue needs the permission `sqs:GetQueueUrl`.",
            required=True,
            rejection_reason=_check_target,
        ),
        "body": Parameter(
            (Kind.ANY,),
            "The message: text unchanged, other values as JSON. A bus accepts only objects.",
            required=True,
            secrets=True,
        ),
        "attributes": Parameter(
            (Kind.OBJECT,),
            "Attributes of the message. One that is none is omitted."
            " An event has `source` and `detail_type`.",
        ),
        "group": Parameter((Kind.STRING,), "The group in a FIFO queue or topic. Default: the id of the run."),
    },
    destination=Destination("to", lambda target: _hosts_of(target)),  # noqa: PLW0108
    idempotent=False,
)

_QUEUE_HOST = re.compile(
    r"(?:sqs\.(?P<region>[\w-]+)|(?P<legacy_region>[\w-]+)\.queue)\.amazonaws\.com(?:\.cn)?"
)
DEFAULT_EVENT_SOURCE = "noetl"
_MAX_SHOWN_ADDRESS = 1_000
_EVENT_ATTRIBUTES = ("source", "detail_type")


def _hosts_of(target: str) -> tuple[str]:
    """Return the host of the endpoint to which a message is sent."""
    from noetl.executor.clients import aws

    arn, url = _ARN.fullmatch(target), _QUEUE_URL.fullmatch(target)
    if arn:
        return (aws.endpoint_host(arn["service"], arn["region"]),)
    assert url is not None
    return (aws.endpoint_host("sqs", _region_of_queue(url)),)


def _region_of_queue(url: re.Match[str]) -> str | None:
    host = _QUEUE_HOST.fullmatch(url["host"])
    return host and (host["region"] or host["legacy_region"])


def perform(call: Call) -> str:
    from noetl.executor.clients import aws

    target = call.parameters["to"]
    publish = _prepare_publish(call, target)
    return aws.call_with_timeout(call.remaining_seconds(), _show(target), publish, call.cancelled)


def _show(address: str) -> str:
    """Return an address as messages show it."""
    return f"`{shorten(address, _MAX_SHOWN_ADDRESS)}`"


def _prepare_publish(call: Call, target: str) -> Callable[[], str]:
    """Return a function that publishes the message and returns its id."""
    arn, url = _ARN.fullmatch(target), _QUEUE_URL.fullmatch(target)
    if arn and arn["service"] == "sns":
        return lambda: _publish(call, target, arn["region"])
    if arn and arn["service"] == "events":
        _refuse_events_of_others(call)
        return lambda: _put_event(call, target, arn["region"])
    queue = arn or url
    assert queue is not None
    _refuse_queue(call, target)
    region = arn["region"] if arn else _region_of_queue(queue)
    return lambda: _send(call, queue, region, is_arn=bool(arn))


def _refuse_queue(call: Call, address: str) -> None:
    """Raise `AccessDenied` for a queue of the service, and one that starts runs of other tenants only."""
    setting = find_resource_setting("queue", address)
    if setting is not None:
        message = f"the queue {_show(address)} is reserved for the service ({setting})"
        raise ActionError("AccessDenied", message, retryable=False)
    if call.capabilities.trigger_sources.belongs_to_others(call.tenant, "sqs", address):
        message = f"the queue {_show(address)} is that of another tenant's triggers ({SOURCES_SETTING})"
        raise ActionError("AccessDenied", message, retryable=False)


def _refuse_events_of_others(call: Call) -> None:
    """Raise `AccessDenied` for events whose source starts runs of other tenants only."""
    source = to_text(call.parameters.get("attributes", {}).get("source")) or DEFAULT_EVENT_SOURCE
    if call.capabilities.trigger_sources.belongs_to_others(call.tenant, "event", source):
        shown = quote_text(source)
        message = f"events of the source {shown} are those of another tenant's triggers ({SOURCES_SETTING})"
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
        **_fifo_fields(call, queue["name"]),
    )
    return str(answer["MessageId"])


def _publish(call: Call, arn: str, region: str) -> str:
    from noetl.executor.clients import aws

    answer = aws.client("sns", region).publish(
        TopicArn=arn,
        Message=_body(call),
        MessageAttributes=_attributes(call.parameters.get("attributes", {})),
        **_fifo_fields(call, arn),
    )
    return str(answer["MessageId"])


def _put_event(call: Call, arn: str, region: str) -> str:
    from noetl.executor.clients import aws

    body, attributes = call.parameters["body"], call.parameters.get("attributes", {})
    if not isinstance(body, dict):
        raise _parameter_error("`body` must be an object for a bus")
    if unknown := [name for name in attributes if name not in _EVENT_ATTRIBUTES]:
        shown = abbreviate(unknown[0])
        message = f"`attributes`: unknown attribute `{shown}`: an event has `source` and `detail_type`"
        raise _parameter_error(message)
    entry = {
        "EventBusName": arn,
        "Source": to_text(attributes.get("source")) or DEFAULT_EVENT_SOURCE,
        "DetailType": to_text(attributes.get("detail_type")) or "message",
        "Detail": _to_text(body),
    }
    (answer,) = aws.client("events", region).put_events(Entries=[entry])["Entries"]
    if "ErrorCode" in answer:
        message = f"{_show(arn)}: {answer.get('ErrorMessage') or 'refused'}"
        raise aws.error_from_code(answer["ErrorCode"], message)
    return str(answer["EventId"])


def _body(call: Call) -> str:
    body = call.parameters["body"]
    return str(body) if isinstance(body, str) else _to_text(body)


def _to_text(value: Any) -> str:
    try:
        return write_json(value, MAX_WRITTEN)
    except ValueError as error:
        raise _parameter_error(f"the message cannot be sent: {error}") from None


def _attributes(values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {
        name: {
            "DataType": "Number" if _is_number(value) else "String",
            "StringValue": value if isinstance(value, str) else _to_text(value),
        }
        for name, value in values.items()
        if value is not None
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fifo_fields(call: Call, name: str) -> dict[str, str]:
    """Return the fields for FIFO queues and topics; none for others.

    A FIFO queue discards a message whose deduplication id it received within the last five minutes.
    """
    if not name.endswith(".fifo"):
        if "group" in call.parameters:
            raise _parameter_error("`group` is only for queues and topics whose names end with `.fifo`")
        return {}
    group = call.parameters.get("group") or str(call.labels.get("run", "noetl"))
    return {"MessageGroupId": group, "MessageDeduplicationId": call.idempotency_key}


def _parameter_error(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)
