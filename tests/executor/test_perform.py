from __future__ import annotations

from pathlib import Path

from noetl.executor.engine.perform import perform
from noetl.executor.engine.scope import Scope
from noetl.executor.errors import ActionError
from noetl.executor.model.outcome import Outcome
from noetl.planner.plan import Action, Task, TaskCall

from tests.executor.probe import RUN, VISIT, Probe, act, failure, outcome, piece


def test_nothing_to_do() -> None:
    assert outcome() == Outcome()


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


def test_conditions(probe: Probe) -> None:
    found = outcome(act("one", condition="{{ false }}", save_as="a"))
    assert found == Outcome(action="probe", skipped=True)
    assert outcome(act("one", condition="{{ 'False' }}", save_as="a")).saved == {"a": "one"}
    assert failure(outcome(act(condition="{{ x }}"))) == ("UndefinedName", "`if`: `x` is undefined")
    assert len(probe.calls) == 1


def test_no_time_is_left(probe: Probe) -> None:
    found = perform(piece(seconds=-1), [act()], Scope(RUN, VISIT), "run")
    assert failure(found) == ("Timeout", "the action ran out of time")
    assert probe.calls == []


class TestTasks:
    def test_args_are_those_of_the_call(self, probe: Probe) -> None:
        tasks = {"t": Task((act("{{ args.x }} {{ a }}", save_as="b"),))}
        work = [act("one", save_as="a"), TaskCall("t", {"x": "{{ a }}!"}, save_as="c")]
        found = perform(piece(tasks), work, Scope(RUN, VISIT), "run")
        assert found.saved == {"a": "one", "b": "one! one", "c": "one! one"}
        assert probe.calls[1].idempotency_key == Scope(RUN, VISIT).idempotency_key("run.1/t.0")

    def test_args_of_an_outer_task_are_not_seen(self, probe: Probe) -> None:
        tasks = {"outer": Task((TaskCall("inner", {}),)), "inner": Task((act("{{ args.x }}"),))}
        found = perform(piece(tasks), [TaskCall("outer", {"x": 1})], Scope(RUN, VISIT), "run")
        assert failure(found) == ("UndefinedName", "`say`: `x` is undefined in an empty object")

    def test_what_a_failed_task_saved_is_dropped(self, probe: Probe) -> None:
        tasks = {"t": Task((act("one", save_as="a"), act("{{ x }}")))}
        work = [TaskCall("t", {}, forgiven=True), act("two", save_as="b")]
        assert perform(piece(tasks), work, Scope(RUN, VISIT), "run").saved == {"b": "two"}

    def test_a_forgiven_failure_in_a_task_is_forgiven(self, probe: Probe) -> None:
        probe.answers = [ActionError("Custom", "no")]
        found = perform(
            piece({"t": Task((act(forgiven=True),))}), [TaskCall("t", {})], Scope(RUN, VISIT), "run"
        )
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
            Action(
                "shell",
                {"command": f"mkfifo {one}; until [ -p {two} ]; do :; done; echo x > {one}; cat {two}"},
            ),
            Action(
                "shell",
                {"command": f"mkfifo {two}; until [ -p {one} ]; do :; done; cat {one}; echo y > {two}"},
            ),
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
