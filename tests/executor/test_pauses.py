"""Work that pauses with nothing held: `wait`, `repeat`; and attempts that are made at most once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from executor.actions.action import Call
from executor.records import RunStatus
from executor.stores.sqlite import SqliteStore
from tests.plays import LEASE_SECONDS, Clock, Play

WAIT = """
    steps:
    - name: a
      run:
      - {action: set, set: {x: 1}}
      - {action: wait, %s}
      - {action: set, set: {y: "{{ x + 1 }}"}}
"""


class TestWait:
    @pytest.mark.parametrize(
        ("how", "seconds"),
        [("seconds: 90", 90), ("seconds: 2h", 7200), ('until: "1970-01-12T14:36:40Z"', 3000), ("seconds: 0", 0)],
    )
    def test_the_step_goes_on_when_the_time_has_come(self, store: SqliteStore, how: str, seconds: float) -> None:
        play = Play(store, WAIT % how, clock=Clock(1_000_000.0))
        play.finish()
        assert (play.status, play.run.result, play.clock()) == ("succeeded", {"x": 1, "y": 2}, 1_000_000.0 + seconds)

    def test_nothing_is_held_meanwhile(self, store: SqliteStore) -> None:
        play = Play(store, WAIT % "seconds: 90", clock=Clock())
        assert play.walk_one()
        assert not play.walk_one()
        (visit,) = store.visits(play.id)
        assert (visit.status, visit.due_at, visit.claims) == ("waiting", play.clock() + 90, 0)
        waiting = next(e for e in play.events if e.type == "step.waiting")
        assert waiting.payload["until"].endswith("Z")

    def test_what_was_done_before_is_not_done_again(self, store: SqliteStore) -> None:
        play = Play(store, WAIT % "seconds: 90").finish()
        assert [e.payload["position"] for e in play.events if e.type == "action.started"] == ["run.0", "run.1", "run.2"]

    def test_a_retry_goes_on_behind_the_last_wait(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              retry: {attempts: 3, delay: 1s}
              run:
              - {action: set, set: {x: "{{ step.attempt }}"}}
              - {action: wait, seconds: 1}
              - {action: shell, command: "test {{ step.attempt }} = 3"}
        """
        play = Play(store, text).finish()
        assert (play.status, play.run.result) == ("succeeded", {"x": 1})

    def test_what_is_not_plain_data_fails_the_step(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("executor.perform.handler", lambda _: lambda _: {1, 2})
        text = "steps: [{name: a, run: [{action: log, message: x, as: y}, {action: wait, seconds: 5}]}]"
        assert Play(store, text).finish().errors == ["FunctionFailed"]

    def test_a_resumed_wait_is_as_long_as_it_was(self, store: SqliteStore) -> None:
        play = Play(store, WAIT % "seconds: 90", clock=Clock(0.0))
        play.walk_one()
        store.stop(play.id, RunStatus.CANCELLED, play.clock())
        play.finish()
        play.clock.pass_(10)
        play.resume().finish()
        assert (play.status, play.clock()) == ("succeeded", 90.0)

    def test_a_cancelled_wait_does_not_go_on(self, store: SqliteStore) -> None:
        play = Play(store, WAIT % "seconds: 90")
        play.walk_one()
        store.stop(play.id, "cancelled", play.clock())  # type: ignore[arg-type]
        play.finish()
        assert (play.status, play.run.result) == ("cancelled", None)
        play.resume().finish()
        assert (play.status, play.run.result) == ("succeeded", {"x": 1, "y": 2})

    @pytest.mark.parametrize("how", ['until: "{{ 1 }} soon"', "seconds: \"{{ 'x' }}\""])
    def test_a_time_that_is_none(self, store: SqliteStore, how: str) -> None:
        play = Play(store, WAIT % how).finish()
        assert [e["type"] for e in play.run.errors] == ["ParameterError"]

    def test_many_runs_wait_at_once(self, store: SqliteStore) -> None:
        clock = Clock()
        plays = [Play(store, WAIT % "seconds: 60", clock=clock, origin="service") for _ in range(30)]
        while plays[0].walk_one(chained=True):
            pass
        assert [visit.status for play in plays for visit in store.visits(play.id)] == ["waiting"] * 30
        clock.pass_(60)
        while plays[0].walk_one(chained=True):
            pass
        assert {play.status for play in plays} == {"succeeded"}


class TestRepeat:
    TEXT = """
        steps:
        - name: a
          retry: 2
          repeat: {until: "{{ count >= %d }}", every: 30s, max: 4}
          run: [{action: set, set: {count: "{{ (count | default(0)) + 1 }}"}}]
          rule:
          - {case: "{{ error.type == 'RepeatExhausted' }}", run: [{action: set, set: {gave_up: true}}]}
    """

    def test_until_the_condition_is_true(self, store: SqliteStore) -> None:
        play = Play(store, self.TEXT % 3, clock=Clock(0.0)).finish()
        assert (play.status, play.run.result, play.clock()) == ("succeeded", {"count": 3}, 60.0)
        (visit,) = (visit for visit in store.visits(play.id) if visit.step == "a")
        assert (visit.number, visit.attempt) == (1, 1)

    def test_not_for_ever(self, store: SqliteStore) -> None:
        play = Play(store, self.TEXT % 9).finish()
        assert (play.status, play.run.result) == ("succeeded", {"gave_up": True})

    def test_a_condition_without_a_value(self, store: SqliteStore) -> None:
        text = self.TEXT.replace("count >= %d", "1 / 0")
        play = Play(store, text).finish()
        assert [e["type"] for e in play.run.errors] == ["TemplateError"]

    def test_each_round_has_a_key_of_its_own(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              repeat: {until: "{{ keys | length == 2 }}", max: 3}
              run: [{action: set, set: {keys: "{{ (keys | default([])) + [step.idempotency_key] }}"}}]
        """
        play = Play(store, text).finish()
        assert len(set(play.run.result["keys"])) == 2

    @pytest.mark.parametrize("spread", ["", ", batch: 2"])
    def test_each_round_of_a_loop_has_keys_of_its_own(
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

        monkeypatch.setattr("executor.perform.handler", handler)
        play = Play(store, text % spread, clock=Clock(0.0)).finish()
        assert (play.status, play.result) == ("succeeded", {"data": [None] * 3})
        assert (len(keys), len(set(keys))) == (6, 6)


class TestAtMostOnce:
    TEXT = """
        steps:
        - name: a
          delivery: at_most_once
          %s
          run: [{action: set, set: {attempt: "{{ step.attempt }}"}}]
          rule: [{case: "{{ error.type == 'StepInterrupted' }}", run: [{action: set, set: {seen: true}}]}]
    """

    def interrupted(self, store: SqliteStore, retry: str) -> Play:
        play = Play(store, self.TEXT % retry)
        assert play.claim("dies") is not None
        play.clock.pass_(LEASE_SECONDS)
        return play.finish()

    def test_an_interrupted_attempt_is_not_made_again(self, store: SqliteStore) -> None:
        assert self.interrupted(store, "").run.result == {"seen": True}

    def test_a_retry_is_another_attempt(self, store: SqliteStore) -> None:
        assert self.interrupted(store, "retry: 2").run.result == {"attempt": 2}
