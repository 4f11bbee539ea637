"""The generated code of templates: usual cases are charged in place, all others by a function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from noetl.planner.templates import budget
from noetl.planner.templates.template import EvaluationError, parse_template

NAMES: dict[str, Any] = {
    "n": 3,
    "large": -(2**300),
    "long": "x" * 100,
    "limit": "y" * 64,
    "row": [1, 2, 3, 4, 5],
    "words": [f"word{n}" for n in range(200)],
    "object": {"a": 1, "b": None},
    "true_value": True,
    "ratio": 0.5,
}


def evaluate(text: str) -> Any:
    return parse_template(text).evaluate(NAMES.__getitem__)


def count_python_calls(work: Callable[[], Any]) -> int:
    """Return how many functions of Python `work` calls. A generator counts once for each value."""
    count = 0

    def count_call(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(count_call)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "body",
    [
        "{% for b in row %}{% endfor %}",
        "{% for b in row %}{% if b > 9 %}{{ b }}{% endif %}{% endfor %}",
        "{% set t = a ~ '-' ~ n %}",
        "{% set t = a[:2] %}",
        "{% set t = a in ['x', 'y'] %}",
        "{% set t = a in object %}",
    ],
)
def test_a_usual_case_calls_no_function(body: str) -> None:
    text = "{% for a in words %}" + body + "{% endfor %}"
    evaluate(text)
    # Each of the 200 rounds resolves at most one name. Some charge more than the units that are granted.
    assert count_python_calls(lambda: evaluate(text)) < 300


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ n }} {{ limit }} {{ ratio }} {{ true_value }} {{ object.b }}", f"3 {'y' * 64} 0.5 True None"),
        ("{% if true %}{{ large }}{% endif %}", str(-(2**300))),
        ("{% if true %}{{ long }}{{ true_value }}{{ ratio }}{% endif %}", "x" * 100 + "True0.5"),
        ("{{ '100 %s ' ~ n ~ '%' }}", "100 %s 3%"),
        ("{{ n ~ long }}", "3" + "x" * 100),
        ("{{ large ~ '' }}", str(-(2**300))),
        ("{{ true_value ~ ratio ~ n }}", "True0.53"),
        ("{{ long[1:3] }}{{ limit[-1:] }}{{ words[:2] }}", "xxy['word0', 'word1']"),
        ("{{ row[::-1] }}", [5, 4, 3, 2, 1]),
        ("{{ row[n:] }}", [4, 5]),
        ("{{ 'ab'[::2] ~ 'ab'[n - 2:] }}", "ab"),
        ("{{ n in [1, 2, 3] and 3.0 in [3] and true_value in [1] and n not in ('3', 'x') }}", True),
        ("{{ long in [1] or long in ['x'] or none in ['x'] or [1] in [1, 2] }}", False),
        ("{{ 'a' in object and 'x' in long and n in row and 9 not in row }}", True),
        ("{{ (n in row) in [true] and (n in [3]) ~ 'x' in ['Truex'] }}", True),
        ("{% for a in row if a in [1, n] %}{% set t = a ~ a %}{{ t }}{% endfor %}", "1133"),
        (
            "{% for a in row[:2] %}{% for b in 'xy' %}{{ a ~ b }}{{ loop.index }}{% endfor %}{% endfor %}",
            "1x11y22x12y2",
        ),
        (
            "{% for a in row %}{{ loop.cycle('p', 'q') }}{{ 'a'.upper() }}{% else %}-{% endfor %}",
            "pAqApAqApA",
        ),
        ("{% for a in [] %}x{% else %}{% set y = n %}{{ y }}{% endfor %}", "3"),
        ("{% for k, v in object.items() %}{% set x = k %}{{ x ~ v }},{% endfor %}", "a1,bNone,"),
    ],
)
def test_values_do_not_depend_on_the_case(text: str, expected: Any) -> None:
    assert evaluate(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for a in missing %}{% endfor %}", "`missing` is undefined"),
        ("{% if true %}{{ missing }}{% endif %}", "`missing` is undefined"),
        ("{{ missing ~ 'x' }}", "`missing` is undefined"),
        ("{{ missing[:1] }}", "`missing` is undefined"),
        ("{{ missing in ['x'] }}", "`missing` is undefined"),
        ("{{ 'x' in missing }}", "`missing` is undefined"),
        ("{{ missing.a }}", "`missing` is undefined"),
        ("{{ missing[0] }}", "`missing` is undefined"),
        ("{% for a in n %}{% endfor %}", "it needs a list, not a number"),
    ],
)
def test_other_values_fail_as_before(text: str, message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        evaluate(text)
    assert caught.value.message == message


def test_a_loop_that_the_granted_units_pay_for_is_charged() -> None:
    def units(text: str) -> int:
        evaluate(text)
        return budget.used_units()

    units_of_row = units("{% for a in row %}{% endfor %}")
    assert units_of_row > 0
    assert units("{% for a in row %}{% endfor %}" * 3) == 3 * units_of_row
    assert units("{% for a in words %}{% endfor %}") == 40 * units_of_row


def test_a_text_of_the_template_is_charged_in_a_loop() -> None:
    with pytest.raises(EvaluationError, match="too much data"):
        evaluate("{% for a in range(5000) %}" + "x" * 20_000 + "{% endfor %}")
