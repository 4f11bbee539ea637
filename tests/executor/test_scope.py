from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.engine.scope import Scope
from noetl.executor.model.outcome import Outcome, error_record
from noetl.executor.model.run import Run, RunStatus, Visit, VisitStatus
from noetl.planner.templates.template import EvaluationError, parse_template

RUN = Run(
    "r1",
    "default",
    "play",
    "2",
    "hash",
    RunStatus.RUNNING,
    "local",
    "r1",
    input={"i": "input", "a": "input"},
    environment={"e": "environment", "i": "environment"},
    variables={"v": "variable", "i": "variable"},
    tags=(),
    folder=None,
    created_at=5.0,
    started_at=10.0,
)
VISIT = Visit("v1", "r1", "s", VisitStatus.RUNNING, 1, {}, number=3, attempt=2, segment_started_at=20.0)
ERROR = error_record(VISIT, "Failed", "no")


def scope(**fields: Any) -> Scope:
    return Scope(RUN, VISIT, **fields)


def value(scope: Scope, expression: str, position: str = "run.0", **options: Any) -> Any:
    return parse_template("{{ " + expression + " }}").evaluate(scope.lookup(position, **options))


def test_names_are_resolved_in_order() -> None:
    known = scope(loaded={"v": "loaded", "l": "loaded"}, saved={"l": "saved"})
    expected = {"l": "saved", "v": "loaded", "i": "variable", "a": "input", "e": "environment"}
    assert {name: value(known, name) for name in expected} == expected
    assert value(scope(), "input.i ~ environment.i") == "inputenvironment"


def test_an_unknown_name_has_no_value() -> None:
    with pytest.raises(EvaluationError, match="`x` is undefined"):
        value(scope(), "x")
    assert value(scope(), "x | default(1)") == 1


@pytest.mark.parametrize("name", ["result", "args"])
def test_some_built_in_names_are_known_only_in_some_places(name: str) -> None:
    with pytest.raises(EvaluationError, match=f"`{name}` is undefined"):
        value(scope(), name)


def test_built_in_names_hide_saved_names() -> None:
    assert value(scope(saved={"input": 1, "run": 1, "step": 1}), "[input.i, run.id, step.name]") == [
        "input",
        "r1",
        "s",
    ]


def test_run_and_step_have_their_attributes() -> None:
    run = {"id": "r1", "started_at": "1970-01-01T00:00:10.000000Z", "playbook": "play", "version": "2"}
    assert value(scope(), "run") == run | {"trigger": None}
    step = value(scope(), "step")
    assert (step["name"], step["visit"], step["attempt"]) == ("s", 3, 2)
    assert step["idempotency_key"] == scope().idempotency_key("run.0")


def test_the_outcome_is_known_after_the_work() -> None:
    before = scope(saved={"x": 1, "y": 1})
    after = before.with_outcome(Outcome(False, None, ERROR, "http", saved={"y": 2}))
    found = value(after, "[result.success, result.error.type, error.message, result.action, y, x is defined]")
    assert found == [False, "Failed", "no", "http", 2, False]
    assert value(before, "[error, x, y]") == [None, 1, 1]


def test_a_forgiven_failure_sets_no_error() -> None:
    after = scope().with_outcome(Outcome(False, None, ERROR, "http", forgiven=True))
    assert value(after, "[result.success, result.error.type, error]") == [False, "Failed", None]


def test_the_error_of_an_attempt_is_known_in_its_retry_condition() -> None:
    assert value(scope(), "error.type", error=ERROR) == "Failed"


def test_args_are_known_in_a_task() -> None:
    assert value(scope(args={"x": 1}), "args.x") == 1


def test_a_copy_has_its_own_saved_names() -> None:
    first = scope(saved={"x": 1})
    second = first.copy()
    second.saved["x"] = 2
    assert value(first, "x") == 1


def test_now_is_the_start_of_the_segment() -> None:
    assert value(scope(), "now()") == "1970-01-01T00:00:20+00:00"


def test_uuids_are_derived_from_their_position() -> None:
    first = value(scope(), "[uuid(), uuid()]")
    assert first == value(scope(), "[uuid(), uuid()]")
    later = [
        value(scope(), "[uuid(), uuid()]", "run.1"),
        value(Scope(RUN, replace(VISIT, attempt=3)), "[uuid(), uuid()]"),
        value(Scope(RUN, replace(VISIT, id="v2")), "[uuid(), uuid()]"),
        value(Scope(RUN, replace(VISIT, run_id="r2")), "[uuid(), uuid()]"),
    ]
    assert len({uuid for pair in [first, *later] for uuid in pair}) == 10
    assert all(uuid[14] == "4" for uuid in first)


def test_uuids_of_one_position_differ_between_calls() -> None:
    lookup = scope().lookup("run.0")
    assert parse_template("{{ uuid() }}").evaluate(lookup) != parse_template("{{ uuid() }}").evaluate(lookup)


def test_idempotency_keys_are_derived_from_their_position() -> None:
    key = scope().idempotency_key("run.0")
    assert key == Scope(RUN, replace(VISIT, attempt=9)).idempotency_key("run.0")
    later = [
        scope().idempotency_key("run.1"),
        Scope(RUN, replace(VISIT, id="v2")).idempotency_key("run.0"),
        Scope(replace(RUN, id="r2"), VISIT).idempotency_key("run.0"),
    ]
    assert len({key, *later}) == 4
