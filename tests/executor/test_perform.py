from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import executor.perform
from executor.actions import catalogue
from executor.actions.action import Call
from executor.capabilities import for_local_run
from executor.errors import ActionError
from executor.perform import Performance
from executor.records import Run, RunStatus, Visit, VisitStatus
from executor.scope import Scope
from executor.tracing import trace_id
from executor.transition import Outcome
from planner.catalogue import ActionDeclaration, Catalogue, Kind, Parameter
from planner.plan import Action, Retry, Task, TaskCall, Work

RUN = Run("r1", "default", "p", None, "h", RunStatus.RUNNING, "local", "q", {}, {}, {}, (), None, 0.0)
VISIT = Visit("v1", "r1", "s", VisitStatus.RUNNING, 1, {})
PROBE = ActionDeclaration("probe", "What a test says.", {"say": Parameter((Kind.ANY,), "What to say.")})


class Probe:
    """An action type whose handler does what a test has queued for it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: list[Any] = []

    def __call__(self, call: Call) -> Any:
        self.calls.append(call)
        answer = self.answers.pop(0) if self.answers else call.parameters.get("say")
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    found, types, handler = Probe(), catalogue(), executor.perform.handler
    monkeypatch.setattr(executor.perform, "catalogue", lambda: Catalogue([*types.values(), PROBE]))
    monkeypatch.setattr(executor.perform, "handler", lambda name: found if name == "probe" else handler(name))
    yield found


def performance(
    tasks: dict[str, Task] | None = None, *, seconds: float = 60, waits: list[float] | None = None
) -> Performance:
    cancelled = Hasty([] if waits is None else waits)
    deadline = time.monotonic() + seconds
    capabilities = for_local_run(Path.cwd())
    return Performance(
        (tasks or {}).__getitem__, capabilities, deadline, lambda: 5.0, cancelled=cancelled, expires=deadline
    )


class Hasty(threading.Event):
    """An event that never comes, and that nobody waits for: it notes for how long they would have."""

    def __init__(self, waits: list[float]) -> None:
        super().__init__()
        self.waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        return False


def act(say: Any = None, **fields: Any) -> Action:
    return Action("probe", {"say": say}, **fields)


def outcome(*work: Work, scope: Scope | None = None, **options: Any) -> Outcome:
    return performance().run(work, scope or Scope(RUN, VISIT), "run", **options)


def failure(outcome: Outcome) -> tuple[str, str]:
    assert outcome.failed
    assert outcome.error is not None
    return outcome.error["type"], outcome.error["message"]


def test_nothing_to_do() -> None:
    assert outcome() == Outcome()


def test_a_call_has_all_around_it(probe: Probe) -> None:
    outcome(act("x"), scope=Scope(RUN, VISIT))
    (call,) = probe.calls
    assert call.parameters == {"say": "x"}
    assert call.idempotency_key == Scope(RUN, VISIT).idempotency_key("run.0")
    assert call.labels == {"run": "r1", "step": "s", "visit": 1, "trace": trace_id(RUN)}
    assert 0 < call.remaining_seconds() <= 60


def test_the_outcome_is_that_of_the_last_item(probe: Probe) -> None:
    found = outcome(act("one", save_as="a"), act("two", save_as="b"))
    assert found == Outcome(True, "two", None, "probe", saved={"a": "one", "b": "two"})


def test_later_items_see_earlier_ones(probe: Probe) -> None:
    outcome(act("one", save_as="a"), act("{{ a }} two"))
    assert probe.calls[1].parameters == {"say": "one two"}


def test_a_failure_ends_the_work(probe: Probe) -> None:
    probe.answers = [ActionError("Custom", "no", status=500, details={"a": 1})]
    found = outcome(act(), act())
    assert failure(found) == ("Custom", "no")
    assert found.error is not None
    assert (found.error["status"], found.error["details"], found.error["action"]) == (500, {"a": 1}, "probe")
    assert (found.saved, len(probe.calls)) == ({}, 1)


def test_a_forgiven_failure_does_not(probe: Probe) -> None:
    probe.answers = [ActionError("Custom", "no"), "two"]
    assert outcome(act(forgiven=True, save_as="a"), act(save_as="b")).saved == {"b": "two"}
    probe.answers = [ActionError("Custom", "no")]
    last = outcome(act(forgiven=True))
    assert (last.success, last.failed, last.forgiven) == (False, False, True)


def test_a_bug_of_a_handler_is_a_failure(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    probe.answers = [KeyError("x")]
    assert failure(outcome(act())) == ("KeyError", "the handler of `probe` raised: 'x'")
    assert "the handler of `probe` raised" in caplog.text


def test_the_death_of_a_worker_is_none(probe: Probe) -> None:
    probe.answers = [SystemExit()]
    with pytest.raises(SystemExit):
        outcome(act())


def test_parameters_that_cannot_be_rendered(probe: Probe) -> None:
    found = outcome(act("{{ x }}"))
    assert failure(found) == ("UndefinedName", "`say`: `x` has no value here")
    assert found.error is not None
    assert not found.error["retryable"]
    assert probe.calls == []


def test_conditions(probe: Probe) -> None:
    found = outcome(act("one", condition="{{ false }}", save_as="a"))
    assert found == Outcome(action="probe", skipped=True)
    assert outcome(act("one", condition="{{ 'False' }}", save_as="a")).saved == {"a": "one"}
    assert failure(outcome(act(condition="{{ x }}"))) == ("UndefinedName", "`if`: `x` has no value here")
    assert len(probe.calls) == 1


class TestRetries:
    def test_until_it_gets_better(self, probe: Probe) -> None:
        probe.answers = [ActionError("Custom", "no"), ActionError("Custom", "no"), "yes"]
        waits: list[float] = []
        performing = performance(waits=waits)
        found = performing.run([act(retry=Retry(4, 1.0, 3.0, jitter=False))], Scope(RUN, VISIT), "run")
        assert (found.data, waits) == ("yes", [1.0, 3.0])
        assert len({call.idempotency_key for call in probe.calls}) == 1
        events = performing.telling.rest(list)
        types = [event.type for event in events]
        assert types == ["action.started", "action.retrying"] * 2 + ["action.started", "action.completed"]
        assert events[1].payload["wait_seconds"] == 1.0

    @pytest.mark.parametrize(
        ("error", "retry"),
        [
            (ActionError("Custom", "no"), Retry(1)),
            (ActionError("Custom", "no", retryable=False), Retry(5)),
            (ActionError("Custom", "no"), Retry(5, 1000.0)),
            (ActionError("Custom", "no", status=400), Retry(5, condition="{{ error.status >= 500 }}")),
        ],
        ids=["used up", "cannot get better", "out of time", "unconditional"],
    )
    def test_no_longer(self, probe: Probe, error: ActionError, retry: Retry) -> None:
        probe.answers = [error]
        assert failure(outcome(act(retry=retry))) == ("Custom", "no")
        assert len(probe.calls) == 1

    def test_a_condition_that_has_no_value(self, probe: Probe) -> None:
        probe.answers = [ActionError("Custom", "no")]
        found = outcome(act(retry=Retry(5, condition="{{ error.status >= 500 }}")))
        assert failure(found) == ("Custom", "no")


class TestTimeouts:
    def test_no_time_is_left(self, probe: Probe) -> None:
        found = performance(seconds=-1).run([act()], Scope(RUN, VISIT), "run")
        assert failure(found) == ("Timeout", "the action ran out of time")
        assert probe.calls == []

    def test_the_shorter_time_counts(self, probe: Probe) -> None:
        outcome(act(timeout_seconds=5), act(timeout_seconds=1000), act())
        left = [call.remaining_seconds() for call in probe.calls]
        assert left[0] <= 5
        assert 5 < left[1] <= 60
        assert 5 < left[2] <= 60


class TestTasks:
    def test_args_are_those_of_the_call(self, probe: Probe) -> None:
        tasks = {"t": Task((act("{{ args.x }} {{ a }}", save_as="b"),))}
        work = [act("one", save_as="a"), TaskCall("t", {"x": "{{ a }}!"}, save_as="c")]
        found = performance(tasks).run(work, Scope(RUN, VISIT), "run")
        assert found.saved == {"a": "one", "b": "one! one", "c": "one! one"}
        assert probe.calls[1].idempotency_key == Scope(RUN, VISIT).idempotency_key("run.1/t.0")

    def test_args_of_an_outer_task_are_not_seen(self, probe: Probe) -> None:
        tasks = {"outer": Task((TaskCall("inner", {}),)), "inner": Task((act("{{ args.x }}"),))}
        found = performance(tasks).run([TaskCall("outer", {"x": 1})], Scope(RUN, VISIT), "run")
        assert failure(found) == ("UndefinedName", "`say`: there is no `x` in an empty object")

    def test_what_a_failed_task_saved_is_dropped(self, probe: Probe) -> None:
        tasks = {"t": Task((act("one", save_as="a"), act("{{ x }}")))}
        work = [TaskCall("t", {}, forgiven=True), act("two", save_as="b")]
        assert performance(tasks).run(work, Scope(RUN, VISIT), "run").saved == {"b": "two"}

    def test_a_forgiven_failure_in_a_task_is_forgiven(self, probe: Probe) -> None:
        probe.answers = [ActionError("Custom", "no")]
        found = performance({"t": Task((act(forgiven=True),))}).run([TaskCall("t", {})], Scope(RUN, VISIT), "run")
        assert not found.failed


class TestTogether:
    def test_items_do_not_see_each_other(self, probe: Probe) -> None:
        work = [act("{{ a }} one", save_as="a"), act("{{ a }} two", save_as="b")]
        found = outcome(*work, scope=Scope(RUN, VISIT, saved={"a": "zero"}), parallel=True)
        assert found.saved == {"a": "zero one", "b": "zero two"}
        assert found.data == ["zero one", "zero two"]

    def test_items_really_run_together(self, probe: Probe, tmp_path: Path) -> None:
        """Each waits for the other, through two pipes."""
        one, two = tmp_path / "one", tmp_path / "two"
        work = [
            Action("shell", {"command": f"mkfifo {one}; until [ -p {two} ]; do :; done; echo x > {one}; cat {two}"}),
            Action("shell", {"command": f"mkfifo {two}; until [ -p {one} ]; do :; done; cat {one}; echo y > {two}"}),
        ]
        found = outcome(*work, parallel=True)
        assert [data["stdout"].strip() for data in found.data] == ["y", "x"]

    def test_the_first_failure_in_the_order_written_counts(self, probe: Probe) -> None:
        work = [act("fine"), Action("fail", {"message": "one"}), Action("fail", {"message": "two"})]
        for _ in range(5):
            assert failure(outcome(*work, parallel=True)) == ("Failed", "one")

    def test_all_end_before_the_work_does(self, probe: Probe) -> None:
        outcome(Action("fail", {"message": "one"}), act("x"), act("y"), parallel=True)
        assert len(probe.calls) == 2
