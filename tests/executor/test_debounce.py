"""Starts of playbooks with `debounce`: which of them wait, what their keys are, and their firings."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from noetl.executor.engine import backfill
from noetl.executor.engine.hand_firing import HandFiring, fire_by_hand
from noetl.executor.engine.slots import grant_next
from noetl.executor.engine.start import assemble_run, initial_data, new_run, new_run_from
from noetl.executor.errors import RejectedError
from noetl.executor.model.backfills import BackfillState
from noetl.executor.model.debounce import MAX_KEY_BYTES
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.model.postponement import Postponement
from noetl.executor.model.run import Lease, Run, Visit
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import FakeClock, RunHarness, compile_text
from tests.executor.test_backfill import DAILY, DAY, FROM, BackfillBench
from tests.executor.test_webhook_firing import HookedPlaybook


def fire_at(bench: BackfillBench, instant: float) -> str:
    """Fire a trigger at an instant of its schedule, and return the id of the run."""
    trigger = bench.store.triggers.get("default", "play", "daily")
    assert trigger is not None
    return fire_by_hand(bench.store, trigger, HandFiring("", instant), bench.clock())[0].id


TEXT = """
timeout: 1m
input: {order: any}
environment: {region: eu}
debounce: {key: "{{ input.order }}", wait: 10s, max: 25s}
steps:
- {name: a, run: [{action: log, message: x}]}
"""


def start(order: Any = 1, text: str = TEXT, **options: Any) -> tuple[Run, Visit]:
    plan = compile_text(text)
    return new_run(plan.header, plan.hash, StartRequest({"order": order}, **options), now=100.0)


def postponement(order: Any = 1, text: str = TEXT, **options: Any) -> Postponement:
    found = start(order, text, **options)[0].debounce
    assert found is not None
    return found


class TestDebouncedStart:
    """The run of a start and its first visit."""

    def test_a_start_of_a_service_waits(self) -> None:
        run, first = start()
        assert (first.due_at, run.created_at) == (110.0, 100.0)
        assert run.deadline_at == 185.0, "the time limit counts from the latest begin"
        assert run.debounce is not None
        assert (run.debounce.wait_seconds, run.debounce.max_seconds) == (10.0, 25.0)

    @pytest.mark.parametrize("options", [{"origin": "local"}, {"root": "r"}, {"is_immediate": True}])
    def test_other_runs_begin_at_once(self, options: dict[str, Any]) -> None:
        run, first = start(**options)
        assert (run.debounce, first.due_at, run.deadline_at) == (None, 100.0, 160.0)

    def test_a_run_that_continues_another_one_begins_at_once(self) -> None:
        plan, (run, _) = compile_text(TEXT), start()
        following, first = new_run_from(plan.header, run, {}, now=200.0)
        assert (following.debounce, first.due_at) == (None, 200.0)


class TestKey:
    """The keys of starts."""

    @pytest.mark.parametrize(
        ("value", "again", "is_same"),
        [
            (1, 1, True),
            ("a", "a", True),
            (1, "1", True),
            (True, "true", True),
            (1, 2, False),
            ("", "x", False),
            ("x" * MAX_KEY_BYTES, "x" * MAX_KEY_BYTES, True),
            ("\ud800", "\ud801", False),
        ],
    )
    def test_equal_values_are_one_key(self, value: Any, again: Any, is_same: bool) -> None:
        assert (postponement(value).key == postponement(again).key) is is_same

    def test_the_environment_counts(self) -> None:
        by_region = TEXT.replace("input.order", "region")
        assert postponement(1, by_region).key == postponement(2, by_region).key
        assert postponement(1, by_region.replace("eu", "us")).key != postponement(1, by_region).key

    def test_without_a_key_all_starts_are_one(self) -> None:
        text = TEXT.replace('key: "{{ input.order }}", ', "")
        assert postponement(1, text).key == postponement(2, text).key
        assert postponement(1, text, tenant="other").key != postponement(1, text).key

    @pytest.mark.parametrize(
        ("order", "message"),
        [
            ([], "`debounce.key` must be a text, a number or a Boolean, not a list"),
            (None, "`debounce.key` must be a text, a number or a Boolean, not none"),
            ("é" * 513, "`debounce.key` has 1,026 bytes; it may have 1,024"),
        ],
    )
    def test_another_value_is_rejected(self, order: Any, message: str) -> None:
        with pytest.raises(RejectedError) as rejected:
            start(order)
        assert (rejected.value.reason, rejected.value.message) == ("invalid_input", message)
        assert [problem["name"] for problem in rejected.value.details["inputs"]] == ["debounce.key"]

    def test_a_key_without_a_value_is_rejected(self) -> None:
        with pytest.raises(RejectedError, match=r"`debounce\.key` has no value for this input"):
            start("a", TEXT.replace("input.order", "input.order.x.y"))

    def test_a_key_with_an_operation_is_evaluated_elsewhere(self) -> None:
        for expression, is_light in (("input.order", True), ("input.order | upper", False)):
            plan = compile_text(TEXT.replace("input.order", expression))
            data = initial_data(plan.header, StartRequest({"order": "a"}), now=1.0)
            assert data.is_light is is_light
            assert assemble_run(data, plan.hash, StartRequest(), data.evaluate())[0].debounce is not None


class TestDebouncedFirings:
    """Firings of triggers of a playbook with `debounce`."""

    def test_a_repeated_request_of_a_webhook_changes_nothing(self) -> None:
        service = HookedPlaybook("input: {number: '{{ trigger.body }}'}\ndebounce: {wait: 10s}")
        first = service.send(b"1", 1)
        service.clock.advance(5)
        second = service.send(b"2", 2)
        assert (second.run_id, second.is_repeat) == (first.run_id, False)
        service.clock.advance(10)
        claimed = service.store.queue.claim("service", Lease("w", 60.0), service.clock())
        assert claimed is not None
        assert claimed.run.input == {"number": 2}
        for body, value in ((b"1", 1), (b"2", 2)):
            repeated = service.send(body, value)
            assert (repeated.run_id, repeated.is_repeat) == (first.run_id, True)
        assert service.send(b"3", 3).run_id != first.run_id
        assert [firing.run_id == first.run_id for firing in service.firings()] == [True, True, False]

    def test_partitions_of_a_backfill_begin_at_once(self) -> None:
        bench = BackfillBench(DAILY + "debounce: {wait: 1h}\n")
        bench.start(limit=3)
        bench.perform_due()
        runs, _ = bench.store.runs.find(RunFilter())
        assert len(runs) == 3
        assert bench.store.queue.next_due("service") == bench.clock()

    def test_a_backfill_skips_instants_that_have_joined_a_run(self) -> None:
        bench = BackfillBench(DAILY + "debounce: {wait: 1h}\n")
        first, second = (fire_at(bench, FROM + 5_400 + day * DAY) for day in (0, 1))
        assert first == second
        for text in (DAILY, DAILY + "debounce: {wait: 2h}\n"):
            bench.start(days=2, limit=2)
            bench.perform_due()
            assert bench.counts == {"passed": 2, "skipped": 2}
            bench.register(text)
        bench.clock.advance(3600)
        bench.execute()
        bench.start(days=2, redo="all")
        assert bench.finish().state is BackfillState.SUCCEEDED
        assert bench.counts == {"passed": 2, "started": 2, "succeeded": 2}

    def test_an_instant_that_joins_a_run_after_it_was_chosen_is_skipped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench = BackfillBench(DAILY + "debounce: {wait: 1h}\n")
        first, second = (fire_at(bench, FROM + 5_400 + day * DAY) for day in (0, 1))
        assert first == second
        bench.start(days=2, limit=2)
        with monkeypatch.context() as patch:
            patch.setattr(backfill, "find_last_attempts", lambda *_: {})
            patch.setattr(backfill, "find_joined", lambda *_: None)
            bench.perform_due()
        assert bench.counts == {"passed": 2, "started": 1, "skipped": 1}
        assert len(bench.store.runs.find(RunFilter())[0]) == 1

    def test_a_backfill_reads_joined_runs_of_the_partitions_that_it_takes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench = BackfillBench(DAILY)
        bench.start(days=3, limit=4)
        bench.finish()
        runs = bench.store.runs
        reader = mock.Mock(side_effect=runs.find_request)
        monkeypatch.setattr(runs, "find_request", reader)
        bench.start(days=30, limit=1)
        bench.perform_due()
        assert bench.counts == {"passed": 4, "skipped": 3, "started": 1}
        assert reader.call_count == 1

    def test_a_firing_by_hand_joins_a_run(self) -> None:
        service = HookedPlaybook("input: {}\ndebounce: {wait: 10s}")
        first = service.send()
        trigger, now = service.firer().trigger, service.clock()
        run, is_new = fire_by_hand(service.store, trigger, HandFiring("k"), now)
        assert (run.id, is_new) == (first.run_id, True)
        run, is_new = fire_by_hand(service.store, trigger, HandFiring("k"), now)
        assert (run.id, is_new) == (first.run_id, False)

    def test_a_firing_that_joins_counts(self) -> None:
        service = HookedPlaybook("input: {}\ndebounce: {wait: 10s}")
        service.send()
        run, _ = fire_by_hand(service.store, service.firer().trigger, HandFiring("k"), service.clock())
        assert (run.starts, run.is_joined) == (2, True)


@pytest.mark.parametrize("limit", ["", "concurrency: {use: closed}\n"])
def test_the_history_says_once_how_many_starts_share_a_run(limit: str) -> None:
    store, clock, closed = MemoryStore(), FakeClock(), named_gate("default", "closed")
    store.gates.set_limit(closed, LimitKind.RUNS, 0)
    text = f"{limit}debounce: {{wait: 10s}}\nsteps: [{{name: a, run: [{{action: fail, message: no}}]}}]\n"
    play, *joining = (
        RunHarness(store, text, clock=clock, origin="service", queue="debounced") for _ in range(3)
    )
    assert {joined.id for joined in joining} == {play.id}
    clock.advance(10.0)
    assert play.execute_next()
    store.gates.set_limit(closed, LimitKind.RUNS, 1)
    grant_next(store, [closed], clock())
    play.finish().resume().finish()
    events = [event for event in play.events if event.type == "workflow.debounced"]
    assert [(event.payload, event.step) for event in events] == [({"starts": 3}, None)]
