from __future__ import annotations

from typing import Any

import pytest
from jinja2.exceptions import TemplateRuntimeError

from noetl.planner.templates.budget import MAX_INTEGER_BITS, MAX_ITEMS, MAX_TEXT
from noetl.planner.templates.functions import Function
from noetl.planner.templates.template import EvaluationError, TemplateProblem, parse_template

NAMES: dict[str, Any] = {
    "n": 3,
    "text": "héllo",
    "list": [3, 1, 2],
    "object": {"a": 1, "items": "mine", "_x": 2},
}


def evaluate(expression: str) -> Any:
    return parse_template("{{ " + expression + " }}").evaluate(NAMES.__getitem__)


def find_error(text: str) -> tuple[str, str]:
    """Return code or type, and the message, of the error of a template when it is parsed or evaluated."""
    try:
        parse_template(text).evaluate(NAMES.__getitem__)
    except (TemplateProblem, EvaluationError) as problem:
        return (problem.code if isinstance(problem, TemplateProblem) else problem.type), problem.message
    raise AssertionError(f"{text} has no error")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ ''['__cla' 'ss__'] }}",
        "{{ ''['_' ~ '_class__'] }}",
        "{{ object['_' ~ '_class__'] }}",
        "{{ list | map(attribute='_' ~ '_class__') | list }}",
        "{{ list | map(attribute='__class__.__mro__') | list }}",
        "{{ list | sort(attribute='__class__') }}",
        "{{ list | groupby('__class__') }}",
        "{{ list | sum(attribute='__class__') }}",
        "{{ object._x }}",
        "{{ list | attr('__class__') }}",
        "{{ '%s' | format(1) }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{0.__class__}'.format_map(object) }}",
        "{{ '%s' % 1 }}",
        "{{ self }}",
        "{{ self._TemplateReference__context }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ joiner('a') }}",
        "{{ namespace(a=1) }}",
        "{{ range.__self__ }}",
        "{{ dict.fromkeys(list) }}",
        "{{ range(3).count }}",
        "{{ text.encode() }}",
        "{{ text.format }}",
        "{{ text.translate }}",
        "{{ list.append(1) }}",
        "{{ list.sort() }}",
        "{{ object.update({}) }}",
        "{{ object.pop('a') }}",
        "{{ n.real }}",
        "{{ n.bit_length() }}",
        "{% import 'x' as y %}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% macro m() %}{% endmacro %}",
        "{% call f() %}{% endcall %}",
        "{% block b %}{% endblock %}",
        "{% filter upper %}{% endfilter %}",
        "{% autoescape true %}{% endautoescape %}",
        "{{ range(*list) }}",
        "{{ dict(**object) }}",
        "{{ text | pprint }}",
        "{{ text | xmlattr }}",
        "{{ debug() }}",
        "{% debug %}",
        "{{ text.lower.__func__ }}",
        "{{ text is filter }}{{ text | nothing }}",
    ],
)
def test_python_objects_cannot_be_reached(text: str) -> None:
    kind, _ = find_error(text)
    assert kind in ("NP401", "NP402", "NP403", "UndefinedName", "TemplateError")


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'x' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'x' }}",
        "{{ [0] * 10 ** 8 }}",
        "{{ 2 ** 10000000 }}",
        "{{ (2 ** 4000) * (2 ** 4000) }}",
        "{{ ('f' * 8000) | int(base=16) }}",
        "{{ 1 | round(30000000, 'ceil') }}",
        "{{ range(10 ** 8) }}",
        "{{ range(10 ** 7) | list }}",
        "{{ 'x' | center(10 ** 9) }}",
        "{{ 'x' | indent(10 ** 9) }}",
        "{{ ('x\n' * 100000) | indent('y' * 1000000) }}",
        "{{ ('x ' * 100000) | wordwrap(1, true, 'y' * 1000000) }}",
        "{{ 'x' | truncate(10 ** 9) }}",
        "{{ [1] | batch(10 ** 9, 0) | list }}",
        "{{ ('x' * 8000000) | batch(1) | list }}",
        "{{ ('x' * 8000000) | replace('x', 'yy') }}",
        "{{ ('x' * 1000000).replace('x', 'y' * 1000) }}",
        "{{ (['x' * 1000] * 10000) | join }}",
        "{{ ['x' * 5000000, 1, 'x' * 5000000] | join }}",
        "{{ [1, 2] | join('x' * 8000000) | length }}{{ [1, 2, 3, 4] | join('x' * 4000000) }}",
        "{{ ('x' * 4000000).join(['', '', '', '']) }}",
        "{{ ('x' * 5000000) ~ ('x' * 5000000) }}",
        "{{ ('x' * 5000000) + ('x' * 5000000) }}",
        "{{ ('&' * 8000000) | escape }}",
        "{{ [[0] * 1000000] * 60 }}",
        "{{ ([[1] * 1000000] * 1000) | sum(start=[]) }}",
        "{{ ['x' * 8000000] * 1000 }}",
        "{{ (['x' * 8000000] * 1000) | tojson }}",
        "{{ (['x' * 8000000] * 1000) | string }}",
        "{{ (['x' * 8000000] * 1000) | upper }}",
        "{{ (['x' * 8000000] * 1000) | b64encode }}",
        "{{ (['x' * 8000000] * 1000) ~ '' }}",
        "{{ [['x' * 8000000] * 1000] | join }}",
        "{{ ''.join([['x' * 8000000] * 1000]) }}",
        "a {{ ['x' * 8000000] * 1000 }}",
        "{{ 'x' * 5000000 }} {{ 'x' * 5000000 }}",
        "{{ 'é' * 2000000 }}{% for a in range(2000) %}{{ 'x' * 4000 }}{% endfor %}",
        "{% if true %}{{ ['x' * 8000000] * 1000 }}{% endif %}",
        "{{ [[[[[[[[[[range(1000000) | list]]]]]]]]]] | tojson(indent=16) }}",
        "{{ [range(1000000) | list] * 10 ~ '' }}",
        "{{ [range(600000) | list, range(600000) | list] | sum(start=[]) }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(1000000) %}0123456789{% endfor %}",
        "{% set a = [0] * 1000 %}{% set b = [a] * 1000 %}{% set c = [b] * 1000 %}{{ c }}",
        "{{ ('a' * 8000000) | regex_replace('a', 'bb') }}",
        "{{ 1 | strftime('%Y' * 1000) }}",
    ],
)
def test_too_large_values_exceed_a_limit(text: str) -> None:
    assert find_error(text)[0] == "LimitExceeded"


@pytest.mark.parametrize("depth", [31, 200, 5000])
@pytest.mark.parametrize("pair", ["()", "[]"])
def test_too_deep_nesting_is_refused(depth: int, pair: str) -> None:
    assert find_error("{{ " + pair[0] * depth + "1" + pair[1] * depth + " }}")[0] == "NP405"


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "not " * 2000 + "1 }}",
        "{{ " + "-" * 5000 + "1 }}",
        "{{ " + "1" * 5000 + " }}",
        "{{ 1" + " + 1" * 9000 + " }}",
    ],
)
def test_too_complex_expressions_are_refused(text: str) -> None:
    assert find_error(text)[0] == "NP405"


@pytest.mark.parametrize("block", ["{% for i in list if i > 1 %}", "{% for i in list %}{{ loop.index }}"])
@pytest.mark.parametrize("depth", [20, 21, 90])
def test_too_many_nested_loops_are_refused(block: str, depth: int) -> None:
    """Python compiles at most 20 nested loops, so a template that is parsed can also be evaluated."""
    text = block * depth + "{{ zz }}" + "{% else %}-{% endfor %}" * depth
    expected = "UndefinedName" if depth <= 20 else "NP405"
    assert find_error(text)[0] == expected


def test_a_deep_stack_of_the_caller_exceeds_a_limit() -> None:
    template = parse_template("{{ " + "not " * 90 + "n }}")

    def evaluate_below(frames: int) -> Any:
        return template.evaluate({"n": 1}.__getitem__) if frames == 0 else evaluate_below(frames - 1)

    assert evaluate_below(0) is True
    template = parse_template("{{ " + "not " * 91 + "n }}")
    with pytest.raises(EvaluationError, match="nested too deeply") as caught:
        evaluate_below(750)
    assert caught.value.type == "LimitExceeded"


def test_too_long_templates_are_refused() -> None:
    assert find_error("{{ n }}" + "x" * 70_000)[0] == "NP405"


def test_values_up_to_the_limits_are_allowed() -> None:
    assert len(evaluate(f"[n] * {MAX_ITEMS}")) == MAX_ITEMS
    assert len(evaluate(f"range({MAX_ITEMS}) | list")) == MAX_ITEMS
    assert len(evaluate(f"'x' * {MAX_TEXT}")) == MAX_TEXT
    assert evaluate(f"2 ** {MAX_INTEGER_BITS // 2} > 0")
    assert evaluate(f"range({MAX_ITEMS}) | sum") == MAX_ITEMS * (MAX_ITEMS - 1) // 2
    assert evaluate("(range(1000000) | list)[999999]") == 999_999


def test_each_evaluation_has_its_own_budget() -> None:
    for _ in range(20):
        evaluate(f"'x' * {MAX_TEXT}")
    assert parse_template("{{ r }}").evaluate({"r": range(1000)}.__getitem__) == list(range(1000))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'a' ~ 1 ~ none ~ [1]", "a1None[1]"),
        ("text.upper().split('L')", ["HÉ", "", "O"]),
        ("text.replace('l', 'L')", "héLLo"),
        ("text | replace('l', 'L', 1)", "héLlo"),
        ("'-'.join(['a', 'b'])", "a-b"),
        ("list | join('-')", "3-1-2"),
        ("list | sort | first", 1),
        ("list.index(1)", 1),
        ("list | sum", 6),
        ("[{'a': 1}, {'a': 2.5}] | sum(attribute='a')", 3.5),
        ("[{'a': 1}] | sum('a', 3)", 4),
        ("[[1], [2, 3]] | sum(start=[])", [1, 2, 3]),
        ("object.a", 1),
        ("object.items", "mine"),
        ("{'b': 1}.items()", [["b", 1]]),
        ("object.get('zz', 5)", 5),
        ("object | dictsort", [["_x", 2], ["a", 1], ["items", "mine"]]),
        ("{'a': [1, {'b': none}]} | tojson", '{"a": [1, {"b": null}]}'),
        ("[0 | to_datetime] | tojson", '["1970-01-01T00:00:00+00:00"]'),
        ("range(3) | tojson", "[0, 1, 2]"),
        ("'[1, 2]' | fromjson", [1, 2]),
        ("'a' | b64encode", "YQ=="),
        ("'YQ==' | b64decode", "a"),
        ("'a' | sha256 | length", 64),
        ("'a1b2' | regex_replace('[0-9]', '#')", "a#b#"),
        ("'a1b22' | regex_search('b([0-9]+)')", ["22"]),
        ("'a1' | regex_search('[0-9]')", "1"),
        ("'a' | regex_search('[0-9]')", None),
        ("('2026-01-31T10:00:00Z' | to_datetime).year", 2026),
        ("'2026-01-31' | to_datetime | strftime('%d.%m.')", "31.01."),
        ("0 | to_datetime", "1970-01-01T00:00:00+00:00"),
        ("'31/01/2026' | to_datetime('%d/%m/%Y') | strftime('%Y')", "2026"),
        ("1.2345 | round(2, 'ceil')", 1.24),
        ("'3' | int + 1", 4),
        ("'x' | int(7)", 7),
        ("'ff' | int(base=16)", 255),
        ("7 // 2 + 7 % 2", 4),
        ("2 ** 10", 1024),
        ("range(3)", [0, 1, 2]),
        ("dict(a=1)", {"a": 1}),
        ("'a b c' | wordwrap(3)", "a b\nc"),
        ("'abcdef g' | wordwrap(3)", "abc\ndef\ng"),
        ("'abcdef g' | wordwrap(3, false)", "abcdef\ng"),
        ("'abc' | center(7)", "  abc  "),
        ("'a\nb' | indent(2)", "a\n  b"),
        ("'a b c d e f g h' | truncate(8)", "a b..."),
        ("'<a>' | escape", "&lt;a&gt;"),
        ("list | map('string') | list", ["3", "1", "2"]),
        ("list | select('odd') | list", [3, 1]),
        ("list | batch(2) | list", [[3, 1], [2]]),
        ("none is None and true is True and false is False", True),
        ("None", None),
        ("[True, False]", [True, False]),
        ("zz is defined", False),
        ("zz | default('d')", "d"),
        ("object.zz | default('d')", "d"),
        ("1 if n > 2 else 0", 1),
        ("list[0:2]", [3, 1]),
        ("text[-1]", "o"),
        ("range(5)[1:3]", [1, 2]),
        ("[3 in list, 9 in list, '3' in list]", [True, False, False]),
        ("['l' in text, 'a' in object, [1] in [[1]], [1] in object.values()]", [True, True, True, False]),
        ("3 is in list", True),
        ("[['a', {'b': 1}]] == [['a', {'b': 1}]]", True),
        ("(range(9000) | list) == (range(9000) | list)", True),
        ("'xxaxx' | trim('x') ~ ' a ' | trim", "aa"),
        ("'xxaxx'.strip('x')", "a"),
        ("'a\nb'.splitlines()", ["a", "b"]),
        ("'abc' | list", ["a", "b", "c"]),
        ("[{'a': 2}, {'a': 1}] | sort(attribute='a') | map(attribute='a') | list", [1, 2]),
        ("[{'a': 2}, {'a': 1}] | max(attribute='a')", {"a": 2}),
        ("[{'a': 2}, {'a': 2}] | groupby('a') | length", 1),
        ("('aa' | replace('a', 'x' * 60)) | length", 120),
        ("text | replace('l', 'x' * 60) | length", 123),
        ("('a' * 70).upper() | length", 70),
        ("'a-b'.partition('-')", ["a", "-", "b"]),
        ("'ab' + 'c'", "abc"),
        ("true + 1", 2),
        ("[['a', 'b'], 'c'] == [['a', 'b'], 'c'] and [1] is ne([2])", True),
        ("' a ' | trim", "a"),
        ("[] | min is undefined", True),
        ("['a', 'b'] | sum(start='')", "ab"),
        ("2 in [[1], 2]", True),
        ("[1] in list", False),
        ("-1 == n - n - 1", True),
        ("{1: 'a'} | string", "{1: 'a'}"),
        ("('x' * 2000) in object", False),
        ("'b' in ('a' * 100)", False),
        ("text[0:2]", "hé"),
    ],
)
def test_expressions_have_values(expression: str, expected: Any) -> None:
    assert evaluate(expression) == expected


@pytest.mark.parametrize(
    ("expression", "kind", "message"),
    [
        ("1 / 0", "TemplateError", "division by zero"),
        ("2.5 | round('1')", "TemplateError", "it needs a whole number, not a text"),
        ("5 | wordwrap", "TemplateError", "it needs a text, not a number"),
        ("'a' | regex_search('b' * 1001)", "LimitExceeded", "longer than 1,000 characters"),
        ("1 % 0", "TemplateError", "division by zero"),
        ("n + text", "TemplateError", "`+` cannot take a number and a text; join"),
        ("list + text", "TemplateError", "`+` cannot take a list and a text"),
        ("'x' | fromjson", "TemplateError", "Expecting value"),
        ("'NaN' | fromjson", "TemplateError", "NaN is not JSON"),
        ("1e308 * 10", "TemplateError", "not a finite number"),
        ("'a' | regex_search('(')", "TemplateError", "is not a regular expression"),
        ("'x' | to_datetime", "TemplateError", "Invalid isoformat"),
        ("1e19 | to_datetime", "TemplateError", "out of range"),
        ("'abcdef' | truncate(2)", "TemplateError", "expected length"),
        ("n | wordwrap(3)", "TemplateError", "it needs a text, not a number"),
        ("1.5 | round('a')", "TemplateError", "it needs a whole number, not a text"),
        ("n[1:2]", "TemplateError", "needs a list or a text, not a number"),
        ("range | tojson", "TemplateError", "the value is a function"),
        ("(-8) ** 0.5", "TemplateError", "a complex, which JSON cannot hold"),
        ("text.upper", "TemplateError", "the value is a function"),
        ("zz", "UndefinedName", "`zz` is undefined"),
        ("object.zz", "UndefinedName", "`zz` is undefined in an object with `a`, `items`, `_x`"),
        ("object.zz.yy", "UndefinedName", "`zz` is undefined in"),
        ("list[9]", "UndefinedName", "in a list"),
        ("true.zz", "UndefinedName", "`zz` is undefined in a boolean"),
        ("('x' * 20000) | to_datetime", "LimitExceeded", "is too long"),
        ("text.zz", "UndefinedName", "`zz` is undefined in a text"),
        ("zz + 1", "UndefinedName", "`zz` is undefined"),
        ("[zz]", "UndefinedName", "`zz` is undefined"),
        ("[zz] | tojson", "UndefinedName", "`zz` is undefined"),
        ("zz | tojson", "UndefinedName", "`zz` is undefined"),
        ("zz == 1", "UndefinedName", "`zz` is undefined"),
        ("zz and 1", "UndefinedName", "`zz` is undefined"),
        ("object | tojson(indent=100)", "TemplateError", "must be 0 to 16"),
    ],
)
def test_failures_have_a_type_and_a_message(expression: str, kind: str, message: str) -> None:
    error_type, error_message = find_error("{{ " + expression + " }}")
    assert error_type == kind
    assert message in error_message


@pytest.mark.parametrize(
    "text",
    [
        "{% set a = [1, 1] %}{% set b = [1, 1] %}"
        + "{% set a = [a, a] %}{% set b = [b, b] %}" * 31
        + "{{ a == b }}",
        "{{ 'a' | regex_search('((((a{1000}){1000}){1000}){1000})') }}",
        "{{ 'a' | regex_search('a|' * 5000) }}",
        "{% for i in range(100000) %}{{ -1 in xs }}{% endfor %}",
        "{% for i in range(100000) %}{{ text.count('ab') }}{% endfor %}",
    ],
    ids=["shared comparison", "nested repetitions", "long pattern", "membership", "methods"],
)
def test_endless_work_exceeds_a_limit(text: str) -> None:
    names = {"xs": list(range(100_000)), "text": "a" * 1_000_000}
    with pytest.raises(EvaluationError) as caught:
        parse_template(text).evaluate(names.__getitem__)
    assert caught.value.type == "LimitExceeded"


@pytest.mark.parametrize(
    "test", ["none", "not none", "string", "number", "mapping", "sameas(1)", "in [1]", "divisibleby(2)"]
)
def test_undefined_names_fail_in_tests(test: str) -> None:
    with pytest.raises(EvaluationError, match="`x` is undefined"):
        parse_template(f"{{{{ x is {test} }}}}").evaluate(dict[str, object]().__getitem__)


def test_a_function_of_templates_has_no_text() -> None:
    function = Function(len)
    assert function([1, 2]) == 2
    with pytest.raises(TemplateRuntimeError, match="the value is a function"):
        str(function)


@pytest.mark.parametrize(
    ("expression", "type"),
    [
        ("range(1000000) | list | tojson(indent=16)", "LimitExceeded"),
        ("[[1] * 600000, [1] * 600000] | sum(start=[])", "LimitExceeded"),
        ("missing | tojson", "UndefinedName"),
        ("range(3) | map('string') | tojson", "TemplateError"),
    ],
)
def test_filters_stop_at_what_they_cannot_hold(expression: str, type: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        evaluate(expression)
    assert caught.value.type == type
