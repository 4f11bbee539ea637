"""Rates of runs and of attempts: how they are written, what is reported, and what the plan has of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from noetl.executor.actions import catalogue
from noetl.planner.draw import text as text_drawing
from noetl.planner.limits import Limit
from noetl.planner.plan import Header, Plan, Step
from noetl.planner.syntax.durations import parse_rate
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.testing.run_harness import compile_text
from tests.planner.findings import OK, diagnose, findings

INPUT = "input: {customer: string}\n"


def with_rate(rate: str, more: str = "", *, is_of_runs: bool = False) -> str:
    """Return a playbook of one step with a rate of its runs or its step."""
    of_runs, of_step = (f"rate: {rate}\n", "") if is_of_runs else ("", f"  rate: {rate}\n")
    return f"{INPUT}{of_runs}steps:\n- name: a\n{of_step}{more}  run: [{OK}]\n"


def own_rate(units: int, per: float, **options: Any) -> Limit:
    return Limit(units=units, is_rate=True, per_seconds=per, **options)


FORMS: list[tuple[str, tuple[Limit, ...]]] = [
    ("{limit: 100, per: 1m}", (own_rate(100, 60.0),)),
    ("{limit: 10000, per: 31d}", (own_rate(10_000, 2_678_400.0),)),
    (
        "[{use: crm}, {limit: 1, per: 1, max_wait: 5m}]",
        (Limit(use="crm", is_rate=True), own_rate(1, 1.0, max_wait_seconds=300.0)),
    ),
    ("{limit: 1, per: 1h, key: '{{ input.customer }}'}", (own_rate(1, 3600.0, key="{{ input.customer }}"),)),
]


@pytest.mark.parametrize(("written", "rates"), FORMS)
def test_all_forms_are_lowered_and_kept(written: str, rates: tuple[Limit, ...]) -> None:
    plans: list[Plan] = [compile_text(with_rate(written)), compile_text(with_rate(written, is_of_runs=True))]
    assert (plans[0].steps["a"].rate, plans[1].header.rate) == (rates, rates)
    for plan in plans:
        assert plan.header.has_limits
        assert Header.from_json(json.loads(json.dumps(plan.header.to_json()))) == plan.header
        step = plan.steps["a"]
        assert Step.from_json("a", json.loads(json.dumps(step.to_json()))) == step


def test_a_plan_without_rates_has_nothing_of_them() -> None:
    plan = compile_text(f"steps: [{{name: a, concurrency: 1, run: [{OK}]}}]")
    assert "rate" not in plan.header.to_json()
    assert "rate" not in plan.steps["a"].to_json()
    assert "per_seconds" not in plan.steps["a"].to_json()["concurrency"][0]


WRONG: list[tuple[str, list[tuple[str, str]]]] = [
    ("{limit: 0, per: 1m}", [("NP830", "0")]),
    ("{limit: 10001, per: 1m}", [("NP830", "10001")]),
    ("{limit: 1, per: 500ms}", [("NP830", "500ms")]),
    ("[{use: crm}, {limit: 1, per: 32d}]", [("NP830", "32d")]),
    ("{limit: 1, per: soon}", [("NP830", "soon")]),
    ("{limit: 1}", [("NP011", "{limit: 1}")]),
    ("{limit: 1, per: null}", [("NP011", "{limit: 1, per: null}")]),
    ("{per: 1m}", [("NP011", "{per: 1m}")]),
    ("{}", [("NP011", "{}")]),
    ("{use: crm, per: 1m}", [("NP010", "per")]),
    ("[{use: crm}, {use: crm}]", [("NP012", "crm")]),
    ("100/1m", [("NP012", "100/1m")]),
    ("5", [("NP012", "5")]),
    ("[5]", [("NP012", "5")]),
    ("{limit: 1, per: 1m, key: customer}", [("NP407", "customer")]),
    ("{limit: 1, per: 1m, key: '{{ secrets.A }}'}", [("NP406", "secrets")]),
    ("{limit: 1, per: 1m, every: 1m}", [("NP010", "every")]),
]


@pytest.mark.parametrize(("written", "expected"), WRONG)
def test_wrong_rates_are_reported_once(written: str, expected: list[tuple[str, str]]) -> None:
    assert findings(with_rate(written)) == expected
    assert findings(with_rate(written, is_of_runs=True)) == expected


def test_rates_have_no_queue() -> None:
    for is_of_runs in (False, True):
        text = with_rate("{limit: 1, per: 1m, when_full: cancel_oldest}", is_of_runs=is_of_runs)
        assert findings(text) == [("NP012", "cancel_oldest")]
        text = with_rate("{limit: 1, per: 1m, max_queued: 5}", is_of_runs=is_of_runs)
        assert findings(text) == [("NP010", "max_queued")]


def test_words_of_other_systems_lead_to_the_key() -> None:
    (found,) = diagnose(f"steps: [{{name: a, throttle: 5, run: [{OK}]}}]")
    assert found.hint == "write `rate`, such as `rate: {limit: 100, per: 1m}`"
    (found,) = diagnose(with_rate("{limit: 1, per: 1m, fair: '{{ input.customer }}'}"))
    assert found.hint == "remove it: a rate has no queue, its order is that of arrival"
    (found,) = diagnose(with_rate("{limit: 1, per: 1m}", "  debounce: {wait: 1s}\n"))
    assert found.hint == "write it on the playbook: it is about starts of runs"
    (found,) = diagnose(with_rate("[[1]]"))
    assert found.hint == "write a mapping such as `{limit: 100, per: 1m}` or `{use: NAME}`"


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        ("{items: [1]}", [("NP838", "{items: [1]}")]),
        ("{items: [1], batch: 4}", [("NP838", "4")]),
        ("{items: [1], batch: 3}", []),
    ],
)
def test_a_loop_has_batches_that_fit(loop: str, expected: list[tuple[str, str]]) -> None:
    assert findings(with_rate("[{use: crm}, {limit: 3, per: 1m}]", f"  loop: {loop}\n")) == expected


def test_a_step_may_be_left_out_or_fail_at_a_rate() -> None:
    text = """
        on_error: continue
        steps: [{name: a, rate: RATE, run: [{action: set, set: {x: 1}}]}]
        output: {y: "{{ x }}"}
        """
    assert findings(text.replace("RATE", "{limit: 1, per: 1m}"), "NP302") == []
    for options in ("max_wait: 1s", "when_full: skip"):
        rate = f"{{limit: 1, per: 1m, {options}}}"
        assert findings(text.replace("RATE", rate), "NP302") == [("NP302", "x")]


def test_a_key_of_a_step_is_a_read_of_the_step() -> None:
    plan = compile_text(
        f"steps: [{{name: a, rate: {{limit: 1, per: 1m, key: '{{{{ customer }}}}'}}, run: [{OK}]}}]"
    )
    assert list(plan.header.inputs) == ["customer"]


def test_drawings_have_the_rates() -> None:
    drawn = text_drawing.draw(compile_text(with_rate("{limit: 5, per: 90s}")), catalogue())
    assert "(start, 5 per 90s)" in drawn


def test_the_schema_has_rates() -> None:
    validator = Draft202012Validator(build_json_schema(catalogue()))

    def is_valid(rate: Any) -> bool:
        steps = [{"name": "a", "rate": rate, "run": [{"action": "log", "message": "x"}]}]
        return validator.is_valid({"name": "play", "rate": rate, "steps": steps})

    assert is_valid({"limit": 1, "per": "1m"})
    assert is_valid([{"use": "crm"}, {"limit": 1, "per": 60, "max_wait": "5m"}])
    assert not any(map(is_valid, [5, [], {"limit": 0, "per": 1}, {"limit": 1, "per": "soon"}]))


@pytest.mark.parametrize("text", ["100", "0/1m", "10001/1m", "x/1m", "5/", "5/1ms"])
def test_a_wrong_rate_of_a_command_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_rate(text)
