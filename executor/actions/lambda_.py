"""`lambda`: invokes a function of AWS Lambda and waits for its response."""

from __future__ import annotations

import re
from typing import Any

from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import read_json, write_json
from noetl.executor.security.redaction import head
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

_NAME = re.compile(r"[\w:.$-]{1,200}", re.ASCII)


def _is_no_function(name: str) -> str | None:
    return None if _NAME.fullmatch(name) else "write the name of a function, or its ARN"


DECLARATION = ActionDeclaration(
    type="lambda",
    description="Invokes a function of AWS Lambda. Its result is the response.",
    parameters={
        "function": Parameter(
            (Kind.STRING,),
            "The name or ARN of the function, `:` and a version or alias behind it if any.",
            required=True,
            refuses=_is_no_function,
        ),
        "payload": Parameter(
            (Kind.ANY,), "What the function is given: an empty object unless given.", secrets=True
        ),
    },
    idempotent=False,
)


def perform(call: Call) -> Any:
    from noetl.executor.clients import aws

    name = call.parameters["function"]
    payload = call.parameters.get("payload", {})

    def invoke() -> tuple[str | None, str]:
        answer = aws.client("lambda", aws.region_of(name)).invoke(
            FunctionName=name, Payload=write_json(payload).encode()
        )
        return answer.get("FunctionError"), answer["Payload"].read().decode("utf-8", "replace")

    failed, text = aws.in_time(call.remaining_seconds(), f"`{name}`", invoke)
    try:
        response = read_json(text) if text else None
    except ValueError as error:
        raise ActionError(
            "FunctionFailed", f"the response is not plain data: {error}", retryable=False
        ) from None
    if failed:
        raise _failure(name, response)
    return response


def _failure(name: str, response: Any) -> ActionError:
    found = response if isinstance(response, dict) else {}
    type_, message = found.get("errorType"), found.get("errorMessage") or "it failed"
    details = {"type": type_, "message": message, "traceback": found.get("stackTrace")}
    text = f"`{name}`: {type_}: {message}" if type_ else f"`{name}`: {message}"
    return ActionError("FunctionFailed", head(text, 500), details=details)
