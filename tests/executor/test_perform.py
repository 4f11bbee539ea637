from __future__ import annotations

from pathlib import Path

from noetl.executor.engine.scope import Scope
from noetl.executor.errors import ActionError
from noetl.executor.model.outcome import Outcome
from noetl.planner.plan import Action, Task, TaskCall, Work
from tests.executor.fake_handler import (
    RUN,
    VISIT,
    FakeHandler,
    failure_of,
    fake_action,
    outcome_of,
    work_context,
)


def test_empty_work_succeeds() -> None:
    assert outcome_of() == Outcome()


def test_the_outcome_of_work_is_that_of_its_last_item(probe: FakeHandler) -> None:
    found = outcome_of(fake_action("one", save_as="a"), fake_action("two", save_as="b"))
    assert found == Outcome(True, "two", None, "probe", saved={"a": "one", "b": "two"})


def test_later_items_see_earlier_ones(probe: FakeHandler) -> None:
    outcome_of(fake_action("one", save_as="a"), fake_action("{{ a }} two"))
    assert probe.calls[1].parameters == {"say": "one two"}


def test_a_failure_ends_sequential_work(probe: FakeHandler) -> None:
    probe.answers = [ActionError("Custom", "no", status=500, details={"a": 1})]
    found = outcome_of(fake_action(), fake_action())
    assert failure_of(found) == ("Custom", "no")
    assert found.error is not None
    assert (found.error["status"], found.error["details"], found.error["action"]) == (500, {"a": 1}, "probe")
    assert (found.saved, len(probe.calls)) == ({}, 1)


def test_a_forgiven_failure_does_not_end_the_work(probe: FakeHandler) -> None:
    probe.answers = [ActionError("Custom", "no"), "two"]
    assert outcome_of(fake_action(forgiven=True, save_as="a"), fake_action(save_as="b")).saved == {"b": "two"}
    probe.answers = [ActionError("Custom", "no")]
    last = outcome_of(fake_action(forgiven=True))
    assert (last.success, last.failed, last.forgiven) == (False, False, True)


def test_an_item_whose_condition_is_false_is_skipped(probe: FakeHandler) -> None:
    found = outcome_of(fake_action("one", condition="{{ false }}", save_as="a"))
    assert found == Outcome(action="probe", skipped=True)
    assert outcome_of(fake_action("one", condition="{{ 'False' }}", save_as="a")).saved == {"a": "one"}
    assert failure_of(outcome_of(fake_action(condition="{{ x }}"))) == (
        "UndefinedName",
        "`if`: `x` is undefined",
    )
    assert len(probe.calls) == 1


def test_work_past_its_deadline_fails(probe: FakeHandler) -> None:
    found = outcome_of(fake_action(), context=work_context(seconds=-1))
    assert failure_of(found) == ("Timeout", "the action ran out of time")
    assert probe.calls == []


class TestTaskCalls:
    def test_a_task_reads_the_args_of_its_call(self, probe: FakeHandler) -> None:
        tasks = {"t": Task((fake_action("{{ args.x }} {{ a }}", save_as="b"),))}
        work: list[Work] = [fake_action("one", save_as="a"), TaskCall("t", {"x": "{{ a }}!"}, save_as="c")]
        found = outcome_of(*work, context=work_context(tasks))
        assert found.saved == {"a": "one", "b": "one! one", "c": "one! one"}
        assert probe.calls[1].idempotency_key == Scope(RUN, VISIT).idempotency_key("run.1/t.0")

    def test_a_task_does_not_see_args_of_an_outer_task(self, probe: FakeHandler) -> None:
        tasks = {"outer": Task((TaskCall("inner", {}),)), "inner": Task((fake_action("{{ args.x }}"),))}
        found = outcome_of(TaskCall("outer", {"x": 1}), context=work_context(tasks))
        assert failure_of(found) == ("UndefinedName", "`say`: `x` is undefined in an empty object")

    def test_names_saved_by_a_failed_task_are_dropped(self, probe: FakeHandler) -> None:
        tasks = {"t": Task((fake_action("one", save_as="a"), fake_action("{{ x }}")))}
        work: list[Work] = [TaskCall("t", {}, forgiven=True), fake_action("two", save_as="b")]
        assert outcome_of(*work, context=work_context(tasks)).saved == {"b": "two"}

    def test_a_forgiven_failure_does_not_fail_the_task(self, probe: FakeHandler) -> None:
        probe.answers = [ActionError("Custom", "no")]
        tasks = {"t": Task((fake_action(forgiven=True),))}
        found = outcome_of(TaskCall("t", {}), context=work_context(tasks))
        assert (found.success, found.error, found.action, found.data) == (True, None, "t", None)

    def test_a_call_saves_the_data_of_a_skipped_last_item(self, probe: FakeHandler) -> None:
        """The call itself is not skipped: its name has a value, which is none."""
        tasks = {"t": Task((fake_action("one"), fake_action(condition="{{ false }}")))}
        found = outcome_of(TaskCall("t", {}, save_as="a"), context=work_context(tasks))
        assert (found.saved, found.skipped, found.action) == ({"a": None}, False, "t")


class TestParallelItems:
    def test_parallel_items_do_not_see_each_other(self, probe: FakeHandler) -> None:
        work: list[Work] = [fake_action("{{ a }} one", save_as="a"), fake_action("{{ a }} two", save_as="b")]
        found = outcome_of(*work, scope=Scope(RUN, VISIT, saved={"a": "zero"}), parallel=True)
        assert found.saved == {"a": "zero one", "b": "zero two"}
        assert found.data == ["zero one", "zero two"]

    def test_parallel_items_run_concurrently(self, probe: FakeHandler, tmp_path: Path) -> None:
        """Two items wait for each other, through two pipes."""
        first, second = tmp_path / "one", tmp_path / "two"
        commands = (
            f"mkfifo {first}; until [ -p {second} ]; do :; done; echo x > {first}; cat {second}",
            f"mkfifo {second}; until [ -p {first} ]; do :; done; cat {first}; echo y > {second}",
        )
        work: list[Work] = [Action("shell", {"command": command}) for command in commands]
        found = outcome_of(*work, parallel=True)
        assert [data["stdout"].strip() for data in found.data] == ["y", "x"]

    def test_the_first_failure_in_source_order_is_reported(self, probe: FakeHandler) -> None:
        work = [
            fake_action("fine"),
            Action("fail", {"message": "one"}),
            Action("fail", {"message": "two"}),
        ]
        for _ in range(5):
            assert failure_of(outcome_of(*work, parallel=True)) == ("Failed", "one")

    def test_parallel_work_ends_after_all_its_items(self, probe: FakeHandler) -> None:
        outcome_of(Action("fail", {"message": "one"}), fake_action("x"), fake_action("y"), parallel=True)
        assert len(probe.calls) == 2
