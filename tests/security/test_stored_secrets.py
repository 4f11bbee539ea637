"""Secrets in AWS: in Secrets Manager and in the parameter store of Systems Manager."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from noetl.executor.engine.rendering import render
from noetl.executor.errors import ActionError
from noetl.executor.security import secret_sources
from noetl.executor.security.redaction import MASK, redact
from noetl.executor.security.secret_access import unrestricted_access
from noetl.executor.security.secret_sources import AwsSecrets, resolve_secret
from noetl.planner.catalogue import Kind, Parameter
from tests.aws import Client, drop_permissions
from tests.http_server import serve

PREFIX = "/shop/"
BODY = Parameter((Kind.ANY,), "", secrets=True)


@pytest.fixture(autouse=True)
def _prefix(aws: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NOETL_SECRETS_PREFIX", PREFIX)
    yield
    secret_sources.AWS_SECRETS.clear()


def store_secret(aws: Client, name: str, value: str) -> None:
    aws("secretsmanager").create_secret(Name=f"{PREFIX}{name}", SecretString=value)


def store_parameter(aws: Client, name: str, value: str) -> None:
    aws("ssm").put_parameter(Name=f"{PREFIX}{name}", Value=value, Type="SecureString", Overwrite=True)


def render_text(text: str) -> Any:
    return render(text, BODY, dict[str, object]().__getitem__, unrestricted_access())


def test_the_environment_precedes_secrets_manager_and_systems_manager(
    aws: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A", "B", "C"):
        store_parameter(aws, name, f"{name} of systems manager")
    for name in ("A", "B"):
        store_secret(aws, name, f"{name} of secrets manager")
    monkeypatch.setenv("NOETL_SECRET_A", "A of the environment")
    assert [resolve_secret(name) for name in "ABC"] == [
        "A of the environment",
        "B of secrets manager",
        "C of systems manager",
    ]
    assert redact("Basic B of secrets manager") == f"Basic {MASK}"


@pytest.mark.parametrize(
    ("prefix", "tenant", "parameter"),
    [
        ("/a/", "default", "/a/A"),
        ("a/", "default", "/a/A"),
        ("a-", "default", "a-A"),
        ("a-", "acme", "/a-acme/A"),
    ],
)
def test_a_parameter_with_a_path_begins_with_a_slash(
    aws: Client, prefix: str, tenant: str, parameter: str
) -> None:
    aws("ssm").put_parameter(Name=parameter, Value=parameter, Type="SecureString")
    assert resolve_secret("A", {"NOETL_SECRETS_PREFIX": prefix}, tenant) == parameter


@pytest.mark.parametrize("environ", [{}, {"NOETL_SECRETS_PREFIX": ""}])
def test_without_a_prefix_aws_is_not_queried(aws: Client, environ: dict[str, str]) -> None:
    aws("ssm").put_parameter(Name="A", Value="x", Type="SecureString")
    with pytest.raises(ActionError, match=r"unknown secret `A`: [^`]*$"):
        resolve_secret("A", environ)


def test_the_error_of_a_missing_secret_names_its_possible_place() -> None:
    with pytest.raises(ActionError, match=f"store it as `{PREFIX}NONE`") as caught:
        resolve_secret("NONE")
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)
    assert render_text("{{ secrets.NONE | default('none') }}") == "none"


def test_secrets_are_cached_for_five_minutes(aws: Client) -> None:
    now = 1_000.0
    fetched = AwsSecrets(clock=lambda: now)
    name = f"{PREFIX}A"
    assert fetched.get(name) is None
    store_parameter(aws, "A", "one")
    assert fetched.get(name) == "one"
    store_parameter(aws, "A", "two")
    now += 299
    assert fetched.get(name) == "one"
    now += 1
    assert fetched.get(name) == "two"
    aws("ssm").delete_parameter(Name=name)
    now += 300
    assert fetched.get(name) is None


def test_a_missing_permission_is_not_a_missing_secret(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    store_secret(aws, "A", "value")
    drop_permissions(aws, monkeypatch)
    with pytest.raises(ActionError, match=f"secret `{PREFIX}A` in Secrets Manager") as caught:
        render_text("{{ secrets.A | default('none') }}")
    assert (caught.value.type, caught.value.retryable) == ("AccessDenied", False)


def test_permission_for_one_service_is_enough(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    store_parameter(aws, "A", "value")
    statement = {"Effect": "Allow", "Action": "ssm:GetParameter", "Resource": "*"}
    allow = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    drop_permissions(aws, monkeypatch)
    aws("iam").put_user_policy(UserName="nobody", PolicyName="read", PolicyDocument=allow)
    assert resolve_secret("A") == "value"
    with pytest.raises(ActionError) as caught:
        resolve_secret("B")
    assert caught.value.type == "AccessDenied"


def test_a_binary_secret_is_an_error(aws: Client) -> None:
    aws("secretsmanager").create_secret(Name=f"{PREFIX}A", SecretBinary=b"\x00\xff")
    with pytest.raises(ActionError, match="is not text") as caught:
        resolve_secret("A")
    assert (caught.value.type, caught.value.retryable) == ("AWSError", False)


def test_a_failed_query_is_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda exchange: exchange.reply(503)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url())
        with pytest.raises(ActionError) as caught:
            render_text("{{ secrets.A | default('none') }}")
    assert (caught.value.status, caught.value.retryable) == (503, True)
