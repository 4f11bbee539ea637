"""The contract of `debounce`: starts that follow each other soon make one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.engine.start import new_run
from noetl.executor.engine.switching import PlanSwitcher, SwitchRequest
from noetl.executor.errors import RejectedError, TriggerChangedError
from noetl.executor.model.run import Claim, Run, RunEnding, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.triggers import Advance
from noetl.executor.stores.interface import Store
from noetl.planner.continuation.switch_state import Switch
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    LEASE,
    current_run,
    failed_checks,
    run_concurrently,
)
from noetl.testing.store_contract.switches import judge
from noetl.testing.store_contract.triggers import advance_by, declare, list_firings, read_trigger, register

TEXT = """
    input: {order: any, n: any}
    debounce: {key: "{{ input.order }}", wait: 10s, max: 25s}
    environment: {seen: "{{ input.n }}"}
    steps:
    - {name: a, run: [{action: set, set: {m: "{{ input.n }}"}}]}
"""
UNDEBOUNCED_TEXT = TEXT.replace("debounce:", "concurrency:").replace("wait: 10s, max: 25s", "limit: 5")
OTHER_TEXT = TEXT.replace("name: a,", "name: other,")
QUEUE = "debounced"


def prepare(
    store: Store, given: Mapping[str, Any], now: float, text: str = TEXT, **options: Any
) -> tuple[Run, Visit]:
    """Return a run and its first visit, which are not stored yet."""
    plan = compile_text(text)
    store.plans.save(plan)
    request = StartRequest({"order": 1, "n": 0, **given}, queue=QUEUE, **options)
    return new_run(plan.header, plan.hash, request, now=now)


def start(store: Store, n: int, now: float, key: tuple[str, str] | None = None, **given: Any) -> Run:
    """Start a run, or join a pending one."""
    run, first = prepare(store, {"n": n, **given}, now)
    return store.runs.create(run, first, key)


def claim(store: Store, now: float) -> Claim | None:
    return store.queue.claim(QUEUE, LEASE, now)


def due_time(store: Store, run: Run) -> float:
    (visit,) = store.runs.visits(run.id)
    return visit.due_at


def count_runs(store: Store) -> int:
    return len(store.runs.find(RunFilter())[0])


def fire(store: Store, advance: Advance, n: int, now: float, text: str = TEXT, **options: Any) -> Run:
    """Start the run of a firing, or join a pending one."""
    run, first = prepare(store, {"n": n}, now, text, run_id=advance.firings[-1].id, **options)
    return store.runs.fire(run, first, advance)


class DebounceContract(ContractFixtures):
    """Tests of starts that may join a pending run."""

    def test_a_start_joins_a_pending_run(self, store: Store, second: Store) -> None:
        run, given = start(store, 1, 100.0), {"n": 2, "text": "x" * 5000}
        assert due_time(store, run) == 110.0
        joined = second.runs.create(*prepare(second, {"n": given, "order": 1}, 105.0))
        assert (joined.id, joined.input["n"], joined.debounce) == (run.id, given, run.debounce)
        assert [(made.starts, made.is_joined) for made in (run, joined)] == [(1, False), (2, True)]
        assert due_time(second, run) == 115.0
        stored = current_run(store, run)
        assert (stored.input, stored.environment) == ({"order": 1, "n": given}, {"seen": given})
        assert (stored.status, stored.created_at, stored.debounce) == (RunStatus.QUEUED, 100.0, None)
        assert claim(store, 114.9) is None
        claimed = claim(second, 115.0)
        assert claimed is not None
        assert (claimed.run.id, claimed.run.input["n"], claimed.run.starts) == (run.id, given, 2)
        assert count_runs(store) == 1
        assert failed_checks(store) == []

    def test_a_run_begins_at_its_latest_time(self, store: Store) -> None:
        run = start(store, 1, 100.0)
        assert [start(store, n, now).id for n, now in ((2, 109.0), (3, 118.0), (4, 124.0))] == [run.id] * 3
        assert due_time(store, run) == 125.0
        assert start(store, 5, 130.0).id == run.id, "no worker has begun it"
        assert due_time(store, run) == 125.0
        assert [summary.starts for summary in store.runs.find(RunFilter())[0]] == [5]

    def test_other_keys_plans_and_tenants_have_runs_of_their_own(self, store: Store) -> None:
        first = start(store, 1, 100.0)
        separate_runs = [
            start(store, 1, 100.0, order=2),
            store.runs.create(*prepare(store, {}, 100.0, OTHER_TEXT)),
            store.runs.create(*prepare(store, {}, 100.0, tenant="other")),
            store.runs.create(*prepare(store, {}, 100.0, is_immediate=True)),
        ]
        assert len({run.id for run in (first, *separate_runs)}) == 5
        assert due_time(store, separate_runs[-1]) == 100.0

    def test_a_run_that_has_begun_is_joined_by_no_start(self, store: Store) -> None:
        run = start(store, 1, 100.0)
        assert claim(store, 110.0) is not None
        following = start(store, 2, 111.0)
        assert following.id != run.id
        assert current_run(store, run).input["n"] == 1
        assert start(store, 3, 112.0).id == following.id

    @pytest.mark.parametrize("status", [RunStatus.PAUSED, RunStatus.CANCELLED])
    def test_a_stopped_run_is_joined_by_no_start(self, store: Store, status: RunStatus) -> None:
        run = start(store, 1, 100.0)
        store.runs.stop(run.id, status, 101.0)
        assert start(store, 2, 102.0).id != run.id
        assert current_run(store, run).input["n"] == 1

    @pytest.mark.parametrize("unpaused_at", [104.0, 112.0])
    def test_a_pause_keeps_the_time_when_a_run_begins(self, store: Store, unpaused_at: float) -> None:
        run = start(store, 1, 100.0)
        store.pauses.pause(run.id, 101.0)
        assert claim(store, 111.0) is None
        store.pauses.unpause(run.id, unpaused_at)
        begins_at = max(unpaused_at, 110.0)
        (visit,) = store.runs.visits(run.id)
        assert (visit.status, visit.due_at) == (VisitStatus.READY, begins_at)
        assert store.queue.next_due(QUEUE) == begins_at
        assert claim(store, begins_at - 0.1) is None
        claimed = claim(store, begins_at)
        assert claimed is not None
        assert claimed.run.id == run.id
        assert failed_checks(store) == []

    def test_a_start_joins_a_run_after_its_pause(self, store: Store) -> None:
        run = start(store, 1, 100.0)
        store.pauses.pause(run.id, 101.0)
        store.pauses.unpause(run.id, 102.0)
        assert start(store, 2, 105.0).id == run.id
        assert due_time(store, run) == 115.0

    def test_a_run_that_was_switched_to_another_plan_is_joined_by_no_start(self, store: Store) -> None:
        run = start(store, 1, 100.0)
        plan = compile_text(TEXT.replace("seen:", "found:"))
        store.plans.save(plan)
        switcher = PlanSwitcher(store, lambda: 101.0, judge)
        assert switcher.switch(run.id, SwitchRequest(plan, Switch())).run is not None
        following = start(store, 2, 102.0)
        assert following.id != run.id
        switched = current_run(store, run)
        assert (switched.input["n"], switched.starts, switched.plan_hash) == (1, 1, plan.hash)
        assert start(store, 3, 103.0).id == following.id
        assert failed_checks(store) == []

    def test_a_run_that_was_set_aside_is_joined_by_no_start(self, store: Store) -> None:
        run = start(store, 1, 100.0)
        assert store.maintenance.set_aside(run.id, "its data is damaged")
        assert start(store, 2, 102.0).id != run.id

    def test_a_repeated_request_joins_once(self, store: Store) -> None:
        run = start(store, 1, 100.0, ("a", "x"))
        assert start(store, 2, 105.0, ("b", "x")).id == run.id
        assert start(store, 3, 106.0, ("b", "x")).id == run.id
        assert (current_run(store, run).input["n"], due_time(store, run)) == (2, 115.0)
        assert current_run(store, run).starts == 2
        with pytest.raises(RejectedError):
            start(store, 3, 106.0, ("b", "y"))
        assert claim(store, 115.0) is not None
        assert [start(store, 3, 116.0, (key, "x")).id for key in "ab"] == [run.id, run.id]
        assert count_runs(store) == 1

    def test_starts_at_once_make_one_run(self, store: Store) -> None:
        ids = run_concurrently(4, lambda n: start(store, n, 100.0, (f"{n}", "x")).id)
        assert len(set(ids)) == 1
        assert [summary.starts for summary in store.runs.find(RunFilter())[0]] == [4]
        assert failed_checks(store) == []

    def test_no_start_is_lost_while_a_run_begins(self, store: Store) -> None:
        run = start(store, 0, 100.0)
        # The run has waited for its longest time, so it is due whether the other start joins it or not.
        results = run_concurrently(2, lambda n: start(store, 7, 130.0) if n else claim(store, 130.0))
        claimed, started = results
        assert claimed is not None
        assert claimed.run.id == run.id
        if started.id == run.id:
            assert claimed.run.input["n"] == 7
        else:
            assert claimed.run.input["n"] == 0
            assert current_run(store, started).input["n"] == 7

    def test_a_firing_joins_a_pending_run_once(self, store: Store) -> None:
        register(store, declare())
        first = advance_by(read_trigger(store), 61.0)
        run = fire(store, first, 1, 61.0)
        assert (run.id, read_trigger(store).last_run) == (first.firings[0].id,) * 2
        second = advance_by(read_trigger(store), 65.0)
        joined = fire(store, second, 2, 65.0)
        assert (joined.id, joined.debounce is None, joined.input["n"]) == (run.id, False, 2)
        assert [firing.run_id for firing in list_firings(store)] == [run.id, run.id]
        assert (read_trigger(store).last_run, due_time(store, run)) == (run.id, 75.0)
        assert claim(store, 75.0) is not None
        for advance in (first, second):
            repeated = fire(store, advance, 3, 80.0)
            assert (repeated.id, repeated.debounce, repeated.input["n"]) == (run.id, None, 2)
        changed = advance_by(read_trigger(store), 81.0)
        stale = replace(changed, read=replace(changed.read, edition=1))
        with pytest.raises(TriggerChangedError):
            fire(store, stale, 4, 81.0)
        following = fire(store, changed, 4, 81.0)
        assert following.id == changed.firings[0].id
        third = advance_by(read_trigger(store), 82.0)
        with pytest.raises(TriggerChangedError):
            fire(store, replace(third, read=replace(third.read, edition=1)), 5, 82.0)
        assert (count_runs(store), len(list_firings(store))) == (2, 3)
        assert failed_checks(store) == []

    @pytest.mark.parametrize("text", [TEXT, UNDEBOUNCED_TEXT])
    def test_a_firing_that_has_joined_a_run_starts_no_other(self, store: Store, text: str) -> None:
        """Perform it again by a version without `debounce`, or for a backfill."""
        register(store, declare())
        pending = start(store, 1, 60.0)
        advance = advance_by(read_trigger(store), 61.0)
        assert fire(store, advance, 2, 61.0).id == pending.id
        assert fire(store, advance, 3, 62.0, text, is_immediate=True).id == pending.id
        assert (current_run(store, pending).input["n"], count_runs(store)) == (2, 1)
        assert len(list_firings(store)) == 1
        assert failed_checks(store) == []

    @pytest.mark.parametrize("text", [TEXT, UNDEBOUNCED_TEXT])
    def test_a_firing_that_has_started_a_run_joins_no_other(self, store: Store, text: str) -> None:
        """Perform it first by a version without `debounce`, or for a backfill."""
        register(store, declare())
        advance = advance_by(read_trigger(store), 61.0)
        run = fire(store, advance, 1, 61.0, text, is_immediate=True)
        assert run.id == advance.firings[-1].id
        pending = start(store, 2, 62.0)
        assert fire(store, advance, 3, 63.0).id == run.id
        assert (current_run(store, pending).input["n"], current_run(store, pending).starts) == (2, 1)
        assert (count_runs(store), len(list_firings(store))) == (2, 1)
        assert failed_checks(store) == []

    def test_a_deleted_run_leaves_nothing_of_its_key(self, store: Store) -> None:
        run = start(store, 1, 100.0, ("a", "x"))
        assert start(store, 2, 101.0, ("b", "x")).id == run.id
        store.runs.stop(run.id, RunStatus.CANCELLED, 102.0)
        following = start(store, 3, 103.0)
        claimed = claim(store, 103.0)
        assert claimed is not None
        assert claimed.run.id == run.id
        store.queue.finish(claimed, RunEnding(RunStatus.CANCELLED, None, []), 103.0)
        assert store.maintenance.delete_run(run.tenant, run.id)
        assert store.runs.find_request(run.tenant, "b") is None
        assert start(store, 4, 104.0).id == following.id, "the key of another run stays"
        assert failed_checks(store) == []
