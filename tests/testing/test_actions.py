"""The tester of action types finds handlers that break their declaration, and fakes what they call."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.actions import catalogue, handler, temporary_types
from noetl.executor.actions.action import Suspend
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.run import RunStatus
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.testing.actions import ActionTester, DeclarationError, ScriptedAction
from tests.style.source import PACKAGES, load_repository

PARAMETERS = {
    "names": Parameter((Kind.OBJECT,), "Names with their values.", must_be_literal=True),
    "value": Parameter((Kind.ANY,), "A value."),
    "key": Parameter((Kind.ANY,), "A key.", secrets=True),
}
DECLARATION = ActionDeclaration("toy", "Is tested.", PARAMETERS)


def make_tester(*answers: Any, **declared: Any) -> ActionTester:
    return ActionTester(ScriptedAction(replace(DECLARATION, **declared), *answers))


@pytest.mark.parametrize(
    ("answer", "declared", "problem"),
    [
        (ActionError("Custom", "no"), {"cannot_fail": True}, "fails despite `cannot_fail`"),
        (1, {"never_succeeds": True}, "succeeds despite `never_succeeds`"),
        (Suspend({}), {}, "suspends without `suspends`"),
        ({1, 2}, {}, "returned {1, 2}"),
        (float("nan"), {}, "returned nan"),
        ({"a": 1}, {"result": {"b": Kind.INTEGER}}, r"not the keys \['b'\]"),
        ({"a": "1"}, {"result": {"a": Kind.INTEGER}}, "returned '1' as `a`, not integer"),
        ({"a": 1}, {"saves": "names"}, "must have a value for `b`"),
    ],
)
def test_a_handler_that_breaks_its_declaration_is_found(
    answer: Any, declared: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DeclarationError, match=problem):
        make_tester(answer, **declared).perform({"names": {"b": 1}})


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"one_of": ("names", "other")}, "there is no parameter `other`"),
        ({"saves": "other"}, "there is no parameter `other`"),
        ({"saves": "value"}, "`value` must be literal"),
        ({"error_type": "value"}, "needs `never_succeeds`"),
        ({"cannot_fail": True, "never_succeeds": True}, "exclude each other"),
        ({"awaits": "an answer"}, "need `suspends`"),
        ({"summary": lambda parameters: parameters["value"]}, r"`summary` raises KeyError\('value'\) for {}"),
        (
            {"idempotent_when": lambda parameters: "x" in parameters.get("value", "")},
            "`idempotent_when` raises",
        ),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(declared: dict[str, Any], problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        make_tester(**declared)


def test_no_module_of_the_product_imports_the_helpers_for_tests() -> None:
    product = [
        file for file in load_repository().python(*PACKAGES) if not file.path.startswith("noetl/testing/")
    ]
    assert len(product) > 200
    imports = re.compile(r"^\s*(from|import) noetl\.testing\b", re.MULTILINE)
    assert [file.path for file in product if imports.search(file.text)] == []


def test_a_failure_and_a_cancellation_reach_the_test() -> None:
    tester = make_tester(ActionError("Custom", "no"), CancelledError())
    with pytest.raises(ActionError, match="no"):
        tester.perform({})
    with pytest.raises(CancelledError):
        tester.perform({})


def test_a_call_has_what_the_engine_gives_to_handlers() -> None:
    script = ScriptedAction(DECLARATION)
    tester = ActionTester(script, secrets={"KEY": "correct-horse"}, timeout_seconds=5, idempotency_key="k")
    tester.perform({"value": "{{ a + 1 }}", "key": "{{ secrets.KEY }}"}, {"a": 1})
    (call,) = script.calls
    assert call.parameters == {"value": 2, "key": "correct-horse"}
    assert (call.idempotency_key, call.now, call.state, call.timeout_seconds) == ("k", tester.now, None, 5)
    assert 0 < call.remaining_seconds() <= 5


def test_a_parameter_without_a_value_fails_as_in_a_run() -> None:
    with pytest.raises(ActionError, match="`value`") as caught:
        make_tester().perform({"value": "{{ missing }}"})
    assert caught.value.type == "UndefinedName"


def test_wrong_parameters_have_the_diagnostics_of_a_playbook() -> None:
    tester = make_tester()
    assert tester.check({"value": 1}) == ()
    assert [(d.code, d.message) for d in tester.check({"valu": 1})] == [
        ("NP502", "unknown parameter `valu` of `toy`")
    ]


def test_time_passes_when_a_suspended_action_is_resumed() -> None:
    tester = ActionTester("wait")
    with pytest.raises(Suspend):
        tester.perform({"seconds": 60})
    with pytest.raises(Suspend):
        tester.resume(59)
    assert tester.resume(1) is None


def test_an_answer_ends_the_wait_of_a_callback() -> None:
    tester = ActionTester("callback")
    with pytest.raises(Suspend):
        tester.perform({"notify": {"action": "log", "message": "{{ callback.url }}"}})
    ((_, names),) = tester.nested.performed
    assert names["callback"]["token"] == "token-wait-1"
    tester.waits.answer({"approved": True}, answered_at=tester.now)
    assert tester.resume(5) == {"approved": True}


def test_the_end_of_a_child_run_ends_its_wait() -> None:
    tester = ActionTester("workflow")
    with pytest.raises(Suspend):
        tester.perform({"playbook": "child", "input": {"a": 1}})
    (child,) = tester.waits.runs.values()
    assert (child.playbook, child.input) == ("child", {"a": 1})
    tester.waits.end_run({"b": 2})
    assert tester.resume() == {"b": 2}


def test_the_failure_of_a_child_run_fails_its_wait() -> None:
    tester = ActionTester("workflow")
    with pytest.raises(Suspend):
        tester.perform({"playbook": "child"})
    tester.waits.end_run(status=RunStatus.CANCELLED)
    with pytest.raises(ActionError, match="child"):
        tester.resume()


def test_a_run_ends_although_it_waits_and_retries() -> None:
    tester = make_tester(ActionError("Custom", "no"), "yes")
    finished = tester.run(
        """
        name: slow
        steps:
          - name: only
            run:
              - {action: wait, seconds: 1h}
              - {action: toy, retry: {attempts: 2, delay: 1h}, as: answer}
        output: {answer: "{{ answer }}"}
        """
    )
    assert (finished.status, finished.result) == (RunStatus.SUCCEEDED, {"answer": "yes"})
    assert finished.event_types().count("action.retrying") == 1


@pytest.mark.parametrize("answer", [{}, None, {"other": 1}])
def test_a_result_without_a_saved_name_fails_the_run(answer: Any) -> None:
    text = "name: wrong\nsteps: [{name: only, run: [{action: toy, names: {x: 1}}]}]"
    (error,) = make_tester(answer, saves="names").run(text).run.errors
    assert error["message"] == "the handler of `toy` raised: its result must have a value for `x`"


def test_only_the_names_that_a_playbook_lists_are_saved() -> None:
    text = "name: right\nsteps: [{name: only, run: [{action: toy, names: {x: 1}}]}]"
    assert make_tester({"x": 2, "y": 3}, saves="names").run(text).result == {"x": 2}


def test_a_run_that_waits_for_an_answer_does_not_hang() -> None:
    text = "name: stuck\nsteps: [{name: only, run: [{action: callback}]}]"
    with pytest.raises(AssertionError, match="the run is stuck"):
        make_tester().run(text)


def test_a_playbook_with_errors_is_not_run() -> None:
    with pytest.raises(AssertionError, match="unknown action type `toys`"):
        make_tester().run("name: wrong\nsteps: [{name: only, run: [{action: toys}]}]")


def test_a_type_exists_only_within_the_block() -> None:
    script = ScriptedAction(replace(DECLARATION, type="http"), "fake")
    real = catalogue()["http"]
    with temporary_types(script):
        assert catalogue()["http"] is script.DECLARATION
        with temporary_types(ScriptedAction(DECLARATION)):
            assert {"toy", "http"} <= catalogue().keys()
        assert "toy" not in catalogue()
        assert handler("http") == script.perform
    assert catalogue()["http"] is real
