from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.planner.templates import template as template_module
from noetl.planner.templates.template import (
    TEMPLATES,
    EvaluationError,
    Expression,
    Identifier,
    Raw,
    Template,
    TemplateProblem,
    has_template,
    is_true,
    parse_template,
)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def evaluate(text: str, **names: Any) -> Any:
    return parse_template(text).evaluate(names.__getitem__)


@pytest.mark.parametrize("filter_", ["map", "selectattr", "rejectattr"])
def test_a_lazy_filter_without_arguments_is_an_error_of_the_template(filter_: str) -> None:
    with pytest.raises(EvaluationError) as raised:
        evaluate(f"{{{{ [1] | {filter_} }}}}")
    assert raised.value.type == "TemplateError"


def test_valid_and_invalid_texts_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed_texts = []

    class RecordingTemplate(Template):
        def __init__(self, source: str) -> None:
            parsed_texts.append(source)
            super().__init__(source)

    monkeypatch.setattr(template_module, "Template", RecordingTemplate)
    valid, invalid = "{{ parsed_once }}", "{{ parsed_once | nothing }}"
    assert parse_template(valid) is parse_template(valid)
    first, second = parse_invalid(invalid), parse_invalid(invalid)
    assert first is not second and (first.code, first.start) == (second.code, second.start) == ("NP402", 17)
    assert parsed_texts == [valid, invalid]


def parse_invalid(text: str) -> TemplateProblem:
    with pytest.raises(TemplateProblem) as raised:
        parse_template(text)
    return raised.value


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{{ a }", "close `{{` with `}}`, and `{%` with `%}`"),
        ("{% for a in b %}{{ a }}", "add `{% endfor %}` at the end of the block"),
        ("{{ upper(a) }}", "`upper` is a filter: write `value | upper`"),
    ],
)
def test_problems_have_hints(text: str, hint: str | None) -> None:
    assert parse_invalid(text).hint == hint


@given(PLAIN)
def test_a_single_expression_keeps_the_type_of_its_value(value: Any) -> None:
    for text in ("{{ x }}", "{{x}}", "  {{ x }}\n", "{{ x.y }}", "{{ x['y'] }}", "{{ (x) }}", "{{ [x][0] }}"):
        argument = {"y": value} if "y" in text else value
        result = evaluate(text, x=argument)
        assert result == value
        assert type(result) is type(value)


@given(st.text(), st.text())
def test_text_around_an_expression_gives_text(before: str, after: str) -> None:
    before, after = (part.replace("{", "").replace("}", "") for part in (before, after))
    expected = f"{before}1{after}"
    if before.strip() or after.strip():
        assert evaluate(before + "{{ x }}" + after, x=1) == expected.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{ x }}{{ x }}", "11"),
        ("a {{ x }} b {{ y }}", "a 1 b [2, None]"),
        ("{{ '{{' }} {{ x }}", "{{ 1"),
        ("{# nothing #}{{ x }}", 1),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{% if x %}yes{% endif %}", "yes"),
        ("{% for i in y %}{{ i }},{% endfor %}", "2,None,"),
        ("{% set z = x + 1 %}{{ z }}", "2"),
        ("{{ x }}\n", 1),
        ("a\n{{ x }}\n", "a\n1\n"),
        ("{{ True }} {{ None }}", "True None"),
        ("{{ x -}}  b", "1b"),
        ("{% for y in y %}{{ y }} {% endfor %}", "2 None "),
        ("{{ x }}{% set x = 5 %}{{ x }}", "15"),
    ],
)
def test_templates_have_values(text: str, expected: Any) -> None:
    assert evaluate(text, x=1, y=[2, None]) == expected


def test_a_mapping_of_another_type_keeps_its_type_and_can_be_written_as_json() -> None:
    secrets = MappingProxyType({"a": 1})
    assert evaluate("{{ x }}", x=secrets) is secrets
    assert evaluate("{{ x | tojson }} {{ [x] | tojson }}", x=secrets) == '{"a": 1} [{"a": 1}]'


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", False), ("a", False), ("{", False), ("{ {", False), ("{{", True), ("{%", True), ("{#", True)],
)
def test_has_template(text: str, expected: bool) -> None:
    assert has_template(text) is expected


@pytest.mark.parametrize(
    ("text", "is_expression", "has_blocks"),
    [
        ("{{ x }}", True, False),
        (" {{ x }} ", True, False),
        ("{{ x }}.", False, False),
        ("{{ x }}{{ y }}", False, False),
        ("{% if x %}{% endif %}", False, True),
        ("{{ x }}{% if x %}{% endif %}", False, True),
        ("text", False, False),
    ],
)
def test_kinds_of_templates(text: str, is_expression: bool, has_blocks: bool) -> None:
    template = parse_template(text)
    assert (template.is_expression, template.has_blocks) == (is_expression, has_blocks)
    assert (template.parts is None) is has_blocks


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("{{ a }}", {("a",): 3}),
        ("{{ a.b['c'].d }}", {("a", "b", "c", "d"): 3}),
        ("{{ a[0].b }}", {("a",): 3}),
        ("{{ a[b.c] }}", {("a",): 3, ("b", "c"): 5}),
        ("{{ a }} {{ b.c }} {{ a }}", {("a",): 3, ("b", "c"): 11}),
        ("{{ a | map(attribute=b) | join(c.d) }}", {("a",): 3, ("b",): 21, ("c", "d"): 31}),
        ("{{ a.upper() }}", {("a", "upper"): 3}),
        ("{{ range(a) }}", {("a",): 9}),
        ("{{ now() ~ uuid() }}", {("now",): 3, ("uuid",): 11}),
        ("{% for i in a %}{{ i.x }}{{ b }}{% endfor %}", {("a",): 12, ("b",): 28}),
        ("{% set i = a %}{{ i }}", {("a",): 11}),
        ("{% for a in a %}{{ a }}{% else %}{{ a.b }}{% endfor %}", {("a",): 12, ("a", "b"): 36}),
        (
            "{% for i in a if i > loop.x %}{{ loop.index }}{% endfor %}{{ loop.y }}",
            {("a",): 12, ("loop", "x"): 21, ("loop", "y"): 61},
        ),
        ("{{ a }}{% set a = 1 %}{{ a }}", {("a",): 3}),
        ("{% if a %}{% set b = 1 %}{% endif %}{{ b }}", {("a",): 6, ("b",): 39}),
        (
            "{% if a %}{% set b = 1 %}{% elif c %}{% set b = 2 %}{% else %}{% set b = 3 %}{% endif %}{{ b }}",
            {("a",): 6, ("c",): 33},
        ),
        ("{% with a = a %}{{ a }}{% endwith %}{{ a.b }}", {("a",): 12, ("a", "b"): 39}),
        ("{% for i in a %}{% set b = i %}{% endfor %}{{ b }}", {("a",): 12, ("b",): 46}),
        ("{% for i, j in a %}{{ i ~ j }}{% endfor %}", {("a",): 15}),
        ("{{ a if b else c }}", {("a",): 3, ("b",): 8, ("c",): 15}),
        ("{{ {'k': a, b: 1} }}", {("a",): 9, ("b",): 12}),
        ("text", {}),
        ("{{ 1 + 2 }}", {}),
        ("é{{ a }}", {("a",): 4}),
    ],
)
def test_reads_are_the_access_paths_from_outside(text: str, reads: dict[tuple[str, ...], int]) -> None:
    found_reads = parse_template(text).reads
    assert found_reads == reads
    assert list(found_reads.values()) == sorted(found_reads.values())
    assert parse_template(text).names == {path[0] for path in reads}


def test_parts_are_text_and_expressions() -> None:
    text = "a {{ x.y }} b {{ t | identifier }}{{ r|raw }}{# c #}{{ '}}' }}"
    assert parse_template(text).parts == (
        "a ",
        Expression("x.y", 2, 11),
        " b ",
        Expression("t | identifier", 14, 34, "identifier"),
        Expression("r|raw", 34, 45, "raw"),
        Expression("'}}'", 52, 62),
    )
    expressions = [part for part in parse_template(text).parts or () if isinstance(part, Expression)]
    assert [(part.is_identifier, part.is_raw) for part in expressions] == [
        (False, False),
        (True, False),
        (False, True),
        (False, False),
    ]
    assert all(text[part.start : part.end].startswith("{{") for part in expressions)


def test_values_keep_the_types_of_sink_filters() -> None:
    names = {"x": [1], "t": "table", "r": "raw"}
    values = parse_template("{{ x }} {{ t | identifier }} {{ r | raw }}").values(names.__getitem__)
    assert values == [[1], "table", "raw"]
    assert [type(value) for value in values] == [list, Identifier, Raw]
    assert parse_template("{{ x }}").values(names.__getitem__) == [[1]]


@pytest.mark.parametrize(
    ("text", "code", "start", "end"),
    [
        ("{{ a + }}", "NP401", 7, 9),
        ("{{ a b }}", "NP401", 5, 6),
        ("{{ a", "NP401", 0, 2),
        ("{{ 'a }}", "NP401", 3, 4),
        ("{{ }}", "NP401", 3, 5),
        ("{% if %}", "NP401", 6, 8),
        ("{% for %}", "NP401", 7, 9),
        ("{% if a %}", "NP401", 3, 10),
        ("{% if a %}{% if b %}{% endif %}", "NP401", 3, 10),
        ("{{ '{% endif %}' }}{% if a %}", "NP401", 22, 29),
        ("{% if a %}{% endif %}{% endif %}", "NP401", 24, 29),
        ("a {% else %}", "NP401", 5, 9),
        ("x {{ a | nothing }}", "NP402", 9, 16),
        ("{{ a is nothing }}", "NP402", 8, 15),
        ("{{ nothing(a) }}", "NP402", 3, 10),
        ("{{ a.__class__ }}", "NP403", 5, 14),
        ("{% macro m() %}{% endmacro %}", "NP403", 3, 8),
        ("{% nothing %}", "NP403", 3, 10),
        ("{% autoescape true %}{% endautoescape %}", "NP403", 0, 24),
        ("{{ f(*a) }}", "NP403", 4, 5),
        ("{{ a | x ? }}", "NP401", 9, 10),
        ("{{ (a] }}", "NP401", 3, 4),
        ("{{ a | map('nothing') }}", "NP402", 12, 19),
        ("{{ a | selectattr('b', 'nothing') }}", "NP402", 24, 31),
    ],
)
def test_problems_mark_the_wrong_word(text: str, code: str, start: int, end: int) -> None:
    problem = parse_invalid(text)
    assert problem.code == code
    if "autoescape" not in text:
        assert (problem.start, problem.end) == (start, end)
    assert 0 <= problem.start < problem.end


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{{ a | lenght }}", "did you mean `length`?"),
        ("{{ a is definde }}", "did you mean `defined`?"),
        ("{{ rnage(3) }}", "did you mean `range`?"),
        ("{{ length(a) }}", "`length` is a filter: write `value | length`"),
        ("{{ a | map('lenght') }}", "did you mean `length`?"),
        ("{{ a | reject('definde') }}", "did you mean `defined`?"),
        ("{{ a | selectattr('b', 'definde') }}", "did you mean `defined`?"),
        ("{% iff a %}{% endif %}", "did you mean `if`?"),
    ],
)
def test_unknown_names_have_hints(text: str, hint: str) -> None:
    assert parse_invalid(text).hint == hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("{{ 1 + }}", "missing value after `+`", "write a value after `+`, or remove it"),
        ("{{ a", "`{{` is not closed", "close it with `}}`"),
        ("{{ a }} {{ b", "`{{` is not closed", "close it with `}}`"),
        ("{# a", "`{#` is not closed", "close it with `#}`"),
        ("{{ }}", "empty expression", "write a value between the braces"),
        ("{{ (1 }}", "`(` is not closed", "close it with `)`"),
        ("{{ a | default('b' }}", "`(` is not closed", "close it with `)`"),
        ("{{ 'a }}", "missing closing quote", "close the text with the same quote"),
        ("{{ a. }}", "missing name after `.`", "write the name of an attribute"),
        ("{{ a | }}", "missing filter after `|`", "write the name of a filter, such as `value | upper`"),
        ("{{ a is }}", "missing test after `is`", "write the name of a test, such as `value is defined`"),
        ("{{ a if }}", "missing condition after `if`", "write a condition"),
        ("{% for a %}", "missing `in` after `for`", "write `{% for item in list %}`"),
        (
            "{{ a b }}",
            "unexpected `b` after `a`",
            "write an operator between `a` and `b`, such as `~` to join texts",
        ),
        ("{{ 1a }}", "unexpected `a` after `1`", "begin a name with a letter"),
        (
            "{{ 'it's' }}",
            "unexpected `s` after `'it'`",
            "put a text that contains a quote into the other kind of quotes",
        ),
        ("{{ {{ a }} }}", "unexpected `}}`", "remove the inner `{{` and `}}`"),
        ("{{ [a for a in b] }}", "unexpected `for` after `a`", "write `list | map(…)` or `list | select(…)`"),
        ("{{ a && b }}", "unexpected `&&`", "write `and`"),
        ("{{ a; b }}", "unexpected `;` after `a`", "remove it, or quote it if it is text"),
        ("{{ `a` }}", "unexpected backtick", "remove it, or quote it if it is text"),
    ],
)
def test_a_syntax_error_says_what_to_change(text: str, message: str, hint: str) -> None:
    problem = parse_invalid(text)
    assert (problem.code, problem.message, problem.hint) == ("NP401", message, hint)


@given(st.text(alphabet="{}%#()[]'\"\\ab1.|,:*+-=~ \n\u00e9_", max_size=40))
def test_any_text_is_a_template_or_has_a_problem(text: str) -> None:
    try:
        template = parse_template(text)
    except TemplateProblem as problem:
        assert problem.code in ("NP401", "NP402", "NP403", "NP405")
        assert 0 <= problem.start <= problem.end <= len(text) + 1
        return
    try:
        template.evaluate({"a": 1, "b": [1]}.__getitem__)
    except EvaluationError as error:
        assert error.type in ("UndefinedName", "TemplateError", "LimitExceeded")
        assert error.message


def test_the_same_text_is_parsed_once() -> None:
    assert parse_template("{{ once }}") is parse_template("{{ once }}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("False", True),
        ("", False),
        (0, False),
        (0.0, False),
        ([], False),
        ({}, False),
        (None, False),
        ([0], True),
    ],
)
def test_is_true(value: Any, expected: bool) -> None:
    assert is_true(value) is expected


def test_lookup_is_called_once_for_each_name() -> None:
    names = []

    def lookup(name: str) -> Any:
        names.append(name)
        return {"y": 1}

    parse_template("{{ x.y + 1 }}").evaluate(lookup)
    parse_template("{{ x.y }}").evaluate(lookup)
    assert names == ["x", "x"]


SNIPPETS = st.sampled_from(
    [
        "{{ x }}",
        "{{x.y}}",
        "{{ x.y.z }}",
        "{{\n x }}",
        "{{ x",
        "}}",
        "{",
        "}",
        "{% if x %}",
        "{{ true }}",
        "{{ x._y }}",
        "{{ _x }}",
        "{{ range }}",
        "{{ x | upper }}",
        "{{- x -}}",
        "{# x #}",
        "{{ x.and }}",
        "{{ not }}",
        "{{ x.1 }}",
        " ",
        "\n",
        "\r\n",
        "a",
        "é",
        "(",
        "(" * 10,
        "[" * 20,
        ")",
        "{{ 'x' }}",
        "{{ x.y",
        ".z }}",
        "{{ é }}",
    ]
)


@given(st.lists(SNIPPETS, max_size=6).map("".join))
def test_simple_texts_give_the_same_result_with_the_parser(text: str) -> None:
    def parse_result() -> object:
        TEMPLATES.clear()
        try:
            template = parse_template(text)
        except TemplateProblem as problem:
            return problem.code, problem.start, problem.end
        return (
            template.is_expression,
            template.has_blocks,
            template.reads,
            list(template.reads),
            template.names,
            template.access_path,
            template.parts,
        )

    without_parser = parse_result()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_module, "split_simple_parts", lambda _: None)
        assert without_parser == parse_result()
    TEMPLATES.clear()
