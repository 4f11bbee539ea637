"""Random hostile expressions end within a bounded number of calls, in a value or in a named error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from noetl.planner.templates import budget
from noetl.planner.templates.sandbox import JINJA_FILTERS, JINJA_TESTS
from noetl.planner.templates.template import EvaluationError, TemplateProblem, parse_template
from tests.property_settings import examples

UNITS = 1024 * 1024
"""The budget of an example. With a smaller one than in production, more examples exceed it."""
UNITS_PER_CALL = 16
"""Every call of a function costs at least so many units, on average over an expression."""
CALLS_OF_AN_EVALUATION = 30_000
"""The calls that are not charged: compiling the template, and each operation outside of loops."""

NAMES: dict[str, Any] = {
    "n": 3,
    "text": "some text, häuser 😀 " * 400,
    "numbers": list(range(3_000)),
    "rows": [{"id": number, "name": f"n{number % 7}", "tags": ["a", "b"]} for number in range(300)],
    "object": {"a": {"b": [1, 2, {"c": None}]}, "items": 1},
}
OWN_FILTERS = ("tojson", "fromjson", "b64encode", "b64decode", "sha256", "regex_search", "to_datetime", "sum")
ATOMS = [
    *NAMES,
    "i",
    "0",
    "-1",
    "10 ** 9",
    "9" * 60,
    "1.5e300",
    "''",
    "'x'",
    "'a b\\n'",
    "('x' * 100000)",
    "('ab ' * 30000)",
    "('é' * 70000)",
    "range(100000)",
    "range(10 ** 9)",
    "none",
    "true",
    "[]",
    "{}",
    "rows[0]",
    "object.a.b",
]
FILTERS = [
    *sorted({*JINJA_FILTERS, *OWN_FILTERS} - {"random"}),
    "map('upper')",
    "map('string') | list",
    "map(attribute='name') | list",
    "select('in', numbers) | list",
    "selectattr('id', 'gt', 5) | list",
    "sort(attribute='name')",
    "groupby('name')",
    "replace('x', 'y' * 1000)",
    "regex_replace('a|x', 'b')",
    "regex_search('(a|b)*$')",
    "wordwrap(1)",
    "indent(1000)",
    "center(100000)",
    "batch(2) | list",
    "tojson(indent=16)",
    "join('x' * 1000)",
    "trim('y' * 10000)",
]
METHODS = ["upper()", "split()", "split('x')", "strip('xy')", "count('a')", "replace('a', text)", "items()"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", ">=", "in", "not in", "and", "or"]


def wrap(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return expressions that contain expressions."""
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(OPERATORS), inner),
        st.builds("({} | {})".format, inner, st.sampled_from(FILTERS)),
        st.builds("({}).{}".format, inner, st.sampled_from(METHODS)),
        st.builds("({} is {})".format, inner, st.sampled_from(sorted(JINJA_TESTS))),
        st.builds("[{}, {}, {}]".format, inner, inner, inner),
        st.builds("{{{}: {}}}".format, inner, inner),
        st.builds("({})[{}:{}]".format, inner, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("([{}] * {})".format, inner, st.sampled_from(["10", "1000", "100000"])),
    )


EXPRESSIONS = st.recursive(st.sampled_from(ATOMS), wrap, max_leaves=8)
OUTPUTS = st.builds("{{{{ {} }}}}".format, EXPRESSIONS)


def nest(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return blocks that contain texts with blocks."""
    return st.one_of(
        st.builds("{{% for i in {} %}}{}{{% endfor %}}".format, EXPRESSIONS, inner),
        st.builds("{{% for i in numbers if {} %}}{}{{% endfor %}}".format, EXPRESSIONS, inner),
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, EXPRESSIONS, inner, inner),
        st.builds("{{% set n = {} %}}{}".format, EXPRESSIONS, inner),
    )


TEXTS = st.recursive(OUTPUTS, nest, max_leaves=4)


def count_calls(work: Callable[[], Any]) -> int:
    """Return how many functions of Python and of C `work` calls."""
    count = 0

    def count_call(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def evaluate(text: str) -> str:
    """Return how the evaluation of a text ends: the type of its value, or of its error."""
    try:
        return type(parse_template(text).evaluate(NAMES.__getitem__)).__name__
    except TemplateProblem as problem:
        return problem.code
    except EvaluationError as error:
        return error.type


@pytest.fixture(autouse=True, scope="module")
def small_budget() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "BUDGET", UNITS)
        patch.setattr(budget, "CPU_SECONDS", 3600.0)
        yield


@examples(1, suppress_health_check=list(HealthCheck))
@given(TEXTS)
def test_every_expression_ends_in_time_with_a_value_or_a_named_error(text: str) -> None:
    outcomes: list[str] = []
    calls = count_calls(lambda: outcomes.append(evaluate(text)))
    assert calls <= UNITS // UNITS_PER_CALL + CALLS_OF_AN_EVALUATION
    errors = {"UndefinedName", "TemplateError", "LimitExceeded", "NP401", "NP402", "NP403", "NP405"}
    assert outcomes[0] in errors | {"str", "int", "float", "bool", "list", "dict", "NoneType"}
