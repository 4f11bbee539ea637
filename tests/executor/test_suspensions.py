"""Suspended work: `wait`, `repeat`, and retries after a long delay; `delivery: at_most_once`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import noetl.executor.engine.attempts
import pytest
from noetl.executor.actions.action import Call
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.sqlite.store import SqliteStore

from tests.run_harness import LEASE_SECONDS, FakeClock, RunHarness

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
    monotonic, handler, passed = time.monotonic, noetl.executor.engine.attempts.handler, [0]

    def log(_: Call) -> None:
        passed[0] += 3

    monkeypatch.setattr("time.monotonic", lambda: monotonic() + passed[0])
    monkeypatch.setattr(
        "noetl.executor.engine.attempts.handler", lambda name: log if name == "log" else handler(name)
    )


class FastEvent(threading.Event):
    """An event that is never set. It records each timeout instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


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
        play = RunHarness(store, WAIT % how, clock=FakeClock(1_000_000.0))
        play.finish()
        assert (play.status, play.run.result, play.clock()) == (
            "succeeded",
            {"x": 1, "y": 2},
            1_000_000.0 + seconds,
        )

    def test_a_wait_longer_than_the_timeout_fails_at_once(self, store: SqliteStore) -> None:
        play = RunHarness(store, WAIT % "seconds: 90, timeout: 89s").finish()
        assert (play.status, play.error_types, play.event_types().count("step.waiting")) == (
            "failed",
            ["Timeout"],
            0,
        )
        assert RunHarness(store, WAIT % "seconds: 90, timeout: 90s").finish().status == "succeeded"

    def test_a_suspended_visit_holds_no_claim(self, store: SqliteStore) -> None:
        play = RunHarness(store, WAIT % "seconds: 90", clock=FakeClock())
        assert play.execute_next()
        assert not play.execute_next()
        (visit,) = store.visits(play.id)
        assert (visit.status, visit.due_at, visit.claims) == ("waiting", play.clock() + 90, 0)
        waiting = next(e for e in play.events if e.type == "step.waiting")
        assert waiting.payload["until"].endswith("Z")

    def test_finished_items_do_not_run_again(self, store: SqliteStore) -> None:
        play = RunHarness(store, WAIT % "seconds: 90").finish()
        assert [e.payload["position"] for e in play.events if e.type == "action.started"] == [
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
        play = RunHarness(store, text).finish()
        assert (play.status, play.run.result) == ("succeeded", {"x": 1})

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
        work = "[{action: log, message: x}, {action: wait, seconds: 90}, {action: log, message: y}, {action: log, message: z}]"
        play = RunHarness(store, f"steps: [{{name: a, {step}, run: {work}}}]").finish()
        assert (play.status, play.error_types) == (ending, ["Timeout"] if ending == "failed" else [])

    def test_a_resumed_step_has_its_whole_timeout_again(self, store: SqliteStore, slow: None) -> None:
        log = "{action: log, message: x}"
        work = f"[{log}, {log}, {{action: wait, seconds: 90}}, {log}, {log}, {{action: wait, seconds: 90}}, {log}]"
        play = RunHarness(store, f"steps: [{{name: a, timeout: 10s, run: {work}}}]").finish()
        assert play.error_types == ["Timeout"]
        assert play.resume().finish().status == "succeeded"

    def test_in_place_work_has_a_timeout_of_its_own(self, store: SqliteStore, slow: None) -> None:
        log = "{action: log, message: x}"
        in_place = f"[{log}, {{action: wait, seconds: 9}}, {log}, MORE{log}]"
        text = f"steps: [{{name: a, timeout: 7s, run: [{log}, {log}], rule: [{{case: default, run: {in_place}}}]}}]"
        assert RunHarness(store, text.replace("MORE", "")).finish().status == "succeeded"
        assert RunHarness(store, text.replace("MORE", f"{log}, ")).finish().error_types == ["Timeout"]

    def test_a_resumed_wait_keeps_its_due_time(self, store: SqliteStore) -> None:
        play = RunHarness(store, WAIT % "seconds: 90", clock=FakeClock(0.0))
        play.execute_next()
        store.stop(play.id, RunStatus.CANCELLED, play.clock())
        play.finish()
        play.clock.advance(10)
        play.resume().finish()
        assert (play.status, play.clock()) == ("succeeded", 90.0)

    def test_a_cancelled_wait_does_not_continue(self, store: SqliteStore) -> None:
        play = RunHarness(store, WAIT % "seconds: 90")
        play.execute_next()
        store.stop(play.id, "cancelled", play.clock())  # type: ignore[arg-type]
        play.finish()
        assert (play.status, play.run.result) == ("cancelled", None)
        play.resume().finish()
        assert (play.status, play.run.result) == ("succeeded", {"x": 1, "y": 2})

    @pytest.mark.parametrize("how", ['until: "{{ 1 }} soon"', "seconds: \"{{ 'x' }}\""])
    def test_an_invalid_time_fails_the_action(self, store: SqliteStore, how: str) -> None:
        play = RunHarness(store, WAIT % how).finish()
        assert [e["type"] for e in play.run.errors] == ["ParameterError"]

    def test_many_runs_wait_concurrently(self, store: SqliteStore) -> None:
        clock = FakeClock()
        plays = [RunHarness(store, WAIT % "seconds: 60", clock=clock, origin="service") for _ in range(30)]
        while plays[0].execute_next(chained=True):
            pass
        assert [visit.status for play in plays for visit in store.visits(play.id)] == ["waiting"] * 30
        clock.advance(60)
        while plays[0].execute_next(chained=True):
            pass
        assert {play.status for play in plays} == {"succeeded"}


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
        play = RunHarness(store, self.TEXT % 3, clock=FakeClock(0.0)).finish()
        assert (play.status, play.run.result, play.clock()) == ("succeeded", {"count": 3}, 60.0)
        (visit,) = (visit for visit in store.visits(play.id) if visit.step == "a")
        assert (visit.number, visit.attempt) == (1, 1)

    def test_the_number_of_rounds_is_bounded(self, store: SqliteStore) -> None:
        play = RunHarness(store, self.TEXT % 9).finish()
        assert (play.status, play.run.result) == ("succeeded", {"gave_up": True})

    def test_a_condition_without_a_value_fails_the_step(self, store: SqliteStore) -> None:
        text = self.TEXT.replace("count >= %d", "1 / 0")
        play = RunHarness(store, text).finish()
        assert [e["type"] for e in play.run.errors] == ["TemplateError"]

    def test_each_round_has_its_own_idempotency_key(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              repeat: {until: "{{ keys | length == 2 }}", max: 3}
              run: [{action: set, set: {keys: "{{ (keys | default([])) + [step.idempotency_key] }}"}}]
        """
        play = RunHarness(store, text).finish()
        assert len(set(play.run.result["keys"])) == 2

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
        play = RunHarness(store, text % spread, clock=FakeClock(0.0)).finish()
        assert (play.status, play.result) == ("succeeded", {"data": [None] * 3})
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
        play = RunHarness(store, self.TEXT % retry)
        assert play.claim("dies") is not None
        play.clock.advance(LEASE_SECONDS)
        return play.finish()

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

    def play(self, store: SqliteStore, folder: Path, tries: int, step: str = "on_error: abort") -> RunHarness:
        return RunHarness(store, self.TEXT.replace("TRIES", str(tries)).replace("STEP", step), folder=folder)

    def test_a_suspended_visit_holds_no_claim(self, store: SqliteStore, tmp_path: Path) -> None:
        play = self.play(store, tmp_path, 3)
        before = play.clock()
        assert play.execute_next()
        assert not play.execute_next()
        assert (play.status, play.visit("a").status, play.visit("a").due_at) == (
            "waiting",
            "waiting",
            before + 60,
        )
        (waiting,) = [event for event in play.events if event.type == "step.waiting"]
        assert (waiting.payload["actions"], waiting.payload["retried"]) == ([], ["shell"])
        assert (play.finish().status, play.result, play.clock()) == ("succeeded", {"x": 1}, before + 180)
        assert (tmp_path / "lines.txt").read_text().split() == ["before", "try", "try", "try"]
        assert [event.type for event in play.events if event.payload.get("action") == "shell"] == [
            *["action.started", "action.retrying"] * 2,
            "action.started",
            "action.completed",
        ]

    def test_retries_after_a_long_delay_are_counted(self, store: SqliteStore, tmp_path: Path) -> None:
        play = self.play(store, tmp_path, 8).finish()
        assert (play.error_types, (tmp_path / "lines.txt").read_text().count("try")) == (["CommandFailed"], 4)
        play.resume().finish()
        assert (play.error_types, (tmp_path / "lines.txt").read_text().count("try")) == ([], 8)

    def test_each_attempt_of_the_step_has_all_retries_of_the_action(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        play = self.play(store, tmp_path, 6, "retry: {attempts: 2, delay: 1s}").finish()
        assert (play.status, play.result) == ("succeeded", {"x": 2})
        assert (tmp_path / "lines.txt").read_text().split() == ["before", *["try"] * 6]

    def test_delays_before_retries_count_as_time_of_the_step(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        """A retry that would exceed the timeout does not start."""
        play = self.play(store, tmp_path, 9, "timeout: 4m")
        before = play.clock()
        assert (play.finish().error_types, play.clock() - before) == (["CommandFailed"], 180)

    def test_a_retry_may_happen_in_another_invocation(self, store: SqliteStore, tmp_path: Path) -> None:
        play = self.play(store, tmp_path, 2)
        claim = play.claim()
        assert claim is not None
        replace(play.executor(), invocation_seconds=30, continues=lambda: False).execute(claim)
        assert play.finish().status == "succeeded"

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
        play = RunHarness(store, text, folder=tmp_path)
        before = play.clock()
        play.finish()
        assert (play.status, play.visit("a").attempt) == ("succeeded", 1)
        (visit,) = store.visits_with_outputs(play.id)
        assert visit.result == [{"done": 1}, {"done": 2}, {"done": 3}]
        assert sorted((tmp_path / "lines.txt").read_text().split()) == ["1", "2", "2", "3", "3", "3"]
        assert play.clock() - before == 60 + 120

    def test_a_notification_is_retried_without_a_suspension(self, store: SqliteStore) -> None:
        notify = "{action: shell, command: exit 1, retry: {attempts: 2, delay: 1m, jitter: false}}"
        play = RunHarness(store, f"steps: [{{name: a, run: [{{action: callback, notify: {notify}}}]}}]")
        claim, hasty = play.claim(), FastEvent()
        assert claim is not None
        play.executor().execute(claim, hasty)
        assert (hasty.waits, play.finish().error_types) == ([60.0], ["CommandFailed"])
