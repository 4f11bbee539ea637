from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import requests
from botocore.stub import Stubber

from noetl.executor.clients import aws as ours
from noetl.executor.errors import ActionError
from tests.action_calls import perform_action
from tests.aws import REGION, Client, drop_permissions

RESPONSES = "http://motoapi.amazonaws.com/moto-api/static/lambda-simple/response"
"""Where moto takes the responses of functions, which it does not execute."""

CODE = """
def answer(event, context):
    if isinstance(event, dict) and "fail" in event:
        raise ValueError(event["fail"])
    return event
"""


TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)


@pytest.fixture
def function(aws: Client) -> str:
    """The ARN of a function that returns its input, or fails if the input says so."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("code.py", CODE)
    role = aws("iam").create_role(RoleName="any", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    created = aws("lambda").create_function(
        FunctionName="echo",
        Runtime="python3.13",
        Role=role,
        Handler="code.answer",
        Code={"ZipFile": package.getvalue()},
    )
    return str(created["FunctionArn"])


def test_the_response_is_the_result(function: str) -> None:
    payload = {"ü": [1, None, {"a": 1.5}]}
    assert (
        perform_action("lambda", function="echo", payload="{{ given }}", names={"given": payload}) == payload
    )
    assert perform_action("lambda", function=function, payload=[1]) == [1]
    assert perform_action("lambda", function=function) == {}


def test_a_failed_function_is_an_error(function: str) -> None:
    with pytest.raises(ActionError, match=r"`echo`: .*no such order") as caught:
        perform_action("lambda", function="echo", payload={"fail": "no such order"})
    error = caught.value
    assert (error.type, error.retryable, error.details["message"]) == (
        "FunctionFailed",
        True,
        "no such order",
    )


def test_a_missing_function_is_an_error(aws: Client) -> None:
    with pytest.raises(ActionError, match="none") as caught:
        perform_action("lambda", function="none")
    assert (caught.value.type, caught.value.status, caught.value.retryable) == ("NotFound", 404, False)


def test_a_missing_permission_is_an_error(
    aws: Client, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_permissions(aws, monkeypatch)
    with pytest.raises(ActionError) as caught:
        perform_action("lambda", function="echo")
    assert (caught.value.type, caught.value.retryable) == ("AccessDenied", False)


def test_an_invalid_name_is_refused(moto_aws: Client) -> None:
    with pytest.raises(ActionError) as caught:
        perform_action("lambda", function="")
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)


@pytest.mark.parametrize(
    ("code", "status", "type_", "retryable"),
    [
        ("TooManyRequestsException", 429, "Throttled", True),
        ("ServiceException", 500, "AWSError", True),
        ("RequestTooLargeException", 413, "AWSError", False),
    ],
)
def test_errors_of_the_service_are_translated(
    moto_aws: Client, code: str, status: int, type_: str, retryable: bool
) -> None:
    with Stubber(ours.client("lambda", None)) as stub, pytest.raises(ActionError, match="not now") as caught:
        stub.add_client_error("invoke", code, "not now", status)
        perform_action("lambda", function="echo")
    assert (caught.value.type, caught.value.status, caught.value.retryable) == (type_, status, retryable)


@pytest.fixture
def respond(moto_aws: Client) -> Callable[[str], None]:
    """A function that chooses the next response of a function."""

    def choose(text: str) -> None:
        requests.post(RESPONSES, json={"results": [text], "region": REGION}).raise_for_status()

    return choose


@pytest.mark.parametrize(("body", "expected"), [("", None), ("null", None), ('"ü"', "ü")])
def test_a_response_may_be_empty_or_any_json(
    respond: Callable[[str], None], body: str, expected: Any
) -> None:
    respond(body)
    assert perform_action("lambda", function="echo") == expected


def test_a_response_that_is_not_json_is_an_error(respond: Callable[[str], None]) -> None:
    respond("{")
    with pytest.raises(ActionError, match="not JSON") as caught:
        perform_action("lambda", function="echo")
    assert (caught.value.type, caught.value.retryable) == ("FunctionFailed", False)
