"""The notifications of a playbook: how they are written, what is reported, and what the plan has of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.notify import MAX_CHANNELS, Notify
from noetl.planner.plan import Header
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.testing.run_harness import compile_text
from tests.planner.findings import STEP, diagnose, findings


def lower_notify(text: str) -> Notify | None:
    return compile_text(f"notify: {text}\n{STEP}").header.notify


@pytest.mark.parametrize(
    ("text", "notify"),
    [
        ("{failed: ops}", Notify({"failed": ("ops",)})),
        ("{succeeded: [b, a, b]}", Notify({"succeeded": ("b", "a")})),
        ("{cancelled: [ops]}", Notify({"cancelled": ("ops",)})),
        ("{failed: ops, late: 30m}", Notify({"failed": ("ops",), "late": ("ops",)}, 1800.0)),
        ("{failed: ops, late: 90}", Notify({"failed": ("ops",), "late": ("ops",)}, 90.0)),
        (
            "{failed: ops, late: {after: 1d, to: boss}}",
            Notify({"failed": ("ops",), "late": ("boss",)}, 86_400),
        ),
        ("{late: {after: 1s, to: [boss]}}", Notify({"late": ("boss",)}, 1.0)),
        ("{}", None),
        ("", None),
    ],
)
def test_both_forms_are_lowered(text: str, notify: Notify | None) -> None:
    assert lower_notify(text) == notify


def test_a_plan_keeps_its_notifications_and_one_without_them_its_hash() -> None:
    plan, silent = compile_text(f"notify: {{failed: ops, late: 1h}}\n{STEP}"), compile_text(STEP)
    assert Header.from_json(json.loads(json.dumps(plan.header.to_json()))) == plan.header
    assert "notify" not in silent.header.to_json()
    assert plan.hash != silent.hash


@pytest.mark.parametrize(
    "text",
    [
        "{failed: {action: log, message: ok}}",
        "{failed: [ops, {action: log, message: ok}]}",
        "{succeeded: {task: tell}}",
        "{late: {after: 1h, to: {step: tell}}}",
        "[{action: log, message: ok}]",
        "{run: [{action: log, message: ok}]}",
        "{failed: ops, late: {after: 1h, to: ops, action: log}}",
    ],
)
def test_an_action_is_not_the_name_of_a_channel(text: str) -> None:
    assert [code for code, _ in findings(f"notify: {text}\n{STEP}")] == ["NP850"]


@pytest.mark.parametrize("name", ["on call", "#ops", ".a", "", "a" * 64, "a/b"])
def test_a_channel_has_a_legal_name(name: str) -> None:
    for text in (
        f"{{failed: {json.dumps(name)}}}",
        f"{{late: {{after: 1h, to: [ops, {json.dumps(name)}]}}}}",
    ):
        (found,) = diagnose(f"notify: {text}\n{STEP}")
        assert (found.code, found.message[:17]) == ("NP012", "name of a channel")
    assert lower_notify(f"{{failed: {'a' * 63}}}") is not None


def test_an_event_has_a_limited_number_of_channels() -> None:
    names = [f"c{number}" for number in range(MAX_CHANNELS + 1)]
    (found,) = diagnose(f"notify: {{failed: [{', '.join(names)}]}}\n{STEP}")
    assert (found.code, found.message) == ("NP012", "`failed` must have at most 20 entries")
    assert lower_notify(f"{{failed: [{', '.join(names[:-1])}]}}") is not None


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("{late: 30m}", ["NP011"]),
        ("{failed: null, late: {after: 30m, to: null}}", ["NP011"]),
        ("{succeeded: audit, late: {after: 30m}}", ["NP011"]),
        # The wrong channels of `failed` are reported alone.
        ("{failed: 3, late: 30m}", ["NP012"]),
        ("{failed: ops, late: 0s}", ["NP012"]),
        ("{failed: ops, late: 366d}", ["NP012"]),
        ("{failed: ops, late: soon}", ["NP012"]),
        ("{failed: ops, late: {to: ops}}", ["NP011"]),
        ("ops", ["NP012"]),
    ],
)
def test_values_that_do_not_fit_are_reported(text: str, codes: list[str]) -> None:
    assert [code for code, _ in findings(f"notify: {text}\n{STEP}")] == codes


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{failure: ops}", "write `failed`"),
        ("{timed_out: ops}", "write `failed`, which includes it"),
        ("{success: ops}", "write `succeeded`"),
        ("{canceled: ops}", "write `cancelled`"),
        ("{sla: 1h}", "write `late`, such as `late: 30m`"),
        ("{faild: ops}", "did you mean `failed`?"),
        ("{other: ops}", "use `failed`, `succeeded`, `cancelled` or `late`"),
        ("{failed: ops, late: {after: 1h, channel: ops}}", "write `to`"),
        ("{failed: {name: ops}}", None),
    ],
)
def test_hints_say_how_to_write_it(text: str, hint: str | None) -> None:
    (found,) = diagnose(f"notify: {text}\n{STEP}")
    assert found.hint == hint


def test_the_schema_accepts_what_the_compiler_accepts() -> None:
    validator = Draft202012Validator(build_json_schema(catalogue()))

    def is_valid(notify: Any) -> bool:
        steps = [{"name": "a", "run": [{"action": "log", "message": "ok"}]}]
        text = {"name": "x", "notify": notify, "steps": steps}
        accepted = compile_playbook(json.dumps(text), catalogue()).plan is not None
        assert validator.is_valid(text) is accepted
        return accepted

    assert is_valid({"failed": "ops", "succeeded": ["audit"], "cancelled": "ops", "late": "30m"})
    assert is_valid({"late": {"after": 60, "to": "ops"}})
    assert not is_valid({"failed": []})
    assert not is_valid({"failed": {"action": "log"}})
    assert not is_valid({"failed": "ops", "late": {"to": "ops"}})
    assert not is_valid("ops")
    assert not is_valid({"other": "ops"})
