"""Child runs, which the action `workflow` starts."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from noetl.executor.engine.external import MAX_RUN_DEPTH
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness, register_playbook
from noetl.testing.store_contract.operations import current_run

CHILD = """
    name: child
    input: {n: integer}
    steps:
    - name: work
      run:
      - {action: wait, seconds: "{{ n }}"}
      - {action: fail, if: "{{ n == 7 }}", message: seven}
      - {action: set, set: {twice: "{{ n * 2 }}"}}
    output: {twice: "{{ twice }}"}
"""
PARENT = """
    steps:
    - name: call
      run: [{action: workflow, playbook: child, input: {n: "{{ input.n }}"}, as: found%s}]
      rule: [{case: "{{ result.success }}", run: [after]}%s]
    - {name: after, run: [{action: set, set: {done: true}}]}
"""


def make_harness(store: SqliteStore, text: str = PARENT % ("", ""), **input: Any) -> RunHarness:
    return RunHarness(store, text, input)


def children(playing: RunHarness) -> list[Run]:
    summaries, _ = playing.store.runs.find(RunFilter())
    return [current_run(playing.store, run) for run in summaries if run.id != playing.id]


@pytest.fixture(autouse=True)
def child(store: SqliteStore) -> None:
    register_playbook(store, CHILD)


def execute_all(playing: RunHarness) -> RunHarness:
    """Execute all visits that are due now, and return the run."""
    while playing.execute_next(chained=True):
        pass
    return playing


class TestChildRunResults:
    def test_the_result_of_the_action_is_that_of_the_child_run(self, store: SqliteStore) -> None:
        playing = make_harness(store, n=5).finish()
        assert playing.result == {"found": {"twice": 10}, "done": True}
        (child,) = children(playing)
        assert (child.playbook, child.depth, child.queue, child.status) == (
            "child",
            1,
            playing.queue,
            "succeeded",
        )
        assert child.parent is not None
        assert child.parent.run_id == playing.id

    def test_parent_and_child_wait_together(self, store: SqliteStore) -> None:
        playing = execute_all(make_harness(store, n=5))
        assert playing.status is RunStatus.WAITING
        assert [child.status for child in children(playing)] == ["waiting"]

    def test_a_failed_child_fails_the_action(self, store: SqliteStore) -> None:
        playing = make_harness(store, n=7).finish()
        (error,) = playing.run.errors
        (child,) = children(playing)
        assert error["type"] == "WorkflowFailed"
        assert error["message"] == f"run {child.id} of `child` failed: Failed: seven"
        details = error["details"]
        assert (details["workflow_id"], details["status"], details["result"]) == (child.id, "failed", None)
        assert details["error"]["message"] == "seven"

    def test_a_failed_child_can_be_handled(self, store: SqliteStore) -> None:
        handled = ', {case: error, run: [{action: set, set: {why: "{{ error.details.error.message }}"}}]}'
        assert make_harness(store, PARENT % ("", handled), n=7).finish().result == {"why": "seven"}

    def test_a_skipped_child_is_not_retried_by_itself(self, store: SqliteStore) -> None:
        store.gates.set_limit(named_gate("default", "closed"), LimitKind.RUNS, 0)
        limited = "concurrency: {use: closed, when_full: skip}\n"
        register_playbook(store, limited + dedent(CHILD).replace("name: child", "name: limited"))
        text = PARENT.replace("playbook: child", "playbook: limited")
        playing = make_harness(store, text % (", retry: {attempts: 3, delay: 0s}", ""), n=5).finish()
        (child,) = children(playing)
        (error,) = playing.run.errors
        assert (error["type"], error["details"]["status"]) == ("RunSkipped", "skipped")
        assert error["message"] == f"run {child.id} of `limited` was skipped: limit `closed` is full"
        store.gates.set_limit(named_gate("default", "closed"), LimitKind.RUNS, 1)
        assert playing.resume().finish().result == {"found": {"twice": 10}, "done": True}

    def test_a_retried_action_starts_another_run(self, store: SqliteStore) -> None:
        playing = make_harness(store, PARENT % (", retry: {attempts: 3, delay: 0s}", ""), n=7).finish()
        assert playing.error_types == ["WorkflowFailed"]
        assert [child.resumes for child in children(playing)] == [0, 0, 0]

    def test_a_retried_step_resumes_its_child_run(self, store: SqliteStore) -> None:
        text = (PARENT % ("", "")).replace("name: call", "name: call\n      retry: {attempts: 3, delay: 1s}")
        playing = make_harness(store, text, n=7).finish()
        assert playing.error_types == ["WorkflowFailed"]
        assert [child.resumes for child in children(playing)] == [2]

    def test_a_loop_starts_many_child_runs(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: call
              loop: {items: [1, 2, 3, 4], concurrency: 2}
              run: [{action: workflow, playbook: child, input: {n: "{{ item }}"}, as: found}]
              rule:
              - case: default
                run: [{action: set, set: {all: "{{ result.data | map(attribute='twice') | list }}"}}]
        """
        playing = make_harness(store, text)
        before = playing.clock()
        assert playing.finish().result == {"all": [2, 4, 6, 8]}
        assert playing.clock() - before == 6


class TestChildRunStarts:
    def test_an_unknown_playbook_fails_the_action(self, store: SqliteStore) -> None:
        (error,) = make_harness(store, PARENT.replace("child", "other") % ("", ""), n=1).finish().run.errors
        assert (error["type"], error["message"]) == ("ParameterError", "unknown playbook `other`")

    @pytest.mark.parametrize("name", ["\ud800", "", "x" * 101])
    def test_a_name_that_no_playbook_can_have_is_unknown(self, store: SqliteStore, name: str) -> None:
        text = PARENT.replace("playbook: child", "playbook: '{{ input.name }}'")
        assert text != PARENT
        playing = make_harness(store, text % ("", ""), n=1, name=name)
        assert playing.finish().error_types == ["ParameterError"]

    def test_invalid_input_fails_the_action(self, store: SqliteStore) -> None:
        (error,) = make_harness(store, n="five").finish().run.errors
        assert error["type"] == "ParameterError"
        assert (
            error["message"]
            == "`child` cannot be started: input `n` must be of type integer, not the text `five`"
        )

    def test_a_version_can_be_chosen(self, store: SqliteStore) -> None:
        register_playbook(store, CHILD.replace("n * 2", "n * 3"), "b")
        pinned = PARENT % (', version: "1"', "")
        assert make_harness(store, pinned, n=1).finish().result["found"] == {"twice": 2}
        assert make_harness(store, n=1).finish().result["found"] == {"twice": 3}
        children = [run for run in store.runs.find(RunFilter())[0] if run.playbook == "child"]
        assert sorted(str(run.version) for run in children) == ["1", "b"]
        (error,) = make_harness(store, PARENT % (", version: c", ""), n=1).finish().run.errors
        assert error["message"] == "unknown version c of playbook `child`"

    def test_the_playbook_is_found_once(self, store: SqliteStore) -> None:
        """A run keeps the version it started with, also if a newer one is registered."""
        playing = execute_all(make_harness(store, n=5))
        register_playbook(store, CHILD.replace("n * 2", "n * 3"), "b")
        assert playing.finish().result["found"] == {"twice": 10}

    def test_the_depth_of_child_runs_is_bounded(self, store: SqliteStore) -> None:
        register_playbook(
            store, "name: again\nsteps: [{name: a, run: [{action: workflow, playbook: again}]}]"
        )
        playing = make_harness(
            store, "name: first\nsteps: [{name: a, run: [{action: workflow, playbook: again}]}]"
        ).finish()
        assert playing.error_types == ["WorkflowFailed"]
        assert max(child.depth for child in children(playing)) == MAX_RUN_DEPTH
        deepest = next(child for child in children(playing) if child.depth == MAX_RUN_DEPTH)
        assert [error["type"] for error in deepest.errors] == ["LimitExceeded"]

    def test_a_detached_run_continues_alone(self, store: SqliteStore) -> None:
        playing = make_harness(store, PARENT % (", detach: true", ""), n=5)
        before = playing.clock()
        playing.finish()
        (child,) = children(playing)
        assert playing.result == {"found": {"workflow_id": child.id}, "done": True}
        assert (playing.clock(), child.status, child.parent) == (before, "queued", None)
        while (due := store.queue.next_due(playing.queue)) is not None:
            playing.clock.now = max(due, playing.clock())
            playing.execute_next()
        assert children(playing)[0].status is RunStatus.SUCCEEDED

    def test_a_repeated_start_is_one_run(self, store: SqliteStore) -> None:
        """The worker dies between the start and its commit."""
        playing = make_harness(store, n=5)
        claim = playing.claim()
        assert claim is not None
        executor = playing.executor()
        store.queue.release(claim.visit, playing.clock(), counts=False)
        executor.execute(claim)
        assert len(children(playing)) == 1
        assert playing.finish().result["found"] == {"twice": 10}
        assert len(children(playing)) == 1


class TestChildRunEndings:
    def test_a_child_past_the_timeout_is_cancelled(self, store: SqliteStore) -> None:
        playing = make_harness(store, PARENT % (", timeout: 3s", ""), n=5)
        before = playing.clock()
        assert playing.finish().error_types == ["Timeout"]
        assert playing.clock() - before == 3
        execute_all(playing)
        assert [child.status for child in children(playing)] == ["cancelled"]

    def test_cancelling_a_parent_cancels_its_child(self, store: SqliteStore) -> None:
        register_playbook(store, (PARENT % ("", "")).replace("steps:", "name: middle\n    steps:", 1))
        playing = execute_all(
            make_harness(store, PARENT.replace("playbook: child", "playbook: middle") % ("", ""), n=5)
        )
        assert len(children(playing)) == 2
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock())
        execute_all(playing)
        assert [run.status for run in store.runs.find(RunFilter())[0]] == ["cancelled"] * 3

    def test_resuming_a_parent_resumes_its_child(self, store: SqliteStore) -> None:
        playing = execute_all(make_harness(store, n=5))
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock())
        execute_all(playing).resume()
        assert playing.finish().result["found"] == {"twice": 10}
        assert [child.resumes for child in children(playing)] == [1]

    def test_resuming_a_parent_resumes_a_failed_child(self, store: SqliteStore, tmp_path: Path) -> None:
        register_playbook(
            store,
            """
            name: flaky
            steps:
            - name: a
              run: [{action: file, append: done.txt, content: "a"}]
              rule: [{case: default, run: [b]}]
            - {name: b, run: [{action: file, read: there.txt, as: text}]}
        """,
        )
        text = "steps: [{name: a, run: [{action: workflow, playbook: flaky, as: found}]}]"
        playing = RunHarness(store, text, folder=tmp_path).finish()
        assert playing.error_types == ["WorkflowFailed"]
        (tmp_path / "there.txt").write_text("now")
        assert playing.resume().finish().result == {"found": {"text": "now"}}
        assert (tmp_path / "done.txt").read_text() == "a"

    def test_a_failed_sibling_cancels_the_child(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: default, run: [call, bad]}]}
            - {name: call, run: [{action: workflow, playbook: child, input: {n: 50}}]}
            - {name: bad, run: [{action: wait, seconds: 1}, {action: fail, message: no}]}
        """
        playing = make_harness(store, text).finish()
        assert playing.error_types == ["Failed"]
        execute_all(playing)
        assert [child.status for child in children(playing)] == ["cancelled"]

    def test_the_finally_step_may_start_a_child_run(self, store: SqliteStore) -> None:
        text = """
            finally: last
            steps:
            - {name: a, run: [{action: wait, seconds: 60}]}
            - {name: last, run: [{action: workflow, playbook: child, input: {n: 3}, as: found}]}
        """
        playing = execute_all(make_harness(store, text))
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock())
        execute_all(playing)
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock())
        assert playing.finish().status is RunStatus.CANCELLED
        assert [child.status for child in children(playing)] == ["succeeded"]

    def test_a_parent_past_its_deadline_cancels_its_child(self, store: SqliteStore) -> None:
        playing = make_harness(store, "timeout: 2s\n" + dedent(PARENT % ("", "")), n=5).finish()
        assert playing.status is RunStatus.TIMED_OUT
        execute_all(playing)
        assert [child.status for child in children(playing)] == ["cancelled"]


class TestAbandonedChildRuns:
    """Child runs of work that was abandoned."""

    PARALLEL_CHILDREN = """
        on_error: %s
        steps:
        - name: a
          parallel: true
          run:
          - {action: workflow, playbook: child, input: {n: 5}, as: found}
          - {action: fail, message: no, if: "{{ not input.ok }}"}
    """

    def test_a_handled_failure_cancels_unfinished_children(self, store: SqliteStore) -> None:
        handled = (
            "  rule: [{case: error, run: [b]}]\n        - {name: b, run: [{action: wait, seconds: 1}]}\n    "
        )
        playing = execute_all(
            make_harness(store, self.PARALLEL_CHILDREN % "abort" + "    " + handled, ok=False)
        )
        assert playing.status is RunStatus.WAITING
        assert [child.status for child in children(playing)] == ["cancelled"]

    def test_a_failed_item_cancels_the_children_of_other_items(self, store: SqliteStore) -> None:
        text = """
            on_error: continue
            steps:
            - name: a
              loop: {items: [50, 3], concurrency: 2}
              run:
              - {action: workflow, playbook: child, input: {n: "{{ item }}"}}
              - {action: fail, message: no}
        """
        playing = execute_all(make_harness(store, text).finish())
        assert sorted(child.status for child in children(playing)) == ["cancelled", "succeeded"]

    def test_a_forgiven_task_leaves_no_children(self, store: SqliteStore) -> None:
        text = """
            tasks:
              t:
                parallel: true
                run: [{action: workflow, playbook: child, input: {n: 50}}, {action: fail, message: no}]
            steps: [{name: a, run: [{task: t, on_error: continue}]}]
        """
        playing = execute_all(make_harness(store, text).finish())
        assert (playing.status, [child.status for child in children(playing)]) == ("succeeded", ["cancelled"])

    @pytest.mark.parametrize("policy", ["abort", "continue"])
    def test_a_resume_continues_cancelled_children(self, store: SqliteStore, policy: str) -> None:
        playing = execute_all(make_harness(store, self.PARALLEL_CHILDREN % policy, ok=False).finish())
        assert [child.status for child in children(playing)] == ["cancelled"]
        assert playing.resume(ok=True).finish().result == {"found": {"twice": 10}}
        assert [child.resumes for child in children(playing)] == [1]

    def test_a_retry_resumes_a_child_that_failed_meanwhile(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              retry: {attempts: 2, delay: 60s}
              parallel: true
              run:
              - {action: workflow, playbook: child, input: {n: 7}}
              - {action: shell, command: exit 1, if: "{{ step.attempt == 1 }}"}
        """
        assert [child.resumes for child in children(make_harness(store, text).finish())] == [1]

    def test_a_retry_waits_until_a_cancelled_child_has_ended(self, store: SqliteStore) -> None:
        text = (PARENT % (", timeout: 3s", "")).replace(
            "name: call", "name: call\n      retry: {attempts: 2, delay: 0s}"
        )
        playing = make_harness(store, text, n=5).finish()
        assert playing.result["found"] == {"twice": 10}
        assert [child.resumes for child in children(playing)] == [1]

    def test_a_child_that_was_resumed_directly_answers_its_parent(self, store: SqliteStore) -> None:
        """The parent failed with its child. When it is resumed, the child has already succeeded."""
        playing = execute_all(make_harness(store, n=5))
        (child,) = children(playing)
        store.runs.stop(child.id, RunStatus.CANCELLED, playing.clock())
        assert execute_all(playing).error_types == ["WorkflowFailed"]
        store.runs.resume(child.id, playing.clock(), deadline_at=None, values={})
        while (due := store.queue.next_due(playing.queue)) is not None:
            playing.clock.now = max(due, playing.clock())
            playing.execute_next()
        assert playing.resume().finish().result["found"] == {"twice": 10}
