"""Section 6 of the language, repetition: `loop`, `batch`, `repeat` and actions that suspend."""

from __future__ import annotations

from typing import Any

import pytest

from tests.language.sentences import OK, check_outcome, outcome, sentence
from tests.planner.findings import findings

SQUARE = "{action: set, set: {y: '{{ item * item }}'}, loop: {items: '{{ [1, 2, 3] }}'}, as: all}"
DIVIDE = "{action: set, set: {y: '{{ 6 / item }}'}"


def step(run: str, more: str = "") -> str:
    return f"name: play\nsteps:\n- name: a\n  run: [{run}]\n{more}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        sentence(
            "the list of the items' data, in their order, is the result (`as` beside `loop` saves it)",
            step(SQUARE),
            {"result": {"all": [{"y": 1}, {"y": 4}, {"y": 9}]}},
        ),
        sentence(
            "inside it `as` and `set` are local to the item",
            step(SQUARE) + "output: {y: '{{ y is defined }}'}",
            {"result": {"y": False}},
        ),
        sentence(
            "on a step",
            step("{action: set, set: {y: '{{ x }}'}}", "  loop: {items: '{{ [1, 2] }}', as: x}\n")
            + "output: {r: '{{ steps.a.result }}'}",
            {"result": {"r": [{"y": 1}, {"y": 2}]}},
        ),
        sentence(
            "under `continue` a failed item's data is none",
            step(f"{DIVIDE}, loop: {{items: '{{{{ [1, 0, 2] }}}}', on_error: continue}}, as: all}}"),
            {"status": "succeeded", "result": {"all": [{"y": 6.0}, None, {"y": 3.0}]}},
        ),
        sentence(
            "on_error: abort",
            step(f"{DIVIDE}, loop: {{items: '{{{{ [1, 0, 2] }}}}'}}, as: all}}"),
            {"status": "failed", "visits": {"a": 1}},
        ),
        sentence(
            "`batch` spreads the items over invocations",
            step(
                "{action: set, set: {y: '{{ item }}'}}",
                "  loop: {items: '{{ range(5) | list }}', batch: 2}\n",
            )
            + "output: {n: '{{ steps.a.result | length }}'}",
            {"status": "succeeded", "result": {"n": 5}},
        ),
        sentence(
            "the step fails with `RepeatExhausted` past `max`",
            step(
                "{action: set, set: {n: '{{ n + 1 }}'}}",
                "  repeat: {until: '{{ n > 5 }}', max: 3}\nvariables: {n: 0}\n",
            ),
            {"status": "failed", "errors": ["RepeatExhausted"], "result": None},
        ),
        sentence(
            "`repeat` runs its `run` again until the condition is true; a round is not a visit",
            step(
                "{action: set, set: {n: '{{ n + 1 }}'}}",
                "  repeat: {until: '{{ n == 3 }}', every: 30s, max: 100}\nvariables: {n: 0}\n",
            ),
            {"status": "succeeded", "result": {"n": 3}, "visits": {"a": 1}},
        ),
    ],
)
def test_outcomes(text: str, expected: dict[str, Any]) -> None:
    check_outcome(text, {}, expected)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("loop.index", [1, 2]),
        ("loop.index0", [0, 1]),
        ("loop.first", [True, False]),
        ("loop.last", [False, True]),
        ("loop.length", [2, 2]),
    ],
)
def test_names_inside_a_loop(expression: str, value: list[Any]) -> None:
    """Inside a loop: `loop.index` (from 1), `loop.index0`, `loop.first`, `loop.last`, `loop.length`."""
    text = step(f"{{action: set, set: {{y: '{{{{ {expression} }}}}'}}, loop: {{items: [4, 5]}}, as: all}}")
    assert [item["y"] for item in outcome(text)["result"]["all"]] == value


def test_what_was_done_before_a_suspension_is_not_done_again() -> None:
    """The planner splits the step there, so that what was done before is not done again."""
    text = step("{action: set, set: {n: '{{ n + 1 }}'}}, {action: wait, seconds: 90}") + "variables: {n: 0}\n"
    check_outcome(text, {}, {"status": "succeeded", "result": {"n": 1}})


def test_items_that_suspend_become_visits_of_their_own() -> None:
    """Inside `parallel` and `loop` such items become visits of their own."""
    text = step("{action: wait, seconds: 90}, {action: wait, seconds: 10}", "  parallel: true\n")
    check_outcome(text, {}, {"status": "succeeded"})


def test_items_of_a_loop_do_not_race() -> None:
    """Items of a loop do not race."""
    assert findings(step(SQUARE), "NP303") == []
    assert findings(f"steps: [{{name: a, {OK}}}]") == []


def test_a_loop_of_100_000_items() -> None:
    """100,000 items must work with `batch`."""
    text = """
        steps:
        - name: a
          loop: {items: "{{ range(100000) | list }}", batch: 10000}
          run: [{action: set, set: {y: "{{ item }}"}}]
        output: {n: "{{ steps.a.result | length }}", last: "{{ steps.a.result[-1].y }}"}
    """
    check_outcome(text, {}, {"status": "succeeded", "result": {"n": 100_000, "last": 99_999}})
