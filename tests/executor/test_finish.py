"""The end of a run: its result, or its deadline."""

from __future__ import annotations

from pathlib import Path

from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness


class TestRunResult:
    def test_output_entries_are_the_result(self, store: SqliteStore) -> None:
        text = """
            input: {i: integer}
            steps:
            - {name: a, run: [{action: set, set: {x: 1, y: 2}}], rule: [{case: default, run: [b]}]}
            - {name: b, run: [{action: set, set: {y: 3}}]}
            - {name: c, run: [{action: log, message: ok}]}
            output:
              x: "{{ x }}"
              sum: "{{ x + y + input.i }}"
              text: "{{ run.playbook }} {{ steps.b.status }} {{ steps.c.status }}"
              plain: [1, {deep: "{{ y }}"}]
        """
        expected = {"x": 1, "sum": 8, "text": "play succeeded pending", "plain": [1, {"deep": 3}]}
        harness = RunHarness(store, text, {"i": 4}).finish()
        assert (harness.status, harness.result) == ("succeeded", expected)

    def test_an_output_entry_without_a_value_is_an_error(self, store: SqliteStore) -> None:
        text = """
            variables: {n: 0}
            steps: [{name: a, run: [{action: log, message: ok}]}]
            output: {good: "{{ n }}", bad: "{{ 1 / n }}"}
        """
        harness = RunHarness(store, text).finish()
        assert (harness.status, harness.result) == ("completed_with_errors", {"good": 0, "bad": None})
        (error,) = harness.run.errors
        assert (error["type"], error["message"], error["step"]) == (
            "TemplateError",
            "`output.bad`: division by zero",
            None,
        )

    def test_without_output_the_result_is_all_names(self, store: SqliteStore) -> None:
        text = """
            variables: {v: 0, w: 0}
            steps:
            - name: a
              run: [{action: set, set: {x: 1, v: 1}, as: whole}]
              rule: [{case: default, run: [b, c]}]
            - {name: b, run: [{action: set, set: {x: 2}}]}
            - {name: c, run: [{action: set, set: {y: null}}]}
        """
        harness = RunHarness(store, text).finish()
        expected = {"x": 2, "v": 1, "whole": {"x": 1, "v": 1}, "y": None}
        assert (harness.status, harness.result) == ("succeeded", expected)

    def test_a_result_that_is_too_large_for_the_store_fails_the_run(self, tmp_path: Path) -> None:
        store = SqliteStore(str(tmp_path / "small.db"), limits=PayloadLimits(payload_bytes=1000))
        text = """
            steps: [{name: a, run: [{action: log, message: ok}]}]
            output: {long: "{{ 'x' * 1000 }}"}
        """
        harness = RunHarness(store, text).finish()
        assert (harness.status, harness.run.result) == ("failed", None)
        (error,) = harness.run.errors
        assert (error["type"], error["message"], error["step"]) == (
            "PayloadTooLarge",
            "the result of the run exceeds 1,000 bytes of JSON",
            None,
        )
        store.close()

    def test_a_run_that_failed_has_no_result(self, store: SqliteStore) -> None:
        harness = RunHarness(
            store, 'steps: [{name: a, run: [{action: fail, message: no}]}]\noutput: {x: "{{ 1 }}"}'
        ).finish()
        assert (harness.result, harness.error_types) == (None, ["Failed"])


class TestRunDeadline:
    TEXT = """
        timeout: 10s
        steps:
        - {name: a, run: [], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: set, set: {x: 1}}]}
    """

    def test_a_run_before_its_deadline_succeeds(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT)
        harness.execute_next()
        harness.clock.advance(9)
        assert harness.finish().status is RunStatus.SUCCEEDED
        assert store.queue.next_due(harness.queue) is None

    def test_a_run_past_its_deadline_times_out(self, store: SqliteStore) -> None:
        """The run also times out if its active step commits after the deadline."""
        harness = RunHarness(store, self.TEXT)
        harness.execute_next()
        harness.clock.advance(11)
        harness.finish()
        assert (harness.status, harness.error_types, harness.result) == ("timed_out", ["Timeout"], None)
        assert harness.run.error is not None
        assert harness.run.error["message"] == "the run exceeded the `timeout` of its playbook, 10 s"
        assert harness.event_types()[-1] == "workflow.timed_out"

    def test_the_deadline_ends_a_run_that_waits(self, store: SqliteStore) -> None:
        retry = "retry: {attempts: 5, delay: 1h}"
        text = f'timeout: 10s\nsteps: [{{name: a, {retry}, run: [{{action: shell, command: "exit 1"}}]}}]'
        harness = RunHarness(store, text)
        start = harness.clock()
        harness.finish()
        assert (harness.status, harness.clock() - start) == ("timed_out", 10.0)

    def test_a_resumed_run_has_a_new_deadline(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT)
        harness.execute_next()
        harness.clock.advance(1000)
        assert harness.finish().status is RunStatus.TIMED_OUT
        harness.resume()
        harness.clock.advance(9)
        assert harness.finish().status is RunStatus.SUCCEEDED
        assert (harness.result, harness.visit_counts) == ({"x": 1}, {"a": 1, "b": 1})

    def test_a_deadline_claimed_before_the_resume_does_not_stop_the_run(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT)
        lost = harness.claim("lost")
        assert lost is not None
        harness.clock.advance(1000)
        harness.finish().resume()
        assert harness.executor("lost").execute(lost) is None
        assert harness.finish().status is RunStatus.SUCCEEDED
