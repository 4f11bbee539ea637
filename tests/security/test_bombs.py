"""Expressions that would take all memory, or all time in one go in which nobody can stop them."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from noetl.executor.engine.rendering import render
from noetl.executor.engine.start import MAX_HELD, corrected, new_run
from noetl.executor.errors import ActionError, RejectedError
from noetl.planner.templates import budget
from noetl.planner.templates.budget import BUDGET, shared_budget
from noetl.planner.templates.evaluator import MAX_MESSAGE
from noetl.planner.templates.template import EvaluationError, parse_template

from tests.calls import perform
from tests.plays import compiled

ROWS = [{"id": n, "name": f"n{n}"} for n in range(20_000)]
NAMES: dict[str, Any] = {"rows": ROWS, "object": {str(n): n for n in range(100_000)}, "text": "a" * 1_000_000}

LONG = "'x' * 8000000"
OTHER = "'x' * 7999999 ~ 'y'"
NEEDLE = "'x' * 1000000 ~ 'y' ~ 'x' * 1000000"
COPIES = 20


def refused(text: str) -> EvaluationError:
    with pytest.raises(EvaluationError) as caught:
        parse_template(text).evaluate(NAMES.__getitem__)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        # What JSON says is larger than how it says it.
        "{{ ('[' ~ '[],' * 2700000 ~ '0]') | fromjson }}",
        "{{ ('[' ~ '{},' * 2700000 ~ '0]') | fromjson }}",
        "{{ ('[' ~ '1.5,' * 2090000 ~ '0]') | fromjson }}",
        # Results are copied, as often as a part of them stands in others.
        "{{ [[[]] * 1000000] * 10 }}",
        "{{ [[[{}] * 1000] * 1000] * 50 }}",
        "{% set x = range(1000000) | list %}{{ [" + "x[:], " * COPIES + "] }}",
        "{% set x = " + LONG + " %}{{ [" + "x[1:], " * COPIES + "] }}",
        "{{ [" + "dict(object), " * COPIES * 5 + "] }}",
        # Keys of an order are made anew, and compared letter by letter.
        "{{ (['X' * 8000000] * 1000) | sort }}",
        "{{ ([{'a': 'X' * 8000000}] * 1000) | sort(attribute='a') }}",
        "{{ ([{'a': 'X' * 8000000}] * 1000) | map(attribute='a') | sort }}",
        "{{ (['X' * 8000000] * 1000) | unique | list }}",
        "{{ ([{'a': 'X' * 8000000}] * 1000) | groupby('a') }}",
        "{{ (['X' * 8000000] * 1000) | max }}",
        "{{ (['X' * 8000000] * 1000) | min }}",
        "{{ ([['x' * 8000000]] * 1000000) | sort }}",
        "{{ {'a': " + LONG + ", 'b': " + LONG + ", 'c': " + LONG + ", 'd': " + LONG + "} | dictsort(by='value') }}",
        # Two texts that differ at their ends.
        "{{ (" + OTHER + ") in ([" + LONG + "] * 1000000) }}",
        "{{ ([" + LONG + "] * 1000000).count(" + OTHER + ") }}",
        "{{ ([" + LONG + "] * 1000000).index(" + OTHER + ") }}",
        "{{ ([" + LONG + "] * 1000000) == ([" + LONG + "] * 1000000) }}",
        "{{ ([" + LONG + "] * 1000000) | select('eq', " + OTHER + ") | list }}",
        "{{ [" + OTHER + "] | select('in', [" + LONG + "] * 1000000) | list }}",
        "{{ (" + OTHER + ") in dict(a=[" + LONG + "] * 1000000).values() }}",
        # Each letter of one with each of another.
        "{{ (" + LONG + ") | trim('y' * 4000000 ~ 'x') }}",
        "{{ (" + LONG + ").strip('y' * 4000000 ~ 'x') }}",
        "{{ (" + LONG + ").lstrip('y' * 4000000 ~ 'x') }}",
        "{{ (" + LONG + ").rstrip('y' * 4000000 ~ 'x') }}",
        "{{ (" + LONG + ").rfind(" + NEEDLE + ") }}",
        "{{ (" + LONG + ").rindex(" + NEEDLE + ") }}",
        "{{ (" + LONG + ").rsplit(" + NEEDLE + ") }}",
        "{{ (" + LONG + ").rpartition(" + NEEDLE + ") }}",
        "{{ (" + LONG + ") | wordwrap(1) }}",
        "{{ (" + LONG + ") | wordwrap }}",
        "{{ ('\n' * 8000000) | wordwrap }}",
        "{{ ('x\v' * 4000000) | wordwrap }}",
        "{{ ('x ' * 4000000) | wordwrap(1) }}",
        "{{ ('a-' * 4000000) | wordwrap(1) }}",
        "{{ ('x ' * 4000000) | title }}",
        # Texts that are made of what does not look like one.
        "{{ ([" + LONG + "] * 1000) is lower }}",
        "{{ ([" + LONG + "] * 1000) is upper }}",
        "{{ dict(a=[" + LONG + "] * 1000).items() | string }}",
        "{{ dict(a=[" + LONG + "] * 1000).values() ~ '' }}",
        "{{ ([{'a': " + LONG + "}] * 1000) | map(attribute='a') | join }}",
        "{{ ([{'a': " + LONG + "}] * 1000) | join(attribute='a') }}",
        "{{ ''.join(([{'a': " + LONG + "}] * 1000) | map(attribute='a')) }}",
        "{{ (" + LONG + ") | b64encode }}",
        "{{ ('ab ' * 2700000).split() }}",
        "{{ ('ab ' * 2700000).rsplit(' ') }}",
        "{{ ('ab\n' * 2700000).splitlines() }}",
        "{{ (" + LONG + ") | list }}",
        # Patterns of times are compiled.
        "{{ '2026' | to_datetime('%Y' ~ 'x' * 8000000) }}",
        "{{ '2026' | to_datetime(' a' * 1000000) }}",
        "{{ ('2' * 8000000) | to_datetime }}",
    ],
)  # fmt: skip
def test_what_would_be_too_much(text: str) -> None:
    assert refused(text).type == "LimitExceeded"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("range(1000000) | sort(reverse=true) | first", 999_999),
        ("rows | sort(attribute='name') | map(attribute='id') | first", 0),
        ("rows | groupby('id') | length", 20_000),
        ("rows | map(attribute='name') | unique | list | length", 20_000),
        ("rows | map(attribute='id') | max", 19_999),
        ("rows | selectattr('name', 'in', ['n1', 'n2']) | map(attribute='id') | list", [1, 2]),
        ("rows | selectattr('id', 'in', [5, 6]) | map(attribute='name') | join(' ')", "n5 n6"),
        ("rows | join(',', attribute='id') | length", 108_889),
        ("(rows | tojson | fromjson) == rows", True),
        ("(rows * 10) | length", 200_000),
        ("('\"' ~ 'a, ' * 300000 ~ '\"') | fromjson | length", 900_000),
        ("('ab ' * 300000).split() | length", 300_000),
        ("('a/b/c').rsplit('/', 1)", ["a/b", "c"]),
        ("('a b c').split(none, 1)", ["a", "b c"]),
        ("('a b c').split()", ["a", "b", "c"]),
        ("('x' * 100000) | wordwrap(76) | length", 101_315),
        ("text | wordwrap(100000) | length", 1_000_009),
        ("('a b ' * 100000) | wordwrap(40) | length", 399_999),
        ("'99999' in object and 'x' not in object", True),
        ("object.items() | sort | first", ["0", 0]),
        ("text[1:] | length", 999_999),
        ("'  a ' | trim", "a"),
        ("'--a-' | trim('-')", "a"),
        ("[3, 1, 2] | sort | join", "123"),
        ("['b', 'A'] | sort(case_sensitive=true) | join", "Ab"),
        ("{'b': 1, 'a': 2} | dictsort(by='value') | map('first') | join", "ba"),
        ("['a', 'A', 'b'] | unique | list", ["a", "b"]),
        ("[1, 'a', none] | join('-')", "1-a-None"),
        ("'A' is upper and 'a' is lower and 5 is not lower", True),
        ("'<b>x</b>' | striptags", "x"),
    ],
)
def test_what_is_not(expression: str, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # It is not to depend on how busy the machine is.
    monkeypatch.setattr(budget, "CPU_SECONDS", 60.0)
    assert parse_template("{{ " + expression + " }}").evaluate(NAMES.__getitem__) == expected


def test_an_object_finds_a_key_without_a_search() -> None:
    text = "{% for n in range(50000) %}{% if n in object %}x{% endif %}{% endfor %}"
    assert parse_template(text).evaluate(NAMES.__getitem__) == ""


@pytest.mark.parametrize(("seconds", "fits"), [(0.9, True), (1.1, False)])
def test_what_is_done_again_must_fit_as_well(
    seconds: float, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(budget, "time", SimpleNamespace(thread_time=lambda: clock[0]))
    budget.start_budget()
    with nullcontext() if fits else pytest.raises(budget.LimitExceeded), budget.rehearsed():
        clock[0] += seconds


def test_what_is_said_of_a_failure_is_short() -> None:
    error = refused("{{ ('x' * 8000000) | filesizeformat }}")
    assert (error.type, len(error.message)) == ("TemplateError", MAX_MESSAGE)


def test_evaluations_that_share_a_budget_share_what_they_use() -> None:
    # A text is charged for when it is made and when it is handed out.
    part = parse_template("{{ 'x' * " + str(BUDGET // 17) + " }}")
    with shared_budget():
        for _ in range(8):
            part.evaluate(NAMES.__getitem__)
        with pytest.raises(EvaluationError, match="too much data"), shared_budget():
            part.evaluate(NAMES.__getitem__)
    part.evaluate(NAMES.__getitem__)


def test_evaluations_that_share_a_budget_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SHARED_SECONDS", 0.1)
    with pytest.raises(EvaluationError, match=r"together take more than 0\.1 s"), shared_budget():
        for _ in range(10_000):
            parse_template("{{ range(10000) | sum }}").evaluate(NAMES.__getitem__)
    parse_template("{{ range(1000000) | sum }}").evaluate(NAMES.__getitem__)


MANY = {f"n{n}": "{{ 'x' * 8000000 }}" for n in range(100)}


def test_the_parameters_of_an_action_share_a_budget() -> None:
    with pytest.raises(ActionError) as caught:
        perform("set", set=MANY)
    assert caught.value.type == "LimitExceeded"
    with pytest.raises(ActionError) as caught:
        render(MANY, None, NAMES.__getitem__)
    assert caught.value.type == "LimitExceeded"
    with pytest.raises(ActionError) as caught:
        perform("log", message="x", level="{{ 'x' * 8000000 }}", fields=MANY)
    assert caught.value.type == "LimitExceeded"


def begun(text: str, given: dict[str, Any] | None = None, **options: Any) -> Any:
    plan = compiled(f"name: x\n{text}\nsteps: [{{name: a, run: [{{action: log, message: ok}}]}}]")
    return new_run(plan.header, plan.hash, given or {}, now=1.0, **options)[0]


def too_long(text: str, given: dict[str, Any] | None = None, **options: Any) -> str:
    with pytest.raises(RejectedError) as caught:
        begun(text, given, **options)
    assert caught.value.reason == "invalid_input"
    return str(caught.value.details["inputs"][0]["name"])


LARGE = "{{ 'x' * 400000 }}"


def test_environment_and_variables_have_one_room() -> None:
    run = begun(f'environment: {{a: "{LARGE}"}}\nvariables: {{b: "{LARGE}"}}')
    assert (len(run.environment["a"]), len(run.variables["b"])) == (400_000, 400_000)
    assert too_long(f'environment: {{a: "{LARGE}", b: "{LARGE}", c: "{LARGE}"}}') == "environment.c"
    assert too_long(f'environment: {{a: ["{LARGE}", {{b: "{LARGE}"}}, "{LARGE}"]}}') == "environment.a"
    assert (
        too_long(f'environment: {{a: "{LARGE}", b: "{LARGE}"}}\nvariables: {{c: "{LARGE}"}}') == "variables.c"
    )
    given = {"c": "x" * 400_000}
    assert (
        too_long(f'environment: {{a: "{LARGE}", b: "{LARGE}"}}\nvariables: {{c: 1}}', variables=given)
        == "variables.c"
    )


def test_what_is_referred_to_counts_as_often_as_it_is() -> None:
    given = {"x": [0] * (MAX_HELD // 10)}
    entries = ", ".join(f'n{n}: "{{{{ x }}}}"' for n in range(10))
    assert too_long(f"input: {{x: array}}\nenvironment: {{{entries}}}", given) == "environment.n5"


def test_corrected_input_has_no_more_room() -> None:
    text = "input: {n: integer}\nenvironment: {a: \"{{ 'x' * n }}\"}"
    plan = compiled(f"name: x\n{text}\nsteps: [{{name: a, run: [{{action: log, message: ok}}]}}]")
    run = begun(text, {"n": 1})
    with pytest.raises(RejectedError) as caught:
        corrected(plan.header, run, {"n": MAX_HELD + 1})
    assert caught.value.reason == "invalid_input"


def test_filling_in_has_one_budget() -> None:
    entries = ", ".join(f'n{n}: "{{{{ range(1000000) | list | length }}}}"' for n in range(10))
    with pytest.raises(RejectedError, match="too much data") as caught:
        begun(f"environment: {{{entries}}}")
    assert caught.value.reason == "invalid_input"
