"""Rates of runs and of attempts, as runs see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from noetl.executor.engine.scope import load_scope
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.model.run import VisitStatus
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import LEASE_SECONDS, RunHarness
from tests.executor.test_slots import Runs, execute_all, limit_visit

TEXT = """
    name: call
    steps:
    - name: limited
      rate: %s
      %s
      run: [%s]
      rule: [{case: default, run: [last]}]
    - {name: last, run: [{action: set, set: {done: true}}]}
"""
CALL = "{action: set, set: {y: 2}}"


@pytest.fixture(autouse=True)
def consistent(store: SqliteStore) -> Iterator[None]:
    """The numbers of gates agree with their slots at the end of each test."""
    yield
    assert store.maintenance.check_consistency() == []


def text_of(rate: str = "{limit: 1, per: 1m}", key: str = "", work: str = CALL) -> str:
    return TEXT % (rate, key, work)


def times_of(harness: RunHarness, event: str = "step.completed", step: str = "limited") -> list[float]:
    """Return when the visits of a step ended, in seconds since the clock began."""
    return [e.at - 1_000_000.0 for e in harness.events if (e.type, e.step) == (event, step)]


class TestRatesOfSteps:
    def test_an_attempt_waits_for_its_time(self, store: SqliteStore) -> None:
        runs = Runs(store, text_of(), count=3)
        for harness in runs:
            execute_all(harness)
        _, second, third = runs
        visit = limit_visit(second)
        assert (visit.status, visit.due_at) == (VisitStatus.WAITING, 1_000_060.0)
        (waiting,) = [event for event in third.events if event.type == "step.waiting"]
        assert waiting.payload["limit"] == "call.limited"
        assert waiting.payload["queued_before"] is None
        assert waiting.payload["until"].startswith("1970-01-12T13:48:40")
        assert [harness.finish().status for harness in runs] == ["succeeded"] * 3
        assert [times_of(harness) for harness in runs] == [[0.0], [60.0], [120.0]]
        assert [limit for limit, _, _ in runs.units()] == ["call.limited"]
        store.maintenance.sweep(1_000_179.0)
        assert runs.units() == [("call.limited", 0, 0)]
        store.maintenance.sweep(1_000_180.0)
        assert runs.units() == []

    def test_a_claim_after_a_wait_takes_no_unit(self, store: SqliteStore) -> None:
        waiting = "{action: wait, seconds: 5}, {action: set, set: {y: 2}}"
        runs = Runs(store, text_of(work=waiting))
        assert [harness.finish().status for harness in runs] == ["succeeded"] * 2
        assert runs.clock() == 1_000_065.0

    def test_each_attempt_takes_a_unit(self, store: SqliteStore) -> None:
        work = '{action: shell, command: "test {{ step.attempt }} = 2"}'
        harness = RunHarness(store, text_of(key="retry: {attempts: 2, delay: 1s, jitter: false}", work=work))
        begin = harness.clock()
        assert harness.finish().status == "succeeded"
        assert harness.clock() - begin == 60.0

    def test_each_round_takes_a_unit(self, store: SqliteStore) -> None:
        repeat = 'repeat: {until: "{{ false }}", max: 3, every: 1s}'
        harness = RunHarness(store, text_of(key=repeat))
        begin = harness.clock()
        harness.finish()
        assert harness.clock() - begin == 120.0

    def test_a_lost_worker_takes_no_second_unit(self, store: SqliteStore) -> None:
        runs = Runs(store, text_of(), count=1)
        (harness,) = runs
        claim = harness.claim()
        assert claim is not None
        step = harness.plan.steps["limited"]

        admission = harness.executor()._ask_for_slots(claim, step, load_scope(store, claim, step), None)
        assert [slot.units for slot in admission.slots] == [1]
        runs.clock.now += LEASE_SECONDS + 1
        assert harness.finish().status == "succeeded"
        assert times_of(harness)[-1] == LEASE_SECONDS + 1

    def test_a_visit_that_would_wait_too_long_fails_at_once(self, store: SqliteStore) -> None:
        runs = Runs(store, text_of("{limit: 1, per: 1h, max_wait: 1m}"))
        first, second = runs
        assert first.finish().status == "succeeded"
        assert second.finish().error_types == ["LimitTimeout"]
        message = "no unit of limit `call.limited` becomes free within 60 s, only at 1970-01-12T14:46:40"
        assert message in str(second.run.error)
        assert runs.clock() == 1_000_000.0

    def test_work_is_left_out_if_no_unit_is_free(self, store: SqliteStore) -> None:
        runs = Runs(store, text_of("{limit: 1, per: 1h, when_full: skip}"))
        assert [harness.finish().result for harness in runs] == [{"y": 2, "done": True}, {"done": True}]
        assert runs.clock() == 1_000_000.0

    def test_a_cancelled_wait_wastes_its_unit(self, store: SqliteStore) -> None:
        runs = Runs(store, text_of(), count=3)
        first, second, third = runs
        first.finish()
        execute_all(second)
        store.pauses.pause(second.id, runs.clock())
        execute_all(third)
        assert limit_visit(third).due_at == 1_000_120.0
        store.pauses.unpause(second.id, runs.clock())
        execute_all(second)
        assert limit_visit(second).due_at == 1_000_180.0
        assert (second.finish().status, third.finish().status) == ("succeeded", "succeeded")

    def test_a_late_worker_moves_no_time(self, store: SqliteStore) -> None:
        runs = Runs(store, text_of(), count=4)
        for harness in runs:
            execute_all(harness)
        runs.clock.now = 1_000_150.0
        assert [harness.finish().status for harness in runs] == ["succeeded"] * 4
        assert [times_of(harness) for harness in runs] == [[0.0], [150.0], [150.0], [180.0]]

    def test_a_key_is_counted_apart(self, store: SqliteStore) -> None:
        text = text_of('{limit: 1, per: 1m, key: "{{ input.customer }}"}').replace(
            "steps:", "input: {customer: string}\n    steps:"
        )
        first = RunHarness(store, text, {"customer": "a"})
        second = RunHarness(store, text, {"customer": "b"}, clock=first.clock)
        begin = first.clock()
        assert (first.finish().status, second.finish().status) == ("succeeded", "succeeded")
        assert first.clock() == begin

    def test_a_place_is_held_during_the_wait_for_a_rate(self, store: SqliteStore) -> None:
        runs = Runs(store, text_of("{limit: 1, per: 1m}", "concurrency: 1"), count=3)
        first, second, third = runs
        first.finish()
        execute_all(second)
        execute_all(third)
        assert limit_visit(second).due_at == 1_000_060.0
        assert runs.waits(third) == [("call.limited", None, 0)]
        assert [harness.finish().status for harness in (second, third)] == ["succeeded"] * 2
        assert times_of(third) == [120.0]


class TestRatesOfLoops:
    LOOP = 'loop: {items: "{{ range(5) | list }}", batch: 2}'

    def test_each_item_takes_a_unit(self, store: SqliteStore) -> None:
        runs = Runs(store, text_of("{limit: 2, per: 1m}", self.LOOP), count=1)
        (harness,) = runs
        assert harness.finish().status == "succeeded"
        assert times_of(harness, "loop.progress") == [0.0, 60.0, 120.0]
        # The last batch has one item, so one unit is left.
        other = RunHarness(store, text_of("{limit: 2, per: 1m}"), clock=runs.clock)
        assert other.finish().status == "succeeded"
        assert times_of(other) == [120.0]

    def test_items_that_wait_take_no_unit_again(self, store: SqliteStore) -> None:
        waiting = "{action: wait, seconds: 5}"
        runs = Runs(store, text_of("{limit: 2, per: 1m}", self.LOOP, waiting), count=1)
        (harness,) = runs
        assert harness.finish().status == "succeeded"
        assert runs.clock() == 1_000_125.0

    @pytest.mark.parametrize("items", ["{{ [] }}", "{{ 5 }}", "{{ 1 / 0 }}"])
    def test_a_loop_without_items_takes_no_unit(self, store: SqliteStore, items: str) -> None:
        runs = Runs(store, text_of("{limit: 2, per: 1m}", f'loop: {{items: "{items}", batch: 2}}'), count=1)
        (harness,) = runs
        harness.finish()
        assert runs.units() == []

    def test_a_limited_run_does_not_narrow_its_loops(self, store: SqliteStore) -> None:
        text = """
            name: wide
            concurrency: 1
            steps:
            - name: a
              loop: {items: "{{ [1, 2] }}", concurrency: 2}
              run: [{action: set, set: {x: 1}}]
        """
        harness = RunHarness(store, text)
        claim = harness.claim()
        assert claim is not None
        step = harness.plan.steps["a"]

        admission = harness.executor()._ask_for_slots(claim, step, load_scope(store, claim, step), None)
        assert admission.narrow(step) == step
        harness.clock.now += LEASE_SECONDS + 1
        harness.finish()


class TestRatesOfRuns:
    def test_a_run_asks_once(self, store: SqliteStore) -> None:
        text = (
            text_of()
            .replace("      rate: {limit: 1, per: 1m}\n", "")
            .replace("name: call", "name: call\n    rate: {limit: 1, per: 1m}")
        )
        runs = Runs(store, text)
        for harness in runs:
            execute_all(harness)
        first, second = runs
        assert first.status == "succeeded"
        assert limit_visit(second).due_at == 1_000_060.0
        assert [slot.limit for slot in store.gates.slots_of(second.id)] == ["call"]
        assert second.finish().status == "succeeded"
        assert times_of(second) == times_of(second, step="last") == [60.0]

    @pytest.mark.parametrize(
        ("option", "reason"),
        [
            ("when_full: skip", "limit `call` is full"),
            ("max_wait: 5s", "no unit of limit `call` becomes free within 5 s, only at 1970-01-12T13:47:40"),
        ],
    )
    def test_a_run_that_would_wait_is_skipped(self, store: SqliteStore, option: str, reason: str) -> None:
        text = text_of().replace("      rate: {limit: 1, per: 1m}\n", "")
        rate = f"rate: {{limit: 1, per: 1m, {option}}}"
        runs = Runs(store, text.replace("name: call", f"name: call\n    {rate}"))
        first, second = runs
        assert (first.finish().status, second.finish().status) == ("succeeded", "skipped")
        (skipped,) = [event for event in second.events if event.type == "workflow.skipped"]
        assert reason in str(skipped.payload)


class TestOperatorRates:
    def set_rate(self, store: SqliteStore, units: int, per: float | None = 60.0) -> Any:
        return store.gates.set_limit(named_gate("default", "api"), LimitKind.STEPS, units, per)

    def test_a_step_uses_a_rate_of_the_operator(self, store: SqliteStore) -> None:
        self.set_rate(store, 1)
        runs = Runs(store, text_of("[{use: api}, {limit: 1, per: 10s}]"), count=3)
        first, second, third = runs
        first.finish()
        execute_all(second)
        assert limit_visit(second).due_at == 1_000_060.0
        self.set_rate(store, 2)
        execute_all(third)
        # What is reserved stays reserved.
        assert limit_visit(third).due_at == 1_000_070.0
        assert (second.finish().status, third.finish().status) == ("succeeded", "succeeded")

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("", "`api` is a limit, which a step or playbook names in `concurrency`"),
            ("concurrency", "`api` is a rate, which a step or playbook names in `rate`"),
            ("batch", "a batch of 2 items exceeds the 1 of rate `api`"),
            ("unknown", "unknown limit `api`; an operator makes it with `noetl limits set`"),
        ],
    )
    def test_a_wrong_limit_fails_the_step(self, store: SqliteStore, key: str, message: str) -> None:
        if key != "unknown":
            self.set_rate(store, 1, 60.0 if key else None)
        text = text_of("{use: api}", TestRatesOfLoops.LOOP if key == "batch" else "")
        if key == "concurrency":
            text = text.replace("rate:", "concurrency:")
        harness = RunHarness(store, text).finish()
        assert harness.error_types == ["ParameterError"]
        assert message in str(harness.run.error)
