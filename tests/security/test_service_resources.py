"""Queues, buckets and functions of a service, which actions must not use in any spelling."""

from __future__ import annotations

import re
from typing import Any

import pytest

from noetl.executor.actions import message
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.security.allowed_sources import SOURCES_SETTING, read_allowed_sources
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.security.event_buses import BUSES_SETTING
from noetl.executor.security.service_resources import RESOURCE_SETTINGS, STACK_SETTING
from noetl.executor.settings import SETTINGS
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import RunHarness
from tests.action_calls import perform_action

ACCOUNT = "123456789012"
HOST = "https://sqs.eu-west-1.amazonaws.com"
ORDERS = f"{HOST}/{ACCOUNT}/orders"
SPELLINGS = (
    ORDERS,
    f"arn:aws:sqs:eu-west-1:{ACCOUNT}:orders",
    f"https://eu-west-1.queue.amazonaws.com/{ACCOUNT}/orders",
    f"http://localhost:4566/{ACCOUNT}/orders",
)


def test_every_setting_that_names_a_resource_of_aws_is_on_the_list() -> None:
    """Sources and buses have rules for each tenant, and a store in DynamoDB has no action."""
    named = {
        setting.name
        for setting in SETTINGS
        if re.search(r"\b(queue|bucket|topic|table|stack|bus(es)?|function of AWS|ARN)\b", setting.value)
        or re.search(r"\b(queue of SQS|bucket|topic|buses of)\b", setting.meaning)
    }
    known = {*RESOURCE_SETTINGS, STACK_SETTING} - {"AWS_LAMBDA_FUNCTION_NAME"}
    assert named == known | {"NOETL_STORE", SOURCES_SETTING, BUSES_SETTING}


@pytest.mark.parametrize("target", SPELLINGS)
@pytest.mark.parametrize("address", SPELLINGS[:2])
@pytest.mark.parametrize("setting", [name for name, kind in RESOURCE_SETTINGS.items() if kind == "queue"])
def test_the_queues_of_the_service_are_refused(
    monkeypatch: pytest.MonkeyPatch, setting: str, address: str, target: str
) -> None:
    monkeypatch.setenv(setting, address)
    with pytest.raises(ActionError, match=setting) as caught:
        perform_action("message", to=target, body="x")
    assert (caught.value.type, caught.value.retryable) == ("AccessDenied", False)


def test_the_queues_of_the_stack_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STACK_SETTING, "noetl")
    with pytest.raises(ActionError, match=STACK_SETTING) as caught:
        perform_action("message", to=f"{HOST}/{ACCOUNT}/noetl-DeadLetterQueue-x", body="x")
    assert caught.value.type == "AccessDenied"


@pytest.mark.parametrize(
    "parameters",
    [
        *({"to": target, "body": "x"} for target in SPELLINGS),
        {
            "to": f"arn:aws:events:eu-west-1:{ACCOUNT}:event-bus/default",
            "body": {},
            "attributes": {"source": "shop"},
        },
    ],
)
def test_what_starts_runs_of_other_tenants_is_refused(
    monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any]
) -> None:
    environ = {
        SOURCES_SETTING: f"acme/sqs:{ORDERS}; acme/event:shop",
        "NOETL_EVENT_QUEUE": f"{ORDERS}-events",
    }
    capabilities = Capabilities(trigger_sources=read_allowed_sources(environ))
    with pytest.raises(ActionError, match=SOURCES_SETTING) as caught:
        perform_action("message", capabilities=capabilities, **parameters)
    assert (caught.value.type, caught.value.retryable) == ("AccessDenied", False)
    sent: list[str] = []

    def send(call: Call, *_: object, **__: object) -> str:
        sent.append(call.tenant)
        return "id"

    for name in ("_send", "_put_event"):
        monkeypatch.setattr(message, name, send)
    for tenant in ("acme", "default"):
        step = {"name": "a", "run": [{"action": "message", **parameters}]}
        harness = RunHarness(MemoryStore(), str({"name": "send", "steps": [step]}), tenant=tenant)
        harness.capabilities = capabilities
        assert harness.finish().status == ("succeeded" if tenant == "acme" else "failed")
    assert sent == ["acme"]


@pytest.mark.parametrize(
    "bucket",
    [
        f"arn:aws:s3:eu-west-1:{ACCOUNT}:accesspoint:ours",
        f"arn:aws:s3:eu-west-1:{ACCOUNT}:accesspoint",
        "ours-abcdefgh-s3alias",
        "OURS-abcdefgh-s3alias",
        "ours-abc--ol-s3",
        "ours--xa-s3",
        "abc.mrap",
    ],
)
def test_access_points_of_buckets_are_refused(bucket: str) -> None:
    with pytest.raises(ActionError, match="access point") as caught:
        perform_action("s3", get=f"s3://{bucket}/ours/key")
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)
