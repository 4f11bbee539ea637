from __future__ import annotations

from typing import Any

import pytest

from noetl.planner.dataflow.narrowing import (
    ANY_RESULT,
    FAILED,
    NO_RESULT,
    NOT_FAILED,
    SUCCEEDED,
    TOLERATED,
    Condition,
    RunResults,
    handles_undefined,
    narrow,
)
from noetl.planner.templates.template import parse_template


def required_accesses(text: str) -> list[str]:
    return [".".join(required.access) for required in narrow(parse_template(text)).required]


def facts_when(text: str, *, truth: bool) -> set[str]:
    """Return the longest assigned accesses where an expression is true or false, the unassigned with `-`."""
    narrowing = narrow(parse_template(text))
    facts = narrowing.true if truth else narrowing.false
    parts = {access[:length] for access in facts.assigned for length in range(len(access))}
    return {".".join(access) for access in facts.assigned - parts} | {
        f"-{'.'.join(access)}" for access in facts.unassigned
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ a.b }} {{ c }}", ["a.b", "c"]),
        ("{{ a | default(b) }}", ["b"]),
        ("{{ a.b | d }}", ["a"]),
        ("{{ (a | upper) | default(1) }}", ["a"]),
        ("{{ a is defined }} {{ b is not defined }} {{ c.d is undefined }}", ["c"]),
        ("{{ a is none }}", ["a"]),
        ("{{ a is defined and a.b > 1 }}", ["a.b"]),
        ("{{ a is defined and a }}", []),
        ("{{ a.b is undefined or a.b.c }}", ["a", "a.b.c"]),
        ("{{ a is undefined or a }}", []),
        ("{{ not (a is undefined) and a }}", []),
        ("{{ a or b }}", ["a", "b"]),
        ("{{ a if a is defined else b }}", ["b"]),
        ("{{ a if b else c }}", ["b", "a", "c"]),
        ("{{ a if b }}", ["b", "a"]),
        (
            "{% if a is defined %}{{ a }}{% elif b is defined %}{{ b }}{{ a }}{% else %}{{ b }}{% endif %}",
            ["a", "b"],
        ),
        ("{% for i in a if i.x %}{{ i }}{{ loop.index }}{% else %}{{ b }}{% endfor %}", ["a", "b"]),
        ("{% set a = 1 %}{{ a }}", []),
        ("{{ range(a) | list }}", ["a"]),
        ("{{ true and a }}", ["a"]),
        ("{{ false and a }}", []),
    ],
)
def test_required_accesses(text: str, expected: list[str]) -> None:
    reachable = [
        required
        for required in narrow(parse_template(text)).required
        if required.given.results and required.access not in required.given.assigned
    ]
    assert [".".join(required.access) for required in reachable] == expected


@pytest.mark.parametrize(
    ("text", "when_true", "when_false"),
    [
        ("{{ a.b }}", {"a.b"}, {"a.b"}),
        ("{{ a is defined }}", {"a"}, {"-a"}),
        ("{{ a is not defined }}", {"-a"}, {"a"}),
        ("{{ not a is defined or b }}", set(), {"a", "b"}),
        ("{{ a is defined and b }}", {"a", "b"}, set()),
        ("{{ a or b }}", {"a"}, {"a", "b"}),
        ("{{ a > 1 and a < b }}", {"a", "b"}, {"a"}),
        ("{{ a | default(1) > 2 }}", set(), set()),
        ("{{ a + 1 is defined }}", {"a"}, {"a"}),
        ("{{ (a + b) is none }}", {"a", "b"}, {"a", "b"}),
        ("{{ b if a is defined else c }}", set(), set()),
        ("{{ steps.s.visits > 0 }}", {"steps.s.visits", "steps.s.result"}, {"steps.s.visits"}),
        ("{{ 1 <= steps.s.visits }}", {"steps.s.visits", "steps.s.result"}, {"steps.s.visits"}),
        ("{{ steps.s.visits == 0 }}", {"steps.s.visits"}, {"steps.s.visits", "steps.s.result"}),
        ("{{ steps.s.visits }}", {"steps.s.visits", "steps.s.result"}, {"steps.s.visits"}),
        ("{{ steps.s.status != 'pending' }}", {"steps.s.status", "steps.s.result"}, {"steps.s.status"}),
        (
            "{{ steps.s.status in ['succeeded', 'failed'] }}",
            {"steps.s.status", "steps.s.result"},
            {"steps.s.status"},
        ),
        ("{{ steps.s.status > 'failed' }}", {"steps.s.status"}, {"steps.s.status"}),
        ("{{ steps.s.visits > 'a' }}", {"steps.s.visits"}, {"steps.s.visits"}),
        ("{{ steps.s.error == 'a' }}", {"steps.s.error"}, {"steps.s.error"}),
        ("{{ run.status == 'succeeded' }}", {"run.status", "run.succeeded"}, {"run.status"}),
        ("{{ run.status == 'failed' }}", {"run.status"}, {"run.status"}),
        ("{{ steps.s.status == 'failed' }}", {"steps.s.status", "steps.s.result"}, {"steps.s.status"}),
        (
            "{{ steps.s.status == 'succeeded' }}",
            {"steps.s.status", "steps.s.result", "steps.s.succeeded"},
            {"steps.s.status"},
        ),
    ],
)
def test_facts_after_a_true_or_false_value(text: str, when_true: set[str], when_false: set[str]) -> None:
    assert facts_when(text, truth=True) == when_true
    assert facts_when(text, truth=False) == when_false


@pytest.mark.parametrize(
    ("text", "when_true", "when_false"),
    [
        ("{{ a }}", ANY_RESULT, ANY_RESULT),
        ("{{ error }}", FAILED, NOT_FAILED),
        ("{{ not error }}", NOT_FAILED, FAILED),
        ("{{ error is none }}", NOT_FAILED, FAILED),
        ("{{ error != none }}", FAILED, NOT_FAILED),
        ("{{ error.type == 'Timeout' }}", FAILED, FAILED),
        ("{{ result.success }}", SUCCEEDED, FAILED | TOLERATED),
        ("{{ result.success == false }}", FAILED | TOLERATED, SUCCEEDED),
        ("{{ result.error }}", FAILED | TOLERATED, SUCCEEDED),
        ("{{ error and result.success }}", NO_RESULT, ANY_RESULT),
        ("{{ error or result.success }}", FAILED | SUCCEEDED, TOLERATED),
        ("{{ true }}", ANY_RESULT, NO_RESULT),
        ("{{ false or error }}", FAILED, NOT_FAILED),
    ],
)
def test_possible_results_after_a_true_or_false_value(
    text: str, when_true: RunResults, when_false: RunResults
) -> None:
    narrowing = narrow(parse_template(text))
    assert (narrowing.true.results, narrowing.false.results) == (when_true, when_false)


@pytest.mark.parametrize(
    ("text", "access", "is_handled"),
    [
        ("{{ a | default(b) }}", "a", True),
        ("{{ a | default(b) }}", "b", False),
        ("{{ a.b | d }}", "a", False),
        ("{{ a.b | d }}", "a.b", True),
        ("{{ a is defined and a.b }}", "a", False),
        ("{{ a.b is undefined or a.b }}", "a.b", True),
        ("{{ a.y | default(1) }} {{ a.x }}", "a.x", False),
        ("{{ a | default(1) }} {{ a }}", "a", False),
        ("{{ a is none }}", "a", False),
    ],
)
def test_handles_undefined(text: str, access: str, is_handled: bool) -> None:
    assert handles_undefined(parse_template(text), *access.split(".")) is is_handled


def test_deep_conditions_take_linear_time() -> None:
    deep = "a0"
    for index in range(1, 28):
        deep = f"({deep} {'and' if index % 2 else 'or'} not a{index})"
    assert len(required_accesses(f"{{{{ {deep} }}}}")) == 28


def test_template_is_narrowed_again_after_evaluation() -> None:
    template = parse_template("{{ never_seen is defined and never_seen.x }}")
    assert template.evaluate(dict[str, object]().__getitem__) is False
    assert required_accesses(template.source) == ["never_seen.x"]
    assert template.evaluate({"never_seen": {"x": 1}}.__getitem__) == 1


@pytest.mark.parametrize(("literals", "selected"), [([1, 2], 0b10), ([1, "a"], None), ([[1], 2], None)])
def test_a_condition_selects_literals_that_can_be_compared(literals: list[Any], selected: int | None) -> None:
    assert Condition(("x",), "gt 1", truth=True).select(literals) == selected
