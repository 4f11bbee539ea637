"""Suspensions and cancellations are returned through every kind of work. None of them is raised."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

import noetl.executor.engine
from noetl.executor.actions import handler
from noetl.executor.actions.action import Call, Suspend
from noetl.executor.engine.perform import perform
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import WorkContext
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.outcome import CANCELLED, WorkResult, WorkSuspension, combine_suspensions
from noetl.executor.model.run import NEVER
from noetl.planner.plan import Action, Loop, Retry, Task, TaskCall, Work
from tests.executor.fake_handler import (
    RUN,
    VISIT,
    FakeHandler,
    failure_of,
    fake_action,
    outcome_of,
    work_context,
)

ENGINE = Path(noetl.executor.engine.__file__).parent
TASKS = {
    "task": Task((fake_action(), fake_action())),
    "parallel": Task((fake_action(), fake_action()), parallel=True),
}
every_kind_of_work = pytest.mark.parametrize(
    "work",
    [
        [fake_action()],
        [Action("log", {"message": "first"}), fake_action()],
        [TaskCall("task", {})],
        [TaskCall("parallel", {})],
        [fake_action(loop=Loop([1, 2, 3]))],
        [fake_action(loop=Loop([1, 2, 3], concurrency=3))],
        [fake_action(loop=Loop([1, 2, 3], batch=2))],
        [TaskCall("parallel", {}, loop=Loop([1, 2], concurrency=2))],
        [fake_action(forgiven=True)],
    ],
    ids=[
        "action",
        "second action",
        "task",
        "parallel task",
        "loop",
        "concurrent loop",
        "batch",
        "parallel task in a loop",
        "forgiven",
    ],
)


def result_of(
    work: Sequence[Work], context: WorkContext | None = None, *, parallel: bool = False
) -> WorkResult:
    return perform(context or work_context(TASKS), work, Scope(RUN, VISIT), "run", parallel=parallel)


class TestCancellationsOfWork:
    @every_kind_of_work
    @pytest.mark.parametrize("parallel", [False, True], ids=["in order", "in parallel"])
    def test_work_does_not_start_after_a_cancellation(
        self, probe: FakeHandler, work: list[Work], parallel: bool
    ) -> None:
        context = work_context(TASKS)
        context.cancelled.set()
        assert result_of(work, context, parallel=parallel) is CANCELLED
        assert probe.calls == []

    @every_kind_of_work
    @pytest.mark.parametrize("parallel", [False, True], ids=["in order", "in parallel"])
    def test_a_cancellation_noticed_by_a_handler_ends_the_work(
        self, probe: FakeHandler, work: list[Work], parallel: bool
    ) -> None:
        """A handler notices it in `call.remaining_seconds()`."""
        probe.answers = [CancelledError()] * 9
        assert result_of(work, parallel=parallel) is CANCELLED

    def test_a_failure_next_to_a_cancellation_does_not_count(self, probe: FakeHandler) -> None:
        probe.answers = [CancelledError()]
        assert result_of([fake_action(), Action("fail", {"message": "no"})], parallel=True) is CANCELLED

    def test_a_suspension_next_to_a_cancellation_does_not_count(self, probe: FakeHandler) -> None:
        probe.answers = [Suspend({}), CancelledError(), Suspend({})]
        assert result_of([fake_action(loop=Loop([1, 2, 3], concurrency=3))]) is CANCELLED

    def test_a_cancellation_during_the_delay_before_a_retry_ends_the_work(
        self, probe: FakeHandler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = work_context()
        monkeypatch.setattr(context.cancelled, "wait", lambda _: True)
        probe.answers = [ActionError("Custom", "no"), "yes"]
        assert result_of([fake_action(retry=Retry(3, 1.0))], context) is CANCELLED
        assert len(probe.calls) == 1


class TestSuspensionsOfWork:
    @every_kind_of_work
    def test_the_first_wait_of_each_kind_of_work_is_returned(
        self, probe: FakeHandler, work: list[Work]
    ) -> None:
        probe.answers = [Suspend({"n": 1}, 9.0, "w1")] * 9
        result = result_of(work)
        assert isinstance(result, WorkSuspension)
        assert (result.due_at, set(result.awaits), result.actions) == (9.0, {"w1"}, ("probe",))
        assert [entry for entry in result.journal.values() if entry.get("memory") == {"n": 1}]

    def test_entries_are_added_from_the_inside_out(self, probe: FakeHandler) -> None:
        probe.answers = ["first", Suspend({"n": 1})]
        result = result_of([TaskCall("task", {"x": 1})])
        assert isinstance(result, WorkSuspension)
        assert list(result.journal) == ["run.0/task.1", "run.0/task", "run"]
        assert list(result.journal["run.0/task"]) == ["at", "args"]

    def test_a_suspension_is_not_changed_by_the_work_around_it(self) -> None:
        inner = WorkSuspension({"run.0": {"state": 1}})
        outer = combine_suspensions({"run#0": {}}, [inner.with_entry("run", {"at": 0})], 5)
        assert (dict(inner.journal), inner.reserved, outer.reserved) == ({"run.0": {"state": 1}}, 0, 5)
        assert list(outer.journal) == ["run#0", "run.0", "run"]

    def test_parallel_work_is_due_when_the_first_item_is(self) -> None:
        items = [
            WorkSuspension({}, 9.0, ("w1",), actions=("wait",)),
            WorkSuspension({}, 7.0, ("w2",), actions=("wait",)),
        ]
        found = combine_suspensions({}, items, 0)
        assert (found.due_at, found.awaits, found.actions) == (7.0, ("w1", "w2"), ("wait",))
        assert combine_suspensions({}, [], 0).due_at == NEVER


class TestNestedActions:
    """Actions that are parameters, such as `notify` of `callback`."""

    @pytest.fixture
    def outer(self, probe: FakeHandler, monkeypatch: pytest.MonkeyPatch) -> Action:
        """An action whose handler performs the action `probe`."""
        nested = fake_action("x").to_json()

        def perform_nested(call: Call) -> object:
            assert call.perform_action is not None
            return call.perform_action(nested, {})

        monkeypatch.setattr(
            "noetl.executor.engine.attempts.handler",
            lambda name: perform_nested if name == "log" else handler(name),
        )
        return Action("log", {"message": "m"}, retry=Retry(2, 1.0))

    def test_a_nested_action_returns_its_data(self, probe: FakeHandler, outer: Action) -> None:
        assert outcome_of(outer).data == "x"

    def test_the_failure_of_a_nested_action_is_that_of_the_action_around_it(
        self, probe: FakeHandler, outer: Action
    ) -> None:
        probe.answers = [ActionError("Custom", "no", retryable=False, status=404, details={"a": 1})]
        found = outcome_of(outer)
        assert failure_of(found) == ("Custom", "no")
        assert found.error is not None
        assert (found.error["status"], found.error["details"], found.error["action"]) == (
            404,
            {"a": 1},
            "log",
        )
        assert len(probe.calls) == 1

    def test_a_nested_action_that_waits_is_a_failure(self, probe: FakeHandler, outer: Action) -> None:
        probe.answers = [Suspend({})]
        assert failure_of(outcome_of(outer)) == ("ParameterError", "`probe` cannot wait here")

    def test_a_cancellation_passes_through_the_action_around_it(
        self, probe: FakeHandler, outer: Action
    ) -> None:
        probe.answers = [CancelledError()]
        assert result_of([outer]) is CANCELLED


def test_above_an_attempt_one_place_makes_a_stopped_evaluation_a_value() -> None:
    """Above one attempt, waiting and cancelling are values. `until_stopped` returns that of an evaluation.

    The delivery of a notification is an attempt of its own.
    """
    caught = {
        (name.id, path.name)
        for path in sorted(ENGINE.glob("*.py"))
        for handler in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(handler, ast.ExceptHandler) and handler.type is not None
        for name in ast.walk(handler.type)
        if isinstance(name, ast.Name) and name.id in ("Suspend", "CancelledError")
    }
    places = ("attempts.py", "delivery.py", "work_context.py")
    assert caught == {("Suspend", "attempts.py"), *(("CancelledError", name) for name in places)}
