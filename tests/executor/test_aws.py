"""Common behavior of AWS clients: missing settings, timeouts and errors."""

from __future__ import annotations

import sys
import threading
from typing import Any
from uuid import uuid4

import pytest

from noetl.executor.clients import aws as ours
from noetl.executor.clients.aws_retry import store_client
from noetl.executor.errors import ActionError
from noetl.executor.patience import limited_patience
from tests.action_calls import perform_action
from tests.aws import Client
from tests.http_server import StubExchange, find_free_port, serve

ACTIONS: list[dict[str, Any]] = [
    {"action_type": "s3", "get": "s3://orders/x"},
    {"action_type": "message", "to": "https://sqs.us-east-1.amazonaws.com/123456789012/orders", "body": "x"},
    {"action_type": "lambda", "function": "echo"},
]


@pytest.fixture(autouse=True)
def _environment(aws: Client) -> None:
    """The environment of every test here: no credentials of the user who runs it."""


@pytest.mark.parametrize("action", ACTIONS)
def test_the_error_names_missing_boto3(action: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.config", None)
    with pytest.raises(ActionError, match="pip install 'boto3") as caught:
        perform_action(**action)
    assert (caught.value.type, caught.value.retryable) == ("ActionDisabled", False)


@pytest.mark.parametrize(
    ("unset", "message"),
    [
        (["AWS_REGION"], "set AWS_REGION"),
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (["AWS_SECRET_ACCESS_KEY"], "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_the_error_names_a_missing_setting(
    unset: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in unset:
        monkeypatch.delenv(name)
    with pytest.raises(ActionError, match=message) as caught:
        perform_action("lambda", function="echo")
    assert (caught.value.type, caught.value.retryable) == ("ActionDisabled", False)


@pytest.mark.parametrize(("name", "value"), [("AWS_PROFILE", "none"), ("AWS_ENDPOINT_URL", "nonsense")])
def test_the_error_quotes_an_invalid_setting(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ActionError, match=value) as caught:
        perform_action("lambda", function="echo")
    assert (caught.value.type, caught.value.retryable) == ("ActionDisabled", False)


def test_a_key_with_half_of_a_surrogate_pair_is_no_wrong_setting() -> None:
    with pytest.raises(ActionError) as caught:
        perform_action("s3", get="s3://orders/\ud800")
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)


def test_a_call_without_a_response_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def say_nothing(_: StubExchange) -> None:
        server.closing.wait()

    with serve(say_nothing) as server, pytest.raises(ActionError) as caught:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url())
        perform_action("lambda", function="echo", seconds=0.5)
    assert (caught.value.type, caught.value.retryable) == ("Timeout", True)


def test_a_refused_connection_is_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{find_free_port()}")
    with pytest.raises(ActionError) as caught:
        perform_action("lambda", function="echo")
    assert (caught.value.type, caught.value.retryable) == ("ConnectionFailed", True)


def test_an_invocation_is_sent_once_and_other_requests_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda exchange: exchange.reply(503)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url())
        sent = []
        for action in ACTIONS:
            with pytest.raises(ActionError) as caught:
                perform_action(**action)
            assert (caught.value.status, caught.value.retryable) == (503, True)
            sent.append(len(server.requests))
    assert sent == [3, 6, 7]


def test_threads_share_a_client(aws: Client) -> None:
    bucket = f"orders-{uuid4()}"
    aws("s3").create_bucket(Bucket=bucket)
    barrier = threading.Barrier(8)

    def work(n: int) -> None:
        barrier.wait()
        perform_action("s3", put=f"s3://{bucket}/{n}", content=str(n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [perform_action("s3", get=f"s3://{bucket}/{n}") for n in range(8)] == [str(n) for n in range(8)]


@pytest.mark.parametrize(
    ("arn", "region"),
    [
        ("arn:aws:lambda:eu-west-1:123456789012:function:x", "eu-west-1"),
        ("x:y", None),
        ("arn:aws:s3:::x", None),
    ],
)
def test_the_region_of_an_arn(arn: str, region: str | None) -> None:
    assert ours.region_of_arn(arn) == region


@pytest.mark.parametrize("service", ["dynamodb", "s3", "sqs"])
def test_clients_of_stores_are_as_patient_as_the_operation(service: str) -> None:
    with limited_patience(1.0):
        of_request = store_client(service)
        assert store_client(service) is of_request
    of_worker = store_client(service)
    assert of_request.meta.config.read_timeout < 2
    # A worker tries again, and polls of a queue take up to two seconds.
    assert of_worker.meta.config.connect_timeout == 1
    assert of_worker.meta.config.read_timeout == (2 if service == "dynamodb" else 10)
    assert of_worker is ours.client(service, without_retries=True)
