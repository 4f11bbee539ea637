"""Suspended work: `wait`, `repeat`, and retries after a long delay; `delivery: at_most_once`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.actions import handler
from noetl.executor.actions.action import Call
from noetl.executor.engine.work_context import InvocationTime
from noetl.executor.model.run import NEVER, RunStatus
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import LEASE_SECONDS, FakeClock, RunHarness

WAIT = """
    steps:
    - name: a
      run:
      - {action: set, set: {x: 1}}
      - {action: wait, %s}
      - {action: set, set: {y: "{{ x + 1 }}"}}
"""


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `log` takes three seconds."""
    monotonic, passed = time.monotonic, [0]

    def log(_: Call) -> None:
        passed[0] += 3

    monkeypatch.setattr("time.monotonic", lambda: monotonic() + passed[0])
    monkeypatch.setattr(
        "noetl.executor.engine.attempts.handler", lambda name: log if name == "log" else handler(name)
    )


class TestWaitAction:
    @pytest.mark.parametrize(
        ("how", "seconds"),
        [
            ("seconds: 90", 90),
            ("seconds: 2h", 7200),
            ('until: "1970-01-12T14:36:40Z"', 3000),
            ("seconds: 0", 0),
        ],
    )
    def test_the_step_continues_when_the_time_has_passed(
        self, store: SqliteStore, how: str, seconds: float
    ) -> None:
        harness = RunHarness(store, WAIT % how, clock=FakeClock(1_000_000.0))
        harness.finish()
        assert (harness.status, harness.run.result, harness.clock()) == (
            "succeeded",
            {"x": 1, "y": 2},
            1_000_000.0 + seconds,
        )

    def test_a_wait_longer_than_the_timeout_fails_at_once(self, store: SqliteStore) -> None:
        harness = RunHarness(store, WAIT % "seconds: 90, timeout: 89s").finish()
        assert (harness.status, harness.error_types, harness.event_types().count("step.waiting")) == (
            "failed",
            ["Timeout"],
            0,
        )
        assert RunHarness(store, WAIT % "seconds: 90, timeout: 90s").finish().status == "succeeded"

    def test_a_suspended_visit_holds_no_claim(self, store: SqliteStore) -> None:
        harness = RunHarness(store, WAIT % "seconds: 90", clock=FakeClock())
        assert harness.execute_next()
        assert not harness.execute_next()
        (visit,) = store.runs.visits(harness.id)
        assert (visit.status, visit.due_at, visit.claims) == ("waiting", harness.clock() + 90, 0)
        waiting = next(e for e in harness.events if e.type == "step.waiting")
        assert waiting.payload["until"].endswith("Z")

    def test_finished_items_do_not_run_again(self, store: SqliteStore) -> None:
        harness = RunHarness(store, WAIT % "seconds: 90").finish()
        assert [e.payload["position"] for e in harness.events if e.type == "action.started"] == [
            "run.0",
            "run.1",
            "run.2",
        ]

    def test_a_retry_continues_after_the_last_wait(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              retry: {attempts: 3, delay: 1s}
              run:
              - {action: set, set: {x: "{{ step.attempt }}"}}
              - {action: wait, seconds: 1}
              - {action: shell, command: "test {{ step.attempt }} = 3"}
        """
        harness = RunHarness(store, text).finish()
        assert (harness.status, harness.run.result) == ("succeeded", {"x": 1})

    def test_data_that_is_not_json_fails_the_step(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("noetl.executor.engine.attempts.handler", lambda _: lambda _: {1, 2})
        text = "steps: [{name: a, run: [{action: log, message: x, as: y}, {action: wait, seconds: 5}]}]"
        assert RunHarness(store, text).finish().error_types == ["FunctionFailed"]

    @pytest.mark.parametrize(
        ("step", "ending"),
        [
            ("timeout: 8s", "succeeded"),
            ("timeout: 5s", "failed"),
            ("timeout: 5s, retry: 2", "succeeded"),
            ("timeout: 5s, repeat: {until: '{{ step.visit == 1 }}', max: 2}", "failed"),
        ],
    )
    def test_time_used_before_a_wait_counts(
        self, store: SqliteStore, slow: None, step: str, ending: str
    ) -> None:
        """The wait does not count. A later attempt has the whole timeout again."""
        work = (
            "[{action: log, message: x}, {action: wait, seconds: 90}, "
            "{action: log, message: y}, {action: log, message: z}]"
        )
        harness = RunHarness(store, f"steps: [{{name: a, {step}, run: {work}}}]").finish()
        assert (harness.status, harness.error_types) == (ending, ["Timeout"] if ending == "failed" else [])

    def test_a_resumed_step_has_its_whole_timeout_again(self, store: SqliteStore, slow: None) -> None:
        log = "{action: log, message: x}"
        wait = "{action: wait, seconds: 90}"
        work = f"[{log}, {log}, {wait}, {log}, {log}, {wait}, {log}]"
        harness = RunHarness(store, f"steps: [{{name: a, timeout: 10s, run: {work}}}]").finish()
        assert harness.error_types == ["Timeout"]
        assert harness.resume().finish().status == "succeeded"

    def test_in_place_work_has_a_timeout_of_its_own(self, store: SqliteStore, slow: None) -> None:
        log = "{action: log, message: x}"
        in_place = f"[{log}, {{action: wait, seconds: 9}}, {log}, MORE{log}]"
        rule = f"[{{case: default, run: {in_place}}}]"
        text = f"steps: [{{name: a, timeout: 7s, run: [{log}, {log}], rule: {rule}}}]"
        assert RunHarness(store, text.replace("MORE", "")).finish().status == "succeeded"
        assert RunHarness(store, text.replace("MORE", f"{log}, ")).finish().error_types == ["Timeout"]

    def test_a_resumed_wait_keeps_its_due_time(self, store: SqliteStore) -> None:
        harness = RunHarness(store, WAIT % "seconds: 90", clock=FakeClock(0.0))
        harness.execute_next()
        store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish()
        harness.clock.advance(10)
        harness.resume().finish()
        assert (harness.status, harness.clock()) == ("succeeded", 90.0)

    def test_a_cancelled_wait_does_not_continue(self, store: SqliteStore) -> None:
        harness = RunHarness(store, WAIT % "seconds: 90")
        harness.execute_next()
        store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish()
        assert (harness.status, harness.run.result) == ("cancelled", None)
        harness.resume().finish()
        assert (harness.status, harness.run.result) == ("succeeded", {"x": 1, "y": 2})

    @pytest.mark.parametrize("how", ['until: "{{ 1 }} soon"', "seconds: \"{{ 'x' }}\""])
    def test_an_invalid_time_fails_the_action(self, store: SqliteStore, how: str) -> None:
        harness = RunHarness(store, WAIT % how).finish()
        assert [e["type"] for e in harness.run.errors] == ["ParameterError"]

    def test_many_runs_wait_concurrently(self, store: SqliteStore) -> None:
        clock = FakeClock()
        harnesses = [
            RunHarness(store, WAIT % "seconds: 60", clock=clock, origin="service") for _ in range(30)
        ]
        while harnesses[0].execute_next(chained=True):
            pass
        assert [visit.status for harness in harnesses for visit in store.runs.visits(harness.id)] == [
            "waiting"
        ] * 30
        clock.advance(60)
        while harnesses[0].execute_next(chained=True):
            pass
        assert {harness.status for harness in harnesses} == {"succeeded"}


class TestRepeatRounds:
    TEXT = """
        steps:
        - name: a
          retry: 2
          repeat: {until: "{{ count >= %d }}", every: 30s, max: 4}
          run: [{action: set, set: {count: "{{ (count | default(0)) + 1 }}"}}]
          rule:
          - {case: "{{ error.type == 'RepeatExhausted' }}", run: [{action: set, set: {gave_up: true}}]}
    """

    def test_rounds_repeat_until_the_condition_is_true(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT % 3, clock=FakeClock(0.0)).finish()
        assert (harness.status, harness.run.result, harness.clock()) == ("succeeded", {"count": 3}, 60.0)
        (visit,) = (visit for visit in store.runs.visits(harness.id) if visit.step == "a")
        assert (visit.number, visit.attempt) == (1, 1)

    def test_the_number_of_rounds_is_bounded(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT % 9).finish()
        assert (harness.status, harness.run.result) == ("succeeded", {"gave_up": True})

    def test_a_condition_without_a_value_fails_the_step(self, store: SqliteStore) -> None:
        text = self.TEXT.replace("count >= %d", "1 / 0")
        harness = RunHarness(store, text).finish()
        assert [e["type"] for e in harness.run.errors] == ["TemplateError"]

    def test_each_round_has_its_own_idempotency_key(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              repeat: {until: "{{ keys | length == 2 }}", max: 3}
              run: [{action: set, set: {keys: "{{ (keys | default([])) + [step.idempotency_key] }}"}}]
        """
        harness = RunHarness(store, text).finish()
        assert len(set(harness.run.result["keys"])) == 2

    @pytest.mark.parametrize("spread", ["", ", batch: 2"])
    def test_each_round_of_a_loop_has_its_own_idempotency_keys(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, spread: str
    ) -> None:
        text = """
            steps:
            - name: a
              loop: {items: [1, 2, 3]%s}
              repeat: {until: "{{ now().timestamp() >= 30 }}", every: 30s, max: 3}
              run: [{action: log, message: x}]
              rule: [{case: default, run: [{action: set, set: {data: "{{ result.data }}"}}]}]
        """
        keys: list[str] = []

        def handler(type: str) -> Callable[[Call], Any]:
            return lambda call: keys.append(call.idempotency_key) if type == "log" else call.parameters["set"]

        monkeypatch.setattr("noetl.executor.engine.attempts.handler", handler)
        harness = RunHarness(store, text % spread, clock=FakeClock(0.0)).finish()
        assert (harness.status, harness.result) == ("succeeded", {"data": [None] * 3})
        assert (len(keys), len(set(keys))) == (6, 6)


class TestAtMostOnceDelivery:
    TEXT = """
        steps:
        - name: a
          delivery: at_most_once
          %s
          run: [{action: set, set: {attempt: "{{ step.attempt }}"}}]
          rule: [{case: "{{ error.type == 'StepInterrupted' }}", run: [{action: set, set: {seen: true}}]}]
    """

    def interrupted(self, store: SqliteStore, retry: str) -> RunHarness:
        harness = RunHarness(store, self.TEXT % retry)
        assert harness.claim("dies") is not None
        harness.clock.advance(LEASE_SECONDS)
        return harness.finish()

    def test_an_interrupted_attempt_is_not_repeated(self, store: SqliteStore) -> None:
        assert self.interrupted(store, "").run.result == {"seen": True}

    def test_a_retry_is_another_attempt(self, store: SqliteStore) -> None:
        assert self.interrupted(store, "retry: 2").run.result == {"attempt": 2}


class TestRetriesOfActions:
    """Retries of an action whose delay is so long that the step is suspended."""

    TEXT = """
        steps:
        - name: a
          STEP
          run:
          - {action: file, append: lines.txt, content: "before\\n"}
          - action: shell
            command: echo try >> lines.txt; test $(grep -c try lines.txt) = TRIES
            retry: {attempts: 4, delay: 1m, jitter: false}
            if: "{{ x is not defined }}"
          - {action: set, set: {x: "{{ step.attempt }}"}}
    """

    def make_harness(
        self, store: SqliteStore, folder: Path, tries: int, step: str = "on_error: abort"
    ) -> RunHarness:
        return RunHarness(store, self.TEXT.replace("TRIES", str(tries)).replace("STEP", step), folder=folder)

    def test_a_suspended_visit_holds_no_claim(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = self.make_harness(store, tmp_path, 3)
        before = harness.clock()
        assert harness.execute_next()
        assert not harness.execute_next()
        assert (harness.status, harness.visit("a").status, harness.visit("a").due_at) == (
            "waiting",
            "waiting",
            before + 60,
        )
        (waiting,) = [event for event in harness.events if event.type == "step.waiting"]
        assert (waiting.payload["actions"], waiting.payload["retried"]) == ([], ["shell"])
        assert (harness.finish().status, harness.result, harness.clock()) == (
            "succeeded",
            {"x": 1},
            before + 180,
        )
        assert (tmp_path / "lines.txt").read_text().split() == ["before", "try", "try", "try"]
        assert [event.type for event in harness.events if event.payload.get("action") == "shell"] == [
            *["action.started", "action.retrying"] * 2,
            "action.started",
            "action.completed",
        ]

    def test_retries_after_a_long_delay_are_counted(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = self.make_harness(store, tmp_path, 8).finish()
        assert (harness.error_types, (tmp_path / "lines.txt").read_text().count("try")) == (
            ["CommandFailed"],
            4,
        )
        harness.resume().finish()
        assert (harness.error_types, (tmp_path / "lines.txt").read_text().count("try")) == ([], 8)

    def test_each_attempt_of_the_step_has_all_retries_of_the_action(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        harness = self.make_harness(store, tmp_path, 6, "retry: {attempts: 2, delay: 1s}").finish()
        assert (harness.status, harness.result) == ("succeeded", {"x": 2})
        assert (tmp_path / "lines.txt").read_text().split() == ["before", *["try"] * 6]

    def test_delays_before_retries_count_as_time_of_the_step(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        """A retry that would exceed the timeout does not start."""
        harness = self.make_harness(store, tmp_path, 9, "timeout: 4m")
        before = harness.clock()
        assert (harness.finish().error_types, harness.clock() - before) == (["CommandFailed"], 180)

    def test_a_retry_may_happen_in_another_invocation(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = self.make_harness(store, tmp_path, 2)
        claim = harness.claim()
        assert claim is not None
        replace(harness.executor(), invocation=InvocationTime(30), continues=lambda: False).execute(claim)
        assert harness.finish().status == "succeeded"

    def test_parallel_items_wait_for_their_own_retries(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - name: a
              loop: {items: [1, 2, 3], concurrency: 2, as: n}
              run:
              - action: shell
                command: echo $N >> lines.txt; test $(grep -c $N lines.txt) = $N
                env: {N: "{{ n }}"}
                retry: {attempts: 3, delay: 1m, jitter: false}
              - {action: set, set: {done: "{{ n }}"}}
        """
        harness = RunHarness(store, text, folder=tmp_path)
        before = harness.clock()
        harness.finish()
        assert (harness.status, harness.visit("a").attempt) == ("succeeded", 1)
        (visit,) = store.runs.visits_with_outputs(harness.id)
        assert visit.result == [{"done": 1}, {"done": 2}, {"done": 3}]
        assert sorted((tmp_path / "lines.txt").read_text().split()) == ["1", "2", "2", "3", "3", "3"]
        assert harness.clock() - before == 60 + 120

    def test_a_notification_holds_no_thread_between_its_attempts(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        notify = (
            "{action: shell, command: echo x >> tries; test $(grep -c x tries) = 3,"
            " retry: {attempts: 5, delay: 1m, jitter: false, backoff: 1}}"
        )
        harness = RunHarness(
            store, f"steps: [{{name: a, run: [{{action: callback, notify: {notify}}}]}}]", folder=tmp_path
        )
        dues = []
        for _ in range(3):
            assert harness.execute_next()
            dues.append(store.queue.next_due(harness.queue))
            harness.clock.advance(60)
        assert [due is not None and due < NEVER for due in dues] == [True, True, False]
        assert (tmp_path / "tries").read_text().count("x") == 3

    def test_a_notification_fails_after_its_last_attempt(self, store: SqliteStore) -> None:
        notify = "{action: shell, command: exit 1, retry: {attempts: 2, delay: 1m, jitter: false}}"
        harness = RunHarness(store, f"steps: [{{name: a, run: [{{action: callback, notify: {notify}}}]}}]")
        before = harness.clock()
        assert (harness.finish().error_types, harness.clock() - before) == (["CommandFailed"], 60)
