"""`debounce` of playbooks: how it is written, what is reported, and what the plan has of it."""

from __future__ import annotations

import json

import pytest
from jsonschema_rs import Draft202012Validator

from noetl.executor.actions import catalogue
from noetl.planner.debounce import Debounce
from noetl.planner.draw import text as text_drawing
from noetl.planner.plan import Header
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.testing.run_harness import compile_text
from tests.planner.findings import OK, findings, messages

HEAD = "input: {order: integer}\nenvironment: {region: eu}\n"


def written(value: str) -> str:
    """Return a playbook of one step with this `debounce`."""
    return f"{HEAD}debounce: {value}\nsteps:\n- {{name: a, run: [{OK}]}}\n"


FORMS = [
    ("{wait: 30s}", Debounce(30.0, 300.0)),
    ("{wait: 30, max: 1m}", Debounce(30.0, 60.0)),
    ("{wait: 1s, max: 1s, key: '{{ input.order }}'}", Debounce(1.0, 1.0, "{{ input.order }}")),
    (
        "{wait: 1h, max: 30d, key: '{{ order }} {{ environment.region }}'}",
        Debounce(3600.0, 2_592_000.0, "{{ order }} {{ environment.region }}"),
    ),
]


@pytest.mark.parametrize(("value", "debounce"), FORMS)
def test_all_forms_are_lowered_and_kept(value: str, debounce: Debounce) -> None:
    header = compile_text(written(value)).header
    assert header.debounce == debounce
    assert Header.from_json(json.loads(json.dumps(header.to_json()))) == header


def test_a_plan_without_debounce_has_nothing_of_it() -> None:
    assert "debounce" not in compile_text(f"steps: [{{name: a, run: [{OK}]}}]").header.to_json()


WRONG = [
    ("30s", [("NP012", "30s")]),
    ("{}", [("NP011", "debounce")]),
    ("{key: '{{ input.order }}'}", [("NP011", "debounce")]),
    ("{wait: soon}", [("NP012", "soon")]),
    ("{wait: 0s}", [("NP012", "0s")]),
    ("{wait: 31d}", [("NP012", "31d")]),
    ("{wait: 30s, max: 29s}", [("NP012", "29s")]),
    ("{wait: 30s, key: order}", [("NP407", "order")]),
    ("{wait: 30s, key: the order}", [("NP407", "the order")]),
    ("{wait: 30s, key: '{{ run.id }}'}", [("NP301", "run")]),
    ("{wait: 30s, key: '{{ now() }}'}", [("NP301", "now")]),
    ("{wait: 30s, key: '{{ result.data }}'}", [("NP301", "result")]),
    ("{wait: 30s, key: '{{ input.ordre }}'}", [("NP301", "ordre")]),
    ("{wait: 30s, key: '{{ secrets.A }}'}", [("NP406", "secrets")]),
    ("{delay: 30s}", [("NP011", "debounce"), ("NP010", "delay")]),
]


@pytest.mark.parametrize(("value", "found"), WRONG)
def test_what_is_wrong_is_reported(value: str, found: list[tuple[str, str]]) -> None:
    assert sorted(findings(written(value))) == sorted(found)


def test_the_messages_name_the_bounds() -> None:
    assert messages(written("{wait: 0s, max: 31d}")) == [
        "`wait` must be a duration from 1 second to 30 days, not `0s`",
        "`max` must be a duration from 1 second to 30 days, not `31d`",
    ]
    assert messages(written("{wait: 2m, max: 1m}")) == ["`max` must not be shorter than `wait`"]


def test_the_schema_accepts_it() -> None:
    validator = Draft202012Validator(build_json_schema(catalogue()))
    play = {"name": "play", "steps": [{"name": "a", "run": [{"action": "log", "message": "x"}]}]}
    assert validator.is_valid(play | {"debounce": {"wait": "30s", "max": 90, "key": "{{ order }}"}})
    assert not validator.is_valid(play | {"debounce": {"max": "30s"}})


def test_a_drawing_names_it() -> None:
    plan = compile_text(written("{wait: 30s, key: '{{ input.order }}'}"))
    first = text_drawing.draw(plan, catalogue()).splitlines()[0]
    assert first.endswith("runs: debounce 30 s, at most 300 s, for each input.order")
