"""`lambda`: invoke a function of AWS Lambda and wait for its response."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

from noetl.executor.actions._formats import check_value_count
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.arriving_data import ArrivingData, json_weight
from noetl.executor.model.json_values import encode_json, read_json
from noetl.executor.security.redaction import redacted_head
from noetl.executor.security.service_resources import find_resource_setting
from noetl.planner.catalogue import ActionDeclaration, Destination, Kind, Parameter
from noetl.planner.diagnostics.wording import quote_text

_MAX_RESPONSE = 6 * 1024 * 1024
"""Limit of the response of a function, in bytes, as that of AWS Lambda."""
_CHUNK_BYTES = 256 * 1024
_NAME_IN_ARN = re.compile(
    r"(?:arn:[^:]*:lambda:[^:]*:)?(?:\d*:)?(?:function:)?(?P<name>[^:]+)(?::[^:]*)?", re.ASCII
)
_FUNCTION_NAME = re.compile(r"[\w:.$-]{1,200}", re.ASCII)


def _check_function_name(name: str) -> str | None:
    return None if _FUNCTION_NAME.fullmatch(name) else "write the name of a function, or its ARN"


DECLARATION = ActionDeclaration(
    type="lambda",
    extra=("aws", "boto3"),
    description="Invokes a function of AWS Lambda. Its result is the response.",
    parameters={
        "function": Parameter(
            (Kind.STRING,),
            "The name or ARN of the function, optionally followed by `:` and a version or alias.",
            required=True,
            rejection_reason=_check_function_name,
        ),
        "payload": Parameter(
            (Kind.ANY,), "The input of the function. Default: an empty object.", secrets=True
        ),
    },
    destination=Destination("function", lambda function: _hosts_of(function)),  # noqa: PLW0108
    summary=lambda parameters: str(parameters.get("function", "")),
    idempotent=False,
)


def _hosts_of(function: str) -> tuple[str]:
    from noetl.executor.clients import aws

    return (aws.endpoint_host("lambda", aws.region_of_arn(function)),)


def perform(call: Call) -> Any:
    from noetl.executor.clients import aws

    name = call.parameters["function"]
    _refuse_own_function(name)
    try:
        payload = encode_json(call.parameters.get("payload", {}))
    except ValueError as error:
        message = f"`payload` cannot be sent: {error}"
        raise ActionError("ParameterError", message, retryable=False) from None

    def invoke(arriving: ArrivingData) -> tuple[str | None, str]:
        client = aws.client("lambda", aws.region_of_arn(name))
        answer = client.invoke(FunctionName=name, Payload=payload)
        with closing(answer["Payload"]) as body:
            return answer.get("FunctionError"), _read(body, arriving).decode("utf-8", "replace")

    with call.receive() as arriving:
        function_error, text = aws.call_with_timeout(
            call.remaining_seconds(), f"`{name}`", lambda: invoke(arriving), call.cancelled
        )
        if len(text) > _MAX_RESPONSE:
            message = f"the response of `{name}` is longer than {_MAX_RESPONSE:,} bytes"
            raise ActionError("LimitExceeded", message, retryable=False)
        response = _decode(text, arriving)
    if function_error:
        raise _function_failed(name, response)
    return response


def _read(body: Any, arriving: ArrivingData) -> bytes:
    """Return the response of a function, and a little more than its limit at most."""
    data = bytearray()
    for chunk in body.iter_chunks(_CHUNK_BYTES):
        # The bytes and their text exist at the same time.
        arriving.hold(2 * (len(data) + len(chunk)))
        data += chunk
        if len(data) > _MAX_RESPONSE:
            break
    return bytes(data)


def _decode(text: str, arriving: ArrivingData) -> Any:
    check_value_count(text)
    arriving.hold(2 * len(text) + json_weight(text))
    try:
        return read_json(text) if text else None
    except ValueError as error:
        raise ActionError("FunctionFailed", f"the response is not JSON: {error}", retryable=False) from None


def _refuse_own_function(function: str) -> None:
    """Raise `AccessDenied` for a function of this service: this one, or one of its stack on AWS."""
    match = _NAME_IN_ARN.fullmatch(function)
    name = (match["name"] if match else function).lower()
    if find_resource_setting("function", name) is not None:
        raise ActionError(
            "AccessDenied", f"the function {quote_text(name)} is reserved for runs", retryable=False
        )


def _function_failed(name: str, response: Any) -> ActionError:
    fields = response if isinstance(response, dict) else {}
    type_, message = fields.get("errorType"), fields.get("errorMessage") or "it failed"
    details = {"type": type_, "message": message, "traceback": fields.get("stackTrace")}
    text = f"`{name}`: {type_}: {message}" if type_ else f"`{name}`: {message}"
    return ActionError("FunctionFailed", redacted_head(text, 500), details=details)
