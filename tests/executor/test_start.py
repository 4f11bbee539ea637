from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.engine.start import correct_input, new_run, new_run_from
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Run, RunStatus, VisitStatus
from noetl.executor.model.start_request import StartRequest
from noetl.planner.plan import Plan
from noetl.testing.run_harness import compile_text

STEPS = "\nsteps: [{name: a, run: [{action: log, message: ok}]}]"


def started(plan: Plan, given: dict[str, Any], *, now: float, **options: Any) -> Run:
    return new_run(plan.header, plan.hash, StartRequest(given, **options), now=now)[0]


def begun(text: str, given: dict[str, Any] | None = None, **options: Any) -> Run:
    return started(compile_text(text + STEPS), given or {}, now=100.0, **options)


def rejected(text: str, given: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    with pytest.raises(RejectedError) as found:
        begun(text, given, **options)
    assert found.value.reason == "invalid_input"
    inputs: list[dict[str, Any]] = found.value.details["inputs"]
    return inputs


def test_a_run_and_its_first_visit() -> None:
    plan = compile_text('name: x\nversion: "3"\ntimeout: 1m' + STEPS)
    run, visit = new_run(
        plan.header, plan.hash, StartRequest(tenant="t", origin="local", folder="/f", tags=["x"]), now=100.0
    )
    assert (run.tenant, run.playbook, run.version, run.plan_hash) == ("t", "x", "3", plan.hash)
    assert (run.status, run.origin, run.folder, run.tags) == (RunStatus.QUEUED, "local", "/f", ("x",))
    assert (run.created_at, run.started_at, run.deadline_at, run.live) == (100.0, None, 160.0, 1)
    assert (visit.run_id, visit.step, visit.status, visit.clock) == (run.id, "a", VisitStatus.READY, 1)
    assert new_run(plan.header, plan.hash, StartRequest(), now=100.0)[0].id != run.id


def test_a_run_without_a_timeout_has_no_deadline() -> None:
    assert begun("name: x").deadline_at is None


@pytest.mark.parametrize(
    ("type", "good", "bad"),
    [
        ("string", ["", "x"], [1, None, True, [], {}]),
        ("integer", [0, -1, 2**70], [1.5, "1", True, None]),
        ("number", [0, 1.5], ["1", False, None]),
        ("boolean", [True, False], [0, 1, "true", None]),
        ("object", [{}, {"a": 1}], [[], "x", None]),
        ("array", [[], [1]], [{}, "x", None]),
        ("any", [None, 1, "x", [], {}, True], []),
    ],
)
def test_inputs_of_the_wrong_type_are_rejected(type: str, good: list[Any], bad: list[Any]) -> None:
    text = f"input: {{x: {type}}}"
    for value in good:
        assert begun(text, {"x": value}).input == {"x": value}
    for value in bad:
        (problem,) = rejected(text, {"x": value})
        assert (problem["name"], problem["line"]) == ("x", 2)
        assert f"input `x` must be of type {type}" in problem["message"]


def test_missing_inputs_have_their_defaults() -> None:
    text = "input: {a: {default: 1}, b: {default: null}, c: {type: string, default: x, enum: [x, y]}}"
    assert begun(text).input == {"a": 1, "b": None, "c": "x"}
    assert begun(text, {"a": 2, "c": "y"}).input == {"a": 2, "b": None, "c": "y"}


def test_inputs_outside_of_their_enum_are_rejected() -> None:
    (problem,) = rejected("input: {c: {enum: [x, 1]}}", {"c": "z"})
    assert problem["message"] == "input `c` must be `x` or 1, not `z`"


def test_all_invalid_inputs_are_reported_together() -> None:
    problems = rejected("input:\n  a: string\n  b: integer", {"b": "x", "c": 1, "d": 2})
    assert [(problem["name"], problem["line"]) for problem in problems] == [
        ("a", 3),
        ("b", 4),
        ("c", None),
        ("d", None),
    ]
    assert problems[2]["message"] == "unknown input `c`: the playbook takes `a`, `b`"
    assert rejected("input: {}", {"x": 1})[0]["message"] == "unknown input `x`: the playbook takes none"


def test_a_missing_inferred_input_names_the_line_that_reads_it() -> None:
    text = "name: x\nsteps:\n- name: a\n  run:\n  - {action: log, message: '{{ who }}'}"
    with pytest.raises(RejectedError) as found:
        started(compile_text(text), {}, now=1.0)
    assert found.value.message == "missing input `who`: it is read on line 5"
    assert started(compile_text(text), {"who": [1]}, now=1.0).input == {"who": [1]}


def test_any_input_is_accepted_if_the_playbook_reads_input_as_a_whole() -> None:
    text = "name: x\nsteps: [{name: a, run: [{action: log, message: '{{ input }}'}]}]"
    assert started(compile_text(text), {"any": 1}, now=1.0).input == {"any": 1}


def test_environment_and_variables_are_rendered() -> None:
    text = """
input: {host: string}
environment: {url: "https://{{ host }}", deep: {list: ["{{ input.host }}", 1]}, at: "{{ run.started_at }}"}
variables: {first: "{{ url }}/{{ host }}", when: "{{ now() }}"}
"""
    run = begun(text, {"host": "h"})
    started_at = "1970-01-01T00:01:40.000000Z"
    assert run.environment == {"url": "https://h", "deep": {"list": ["h", 1]}, "at": started_at}
    assert run.variables == {"first": "https://h/h", "when": "1970-01-01T00:01:40+00:00"}


def test_a_run_names_the_trigger_that_has_started_it() -> None:
    """Show it to the environment, also after a correction, and to a run that continues this one."""
    trigger = {"name": "t", "type": "schedule", "scheduled_at": "2026-01-01T00:00:00Z"}
    plan = compile_text('input: {a: {default: 1}}\nenvironment: {e: "{{ run.trigger }}"}' + STEPS)
    run, _ = new_run(plan.header, plan.hash, StartRequest(trigger=trigger), now=1.0)
    assert (run.trigger, run.environment) == (trigger, {"e": trigger})
    assert correct_input(plan.header, run, {"a": 2})["environment"] == {"e": trigger}
    continued, _ = new_run_from(plan.header, run, {}, now=2.0)
    assert (continued.trigger, continued.environment) == (trigger, {"e": trigger})
    other, _ = new_run(plan.header, plan.hash, StartRequest(), now=1.0)
    assert (other.trigger, other.environment) == (None, {"e": None})


def test_an_environment_entry_without_a_value_is_rejected() -> None:
    (problem,) = rejected("input: {n: integer}\nenvironment: {x: '{{ 1 / n }}'}", {"n": 0})
    assert problem["name"] == "environment.x"
    assert problem["message"] == "`environment.x` has no value for this input: division by zero"


def test_given_variables_replace_initial_values() -> None:
    assert begun("variables: {a: 1, b: 2}", variables={"a": 5}).variables == {"a": 5, "b": 2}
    assert rejected("variables: {a: 1}", {}, variables={"c": 1})[0]["name"] == "c"


def test_corrected_input_renders_the_environment_again() -> None:
    plan: Plan = compile_text('input: {a: integer, b: {default: 1}}\nenvironment: {e: "{{ a }}"}' + STEPS)
    run, _ = new_run(plan.header, plan.hash, StartRequest({"a": 1}), now=1.0)
    assert correct_input(plan.header, run, {}) == {"input": {"a": 1, "b": 1}, "environment": {"e": 1}}
    assert correct_input(plan.header, run, {"a": 2}) == {"input": {"a": 2, "b": 1}, "environment": {"e": 2}}
    with pytest.raises(RejectedError):
        correct_input(plan.header, run, {"a": "x"})
    with pytest.raises(RejectedError):
        correct_input(plan.header, run, {"c": 1})
