"""Every name that an expression may use has a price, and 10,000 items may go through each filter."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import nodes

from benchmarks import hostile_names
from noetl.planner.templates import budget
from noetl.planner.templates.attributes import ATTRIBUTE_UNITS, OTHER_ATTRIBUTE_UNITS
from noetl.planner.templates.filter_costs import LINE_UNITS
from noetl.planner.templates.filters import FILTERS
from noetl.planner.templates.parser import parse_nodes
from noetl.planner.templates.prices import SIMPLE_FILTER_UNITS, round_units
from noetl.planner.templates.sandbox import CALLABLE_ATTRIBUTES, FUNCTIONS, JINJA_FILTERS, JINJA_TESTS
from noetl.planner.templates.template import EvaluationError, parse_template

ITEMS = 10_000
OWN_FILTERS = {name for name in FILTERS if " " not in name}
NAMES: dict[str, Any] = {
    "numbers": list(range(ITEMS)),
    "words": [f"Word {n}" for n in range(ITEMS)],
    "rows": [{"id": n, "name": f"n{n % 97}"} for n in range(ITEMS)],
    "texts": ["WzEsIDJd", "2026-01-31T10:15:00+00:00", "[1, 2]"],
    "object": {f"key {n}": n for n in range(ITEMS)},
    "text": "Some words\n" * ITEMS,
    "subject": "2026-01-31",
}
FILTERS_OF_LISTS = [
    *("dictsort", "dictsort(by='value')", "items"),
    *("batch(3) | list", "slice(3) | list", "first", "last", "length", "count", "list", "reverse | list"),
    *("join(',')", "string", "tojson", "tojson | fromjson", "random", "unique | list", "sort", "max", "min"),
    *("map('string') | list", "select('string') | list", "reject('none') | list", "sum"),
]
FILTERS_OF_ROWS = [
    *("groupby('name')", "groupby('id')", "sort(attribute='name')", "sort(attribute='name,id')"),
    *("map(attribute='id') | sum", "sum(attribute='id')", "max(attribute='id')", "min(attribute='id')"),
    *("unique(attribute='id') | list", "join(',', attribute='name')", "tojson | fromjson | length"),
    *("selectattr('id') | list", "selectattr('name', 'eq', 'n1') | list", "rejectattr('id') | list"),
]


def units_of(text: str) -> int:
    """Return how many units an evaluation uses, also of one that fails for the type of a value."""
    try:
        parse_template(text).evaluate(NAMES.__getitem__)
    except EvaluationError as error:
        assert error.type != "LimitExceeded", error.message
    return budget.used_units()


def test_the_sweep_of_names_uses_every_name() -> None:
    swept = {name for name, _ in hostile_names.expressions()}
    allowed = {f"| {name}" for name in {*JINJA_FILTERS, *OWN_FILTERS}}
    allowed |= {f"is {name}" for name in JINJA_TESTS}
    allowed |= {f".{name}()" for name in CALLABLE_ATTRIBUTES}
    allowed |= {f"{name}()" for name in FUNCTIONS}
    assert swept >= allowed


def test_every_expression_of_the_sweep_is_a_template() -> None:
    for name, expression in hostile_names.expressions():
        parse_template(
            hostile_names.text_of(hostile_names.NameUse(name, expression, "text", in_loop=True), 1)
        )


@pytest.mark.parametrize("name", sorted({*JINJA_FILTERS, *OWN_FILTERS}))
def test_every_filter_has_a_price_in_a_loop(name: str) -> None:
    loops = [
        parse_nodes(f"{{% for i in numbers %}}{{% set x = i{filter} %}}{{% endfor %}}")[0]
        for filter in ("", f" | {name}")
    ]
    prices = [round_units(loop) for loop in loops if isinstance(loop, nodes.For)]
    assert prices[1] - prices[0] >= SIMPLE_FILTER_UNITS


@pytest.mark.parametrize("expression", FILTERS_OF_LISTS)
@pytest.mark.parametrize("subject", ["numbers", "words"])
def test_10_000_items_may_go_through_a_filter(subject: str, expression: str) -> None:
    subject = "object" if expression.startswith(("dictsort", "items")) else subject
    assert units_of(f"{{% set x = {subject} | {expression} %}}") < budget.BUDGET // 2


@pytest.mark.parametrize("expression", FILTERS_OF_ROWS)
def test_10_000_rows_may_go_through_a_filter(expression: str) -> None:
    assert units_of(f"{{% set x = rows | {expression} %}}") < budget.BUDGET // 2


@pytest.mark.parametrize("expression", ["title", "upper", "wordwrap(40)", "indent", "urlencode", "striptags"])
def test_10_000_lines_may_go_through_a_filter(expression: str) -> None:
    assert units_of(f"{{% set x = text | {expression} %}}") < budget.BUDGET // 2


@pytest.mark.parametrize("name", sorted({*JINJA_FILTERS, *OWN_FILTERS} - {"wordwrap"}))
def test_10_000_rounds_may_use_a_filter(name: str) -> None:
    arguments = hostile_names.ARGUMENTS.get(name, ("",))[0]
    text = f"{{% for i in numbers %}}{{% set x = subject | {name}{arguments} %}}{{% endfor %}}"
    # An error of the first round still charges for all of them.
    assert units_of(text) <= budget.BUDGET


def test_a_wrapped_line_has_the_same_price_in_a_short_text() -> None:
    rounds, width = 1000, 2
    text = f"{{% for i in range({rounds}) %}}{{% set x = subject | wordwrap({width}) %}}{{% endfor %}}"
    lines = len(NAMES["subject"]) // width
    assert units_of(text) >= rounds * lines * LINE_UNITS


CHARACTERS = 2000
RULES = [
    # Each character is read or converted, without and with a result.
    ("'xx' * 1000", "x.split()", 4 * CHARACTERS),
    ("'xx' * 1000", "x.lstrip('xyz')", 4 * CHARACTERS),
    ("'xx' * 1000", "x.islower()", 4 * CHARACTERS),
    ("'xx' * 1000", "x | tojson", 4 * CHARACTERS),
    ("'xx' * 1000", "x | filesizeformat", 8 * CHARACTERS),
    ("'WzFd' * 500", "x | b64decode", 4 * CHARACTERS),
    # Each occurrence is found and replaced, however long it is.
    ("'xx' * 1000", "x | replace('x', 'y')", 9 * CHARACTERS),
    ("'xx' * 1000", "x.replace('x', 'y')", 9 * CHARACTERS),
    # An entity is looked up by all its beginnings.
    ("'&a' * 1000", "x | striptags", (48 + 256) * CHARACTERS),
    # A wide character becomes a text of its own, which takes more than 60 bytes.
    ("'😀é' * 1000", "x | list", 64 * CHARACTERS),
    # Values that are compared are visited first.
    ("(range(2000) | list)", "x == x + []", 48 * CHARACTERS),
    ("'[' ~ '0,' * 1999 ~ '0]'", "x | fromjson", 64 * CHARACTERS),
]


@pytest.mark.parametrize(("value", "expression", "least"), RULES)
def test_work_has_the_price_of_what_is_read_and_created(value: str, expression: str, least: int) -> None:
    value_units = units_of(f"{{% set x = {value} %}}")
    assert units_of(f"{{% set x = {value} %}}{{% set y = {expression} %}}") - value_units >= least


@pytest.mark.parametrize(
    ("name", "units"), [("int", 2500), ("int(0, 16)", 2500), ("float", 2500), ("title", 9000)]
)
def test_short_texts_have_the_price_of_errors_and_words(name: str, units: int) -> None:
    def units_of_rounds(expression: str) -> int:
        return units_of(f"{{% for i in range(100) %}}{{% set x = {expression} %}}{{% endfor %}}")

    text = "'Some text with 50 characters, of words and more, too.'"
    assert units_of_rounds(f"{text} | {name}") - units_of_rounds(text) >= 100 * units


def test_a_sort_has_the_price_of_the_order_of_its_numbers() -> None:
    def units(numbers: list[Any]) -> int:
        parse_template("{% set x = numbers | sort %}").evaluate({"numbers": numbers}.__getitem__)
        return budget.used_units()

    ordered = list(range(2000))
    shuffled = [n * 997 % 2003 for n in ordered]
    assert units(ordered) == units(ordered[::-1]) < 100 * 2000
    assert units(shuffled) - units(ordered) >= 8 * 9 * 2000
    assert units([]) < units([None]) < units([0, 1])


def test_each_missing_attribute_of_a_sort_is_charged() -> None:
    with pytest.raises(EvaluationError, match="undefined"):
        parse_template("{{ rows | sort(attribute='no,none') }}").evaluate(NAMES.__getitem__)
    assert budget.used_units() >= 2 * ITEMS * (ATTRIBUTE_UNITS + OTHER_ATTRIBUTE_UNITS)


LONG = "ab" * 300
"""A text that is too long for a constant price."""


@pytest.mark.parametrize(
    ("operand", "operation", "value"),
    [
        ("a b", "| wordwrap", "a b"),
        (f"{LONG} b", "| wordwrap(9, false)", f"{LONG}\nb"),
        (f"{LONG} b", "| wordwrap(10_000)", f"{LONG} b"),
        (f" {LONG} ", "| trim", LONG),
        (f"-{LONG}-", "| trim('-')", LONG),
        (1.25, "| round(1)", 1.2),
        (2.6, "| round(method='ceil')", 3.0),
        (2**63 + 1, "| round", 2**63 + 1),
        (2**63, "| float", 2.0**63),
        (f"{'0' * 300}1.5", "| float", 1.5),
        (2**63, "| int", 2**63),
        ([], "| int(7)", 7),
        (LONG, "is lower", True),
        (LONG, "is upper", False),
        (LONG, "in ['b']", False),
        (7, "in (1, 7)", True),
        ("x", "in {'x': 1}", True),
    ],
)
def test_a_price_changes_no_value(operand: Any, operation: str, value: Any) -> None:
    assert (
        parse_template(f"{{{{ operand {operation} }}}}").evaluate({"operand": operand}.__getitem__) == value
    )


@pytest.mark.parametrize(
    ("operand", "operation", "reason"),
    [
        (2**63, "| wordwrap", "it needs a text, not a number"),
        (2**63, "| round('a')", "needs a whole number, not a text"),
        (5, "in 5", "needs a list, an object or a text, not a number"),
    ],
)
def test_a_price_changes_no_error(operand: Any, operation: str, reason: str) -> None:
    with pytest.raises(EvaluationError, match=reason):
        parse_template(f"{{{{ operand {operation} }}}}").evaluate({"operand": operand}.__getitem__)
