from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from noetl.executor.actions import log
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.security.secret_sources import resolve_secret
from noetl.testing.actions import ActionTester
from tests.action_calls import perform_action


def test_set_returns_the_values() -> None:
    assert perform_action("set", set={"a": "{{ x + 1 }}", "b": ["{{ x }}"]}, names={"x": 1}) == {
        "a": 2,
        "b": [1],
    }


def test_fail_is_not_retried() -> None:
    with pytest.raises(ActionError, match="no rows") as caught:
        perform_action("fail", message="no rows", type="EmptyInput")
    assert (caught.value.type, caught.value.retryable) == ("EmptyInput", False)
    with pytest.raises(ActionError, match="5") as caught:
        perform_action("fail", message="{{ 5 }}")
    assert caught.value.type == "Failed"


def test_log_passes_level_message_and_fields() -> None:
    said: list[tuple[str, str, Mapping[str, Any]]] = []
    parameters = {"message": {"a": 1}, "level": "warning", "fields": {"n": 1}}
    log.perform(Call(parameters, "key", time.monotonic() + 1, log=lambda *line: said.append(line)))
    log.perform(Call({"message": "x"}, "key", time.monotonic() + 1, log=lambda *line: said.append(line)))
    assert said == [("warning", '{"a":1}', {"n": 1}), ("info", "x", {})]


def test_log_levels_are_case_insensitive() -> None:
    tester = ActionTester("log")
    tester.perform({"message": "hello", "level": "Warning", "fields": {"a": 1}})
    assert tester.logs == [("warning", "hello", {"a": 1})]


def test_secrets_in_log_lines_are_redacted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOETL_SECRET_TOKEN", "correct-horse-battery")
    resolve_secret("TOKEN")
    caplog.set_level("INFO", "noetl.playbook")
    text = "it is correct-horse-battery"
    log.perform(Call({"message": text, "fields": {"seen": text}}, "key", time.monotonic() + 10))
    (record,) = caplog.records
    assert record.getMessage() == "it is ***"
    assert vars(record)["fields"] == {"seen": "it is ***"}
