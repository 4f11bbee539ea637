"""Expressions that try to call, print or reach something else than the language offers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.templates import sandbox
from noetl.planner.templates.functions import Function
from noetl.planner.templates.template import EvaluationError, TemplateProblem, parse_template

RANGE = "{% set r = range(1000) %}"
NAMES: dict[str, Any] = {
    "n": 3,
    "xs": [1, 2],
    "object": {"a": 1},
    "now": lambda: None,
    "uuid": lambda: "u",
}

RECURSIVE_LOOPS = [
    "for x in r recursive %}{{ (loop or 1)(r) if loop.depth < 6 else '' }}{% endfor %}",
    "for x in r recursive %}{{ (loop if true)(r) }}{% endfor %}",
    "for x in r recursive %}{{ (loop if true else 1)(r) }}{% endfor %}",
    "for x in r recursive %}{{ loop(r) }}{% endfor %}",
    "for x in r recursive %}{{ [loop][0](r) }}{% endfor %}",
    "for x in r recursive %}{{ {'a': loop}.a(r) }}{% endfor %}",
    "for x in r recursive %}{{ ([loop] | first)(r) }}{% endfor %}",
    "for x in r recursive %}{{ (loop | default(1))(r) }}{% endfor %}",
    "for x in r recursive %}{% set f = loop %}{{ f(r) }}{% endfor %}",
    "for x in r recursive %}{% with f = loop %}{{ f(r) }}{% endwith %}{% endfor %}",
    "for x in r recursive %}{% for f in [loop] %}{{ f(r) }}{% endfor %}{% endfor %}",
    "for x in r recursive %}{{ x }}{% endfor %}",
]

LOOP_VALUES = [
    "{% for x in xs %}{{ loop }}{% endfor %}",
    "{% for x in xs %}{{ loop ~ '' }}{% endfor %}",
    "{% for x in xs %}{{ [loop] }}{% endfor %}",
    "{% for x in xs %}{{ loop | list }}{% endfor %}",
    "{% for x in xs %}{{ loop['index'] }}{% endfor %}",
    "{% for x in xs %}{% for y in loop %}{% endfor %}{% endfor %}",
    "{% for x in xs %}{% if loop %}{% endif %}{% endfor %}",
    "{% for x in xs %}{% for y in xs %}{% else %}{{ loop }}{% endfor %}{% endfor %}",
    "{% for loop in xs %}{% endfor %}",
    "{% for a, loop in xs %}{% endfor %}",
]

INDIRECT_CALLS = [
    "{{ (range or 1)(3) }}",
    "{{ (range if n else 1)(3) }}",
    "{{ [range][0](3) }}",
    "{{ {'f': range}.f(3) }}",
    "{{ {'f': range}['f'](3) }}",
    "{{ (range | default(1))(3) }}",
    "{{ ([range] | first)(3) }}",
    "{{ ''['upper']() }}",
    "{{ ''.upper()() }}",
    "{{ range(3)(3) }}",
    "{{ 'x'('y') }}",
    "{{ 1(2) }}",
    "{{ xs(2) }}",
    "{{ object.a.b.c(2) }}",
    "{{ {}.fromkeys(xs) }}",
    "{{ object.copy() }}",
    "{{ ''.encode() }}",
    "{{ ''.format(1) }}",
    "{{ ''.maketrans(object) }}",
    "{{ ''.zfill(1000000000) }}",
    "{{ ''.ljust(1000000000) }}",
    "{{ ''.expandtabs(1000000000) }}",
    "{{ xs.append(1) }}",
    "{{ now().strftime('%Y') }}",
    "{{ now().replace(year=1)('x') }}",
    "{{ caller() }}",
    "{{ super() }}",
    "{{ self.block() }}",
    "{{ self ~ '' }}",
    "{{ cycler(1) }}",
    "{{ joiner() }}",
    "{{ lipsum(1000000) }}",
    "{{ namespace(a=1) }}",
    "{{ xs | map('attr', '__class__') | list }}",
    "{{ xs | map('noetl loop') | list }}",
    "{{ xs | map('format', 1) | list }}",
    "{{ xs | select('nothing') | list }}",
    "{{ xs | attr('append') }}",
    "{{ xs | map(*xs) | list }}",
    "{{ xs | map(**object) | list }}",
    "{{ n is divisibleby(*xs) }}",
    "{% set object.a = 2 %}",
    "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "{% call(x) range(3) %}{% endcall %}",
    "{% filter upper %}{% endfilter %}",
    "{% import 'x' as y %}{{ y.z() }}",
    "{% from 'x' import y %}{{ y() }}",
    "{% set x %}{{ n }}{% endset %}",
]


@pytest.mark.parametrize("text", [RANGE + "{% " + loop for loop in RECURSIVE_LOOPS])
def test_a_recursive_loop_is_refused_before_it_runs(text: str) -> None:
    with pytest.raises(TemplateProblem) as caught:
        parse_template(text)
    assert caught.value.code in ("NP402", "NP403")


@pytest.mark.parametrize("text", LOOP_VALUES)
def test_the_loop_is_not_a_value(text: str) -> None:
    with pytest.raises(TemplateProblem) as caught:
        parse_template(text)
    assert caught.value.code == "NP403"


@pytest.mark.parametrize("text", INDIRECT_CALLS)
def test_only_functions_and_methods_are_called_by_their_names(text: str) -> None:
    with pytest.raises(TemplateProblem) as caught:
        parse_template(text)
    assert caught.value.code in ("NP401", "NP402", "NP403")


def test_a_name_of_a_filter_that_is_computed_is_checked_when_it_is_used() -> None:
    for name in ("'at' ~ 'tr'", "'for' ~ 'mat'", "'pp' ~ 'rint'"):
        with pytest.raises(EvaluationError):
            parse_template("{{ xs | map(" + name + ", 'x') | list }}").evaluate(NAMES.__getitem__)


def test_attributes_of_a_loop_can_be_read() -> None:
    text = "{% for x in xs %}{{ loop.index }}{{ loop.cycle('a', 'b') }}{% endfor %}{{ loop.index }}"
    assert parse_template(text).evaluate({**NAMES, "loop": {"index": 9}}.__getitem__) == "1a2b9"


def test_a_function_that_a_template_renames_is_called_by_no_other_name() -> None:
    with pytest.raises(EvaluationError, match="cannot be called"):
        parse_template("{% set range = 1 %}{{ range(3) }}").evaluate(NAMES.__getitem__)
    assert parse_template("{% set range = dict %}{{ range(a=1) }}").evaluate(NAMES.__getitem__) == "{'a': 1}"


def test_the_sandbox_calls_its_functions_and_nothing_else() -> None:
    assert sandbox.SANDBOX.call(None, Function(len), [1]) == 1
    values: list[Any] = [len, [].append, str, lambda: 1, 1]
    for value in values:
        with pytest.raises(TypeError, match="cannot be called"):
            sandbox.SANDBOX.call(None, value, [1])


@pytest.mark.parametrize(
    "expression",
    [
        "now ~ range",
        "range ~ ''",
        "[''.upper] | string",
        "{'a': xs.count} | string",
        "[range] | join",
        "range | upper",
        "(xs | map('string')) ~ ''",
        "[xs | map('string')] ~ ''",
        "{}[range]",
        "{}[xs | map('string')]",
        "xs[range]",
        "[range] | map(attribute=range) | list",
        "object.get ~ ''",
        "now | tojson",
        "'' in range",
        "range | replace('a', 'b')",
        "range | urlencode",
        "'x' | center(range)",
        "[range, dict] | sort | first",
        "range + 1",
        "range | int('x') + 1",
        "range | filesizeformat",
        "range | b64encode",
        "range | regex_search('x')",
        "range | to_datetime",
        "[range] | groupby('x') | string",
        "[range] | unique | list | string",
        "'%s' ~ range",
        "range | truncate(3)",
        "range | wordcount",
        "range | indent",
        "xs | map(xs | batch(2)) | list",
        "xs | select(xs | batch(2)) | list",
        "xs | rejectattr('a', xs | batch(2)) | list",
        "xs.index(xs | batch(2))",
        "xs.index([xs | map('string')])",
    ],
)
@pytest.mark.parametrize("form", ["{{ %s }}", "a {{ %s }}", "{%% if true %%}{{ %s }}{%% endif %%}"])
def test_no_address_of_the_process_is_shown(expression: str, form: str) -> None:
    try:
        shown = str(parse_template(form % expression).evaluate(NAMES.__getitem__))
    except (EvaluationError, TemplateProblem) as problem:
        shown = problem.message
    assert " at 0x" not in shown
    assert "<function" not in shown
    assert "<generator" not in shown


@pytest.mark.parametrize("depth", [19, 20, 21, 40])
@pytest.mark.parametrize(
    ("block", "end"),
    [
        ("{% for i in xs %}", "{% endfor %}"),
        ("{% for i in xs if i %}{{ loop.index }}", "{% endfor %}"),
        ("{% for i in xs %}{% if i %}", "{% endif %}{% endfor %}"),
        ("{% for i in xs %}{% with a = i %}", "{% endwith %}{% endfor %}"),
        ("{% for i in xs %}", "{% else %}-{% endfor %}"),
        ("{% if n %}", "{% endif %}"),
        ("{% if n %}{% if n %}", "{% else %}{% endif %}{% else %}{% endif %}"),
        ("{% with a = n %}", "{% endwith %}"),
        ("{% with a = n %}{% with b = a %}{% if b %}", "{% endif %}{% endwith %}{% endwith %}"),
    ],
)
def test_what_can_be_parsed_can_be_evaluated_at_any_depth(block: str, end: str, depth: int) -> None:
    text = block * depth + "{{ zz }}" + end * depth
    try:
        template = parse_template(text)
    except TemplateProblem as problem:
        assert problem.code == "NP405"
        return
    with pytest.raises(EvaluationError, match="`zz` is undefined"):
        template.evaluate(NAMES.__getitem__)


def test_a_playbook_with_a_recursive_loop_has_no_plan() -> None:
    text = RANGE + "{% for x in r recursive %}{{ (loop or 1)(r) if loop.depth < 6 else '' }}{% endfor %}"
    for section in ("environment", "variables"):
        playbook = {"name": "x", section: {"x": text}, "steps": [{"name": "a", "run": []}]}
        compiled = compile_playbook(json.dumps(playbook), catalogue())
        assert compiled.plan is None
        assert "NP403" in {finding.code for finding in compiled.diagnostics}
