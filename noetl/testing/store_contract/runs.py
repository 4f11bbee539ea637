"""The contract of `RunStore`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from textwrap import dedent
from typing import Any

import pytest

from noetl.executor.engine.start import new_run
from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.outcome import Suspension, error_record
from noetl.executor.model.run import (
    END,
    Progress,
    Run,
    RunEnding,
    RunStatus,
    WaitKey,
)
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import ResultText, RunSummary, latest_visits, summarize
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.transition import abandon, suspend
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    CHAIN,
    CYCLE,
    DIAMOND,
    LEASE,
    claim_visit,
    comparable_values,
    current_run,
    end_run,
    fail,
    peak_bytes,
    run_concurrently,
    run_contents,
    start_child,
    start_run,
    succeed,
    suspend_claim,
    visit_states,
    with_failed_items,
)


class RunsContract(ContractFixtures):
    """Tests of runs."""

    # Start of a run

    def test_child_runs_are_counted_by_their_root(self, store: Store, second: Store) -> None:
        root, other = start_run(store), start_run(store)
        options: dict[str, Any] = {"root": root.id, "max_child_runs": 3}
        children = [start_child(store, root, None, f"child{number}", **options) for number in range(3)]
        assert current_run(store, children[0]).root == root.id
        assert start_child(store, children[0], None, "child1", **options).id == "child1"
        message = rf"run {root.id} and its child runs have started 3 runs \(NOETL_MAX_CHILD_RUNS\)"
        with pytest.raises(RejectedError, match=message) as rejected:
            start_child(second, children[2], None, "child3", **options)
        assert (rejected.value.reason, rejected.value.details["limit"]) == ("quota_exceeded", 3)
        assert store.runs.get("default", "child3") is None
        start_child(store, other, None, "other", **{**options, "root": other.id})
        start_child(store, root, None, "free", root=root.id)

    def test_bytes_of_a_run_are_summed_by_kind(self, store: Store, second: Store) -> None:
        run, other = start_run(store), start_run(store)
        assert store.runs.add_bytes(run.id, "logged", 3) == 3
        assert second.runs.add_bytes(run.id, "logged", 2**40) == 2**40 + 3
        assert store.runs.add_bytes(run.id, "written", 5) == 5
        assert store.runs.add_bytes(other.id, "logged", 1) == 1
        assert sorted(run_concurrently(8, lambda _: store.runs.add_bytes(other.id, "written", 1))) == [
            *range(1, 9)
        ]
        assert store.maintenance.check_consistency() == []

    def test_concurrent_starts_do_not_exceed_the_limit_of_child_runs(self, store: Store) -> None:
        root = start_run(store)

        def start(number: int) -> bool:
            try:
                start_child(store, root, None, f"child{number}", root=root.id, max_child_runs=4)
            except RejectedError:
                return False
            return True

        assert sum(run_concurrently(8, start)) == 4

    def test_a_run_is_read_as_it_was_created(self, store: Store) -> None:
        options: dict[str, Any] = {"tags": ["x", "é"], "folder": "/a b", "variables": {}}
        run = start_run(
            store,
            "variables: {v: {x: [1, null]}}\ninput: {i: any}" + dedent(CHAIN),
            input={"i": "\ud83d"},
            **options,
        )
        assert current_run(store, run) == run
        assert run.status is RunStatus.QUEUED
        (visit,) = store.runs.visits(run.id)
        assert (visit.step, visit.status, visit.number, visit.attempt, visit.due_at) == (
            "a",
            "ready",
            1,
            1,
            0.0,
        )
        assert [event.type for event in store.runs.events(run.id)] == ["workflow.started"]

    def test_one_idempotency_key_starts_one_run(self, store: Store) -> None:
        first = start_run(store, key=("k", "body"))
        assert start_run(store, now=5.0, key=("k", "body")) == first
        assert start_run(store, key=("other", "body")).id != first.id
        assert start_run(store, key=("k", "body"), tenant="another").id != first.id
        with pytest.raises(RejectedError) as rejected:
            start_run(store, key=("k", "another body"))
        assert rejected.value.reason == "idempotency_key_reused"
        assert len(store.runs.find(RunFilter())[0]) == 2

    def test_concurrent_starts_with_one_idempotency_key_start_one_run(self, store: Store) -> None:
        runs = run_concurrently(6, lambda _: start_run(store, key=("k", "body")).id)
        assert len(set(runs)) == 1
        assert [run.id for run in store.runs.find(RunFilter())[0]] == runs[:1]

    # Retry, stop, end and resume

    def test_a_retry_is_due_at_its_time(self, store: Store) -> None:
        run = start_run(store)
        store.queue.commit(fail(store, claim_visit(store, run), retry_at=50.0), 1.0)
        (visit,) = store.runs.visits(run.id)
        assert (visit.status, visit.attempt, visit.claims, visit.due_at) == ("retrying", 2, 0, 50.0)
        assert visit.error is not None
        assert store.queue.next_due(run.id) == 50.0
        assert store.queue.claim(run.id, LEASE, 49.9) is None
        again = claim_visit(store, run, 50.0)
        assert (again.visit.attempt, again.visit.claims, again.visit.fence) == (2, 1, 2)
        assert again.visit.started_at == 50.0
        assert [event.type for event in store.runs.events(run.id)][-2:] == ["step.retrying", "step.started"]

    def test_the_end_of_the_last_branch_ends_the_run(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(3):
            assert current_run(store, run).live == 1
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        assert current_run(store, run).live == 0
        end = claim_visit(store, run)
        assert end.visit.step == END
        store.queue.finish(end, RunEnding(RunStatus.SUCCEEDED, {"x": [1]}, []), 9.0)
        finished = current_run(store, run)
        assert (finished.status, finished.result, finished.finished_at) == ("succeeded", {"x": [1]}, 9.0)
        assert store.runs.events(run.id)[-1].type == "workflow.completed"
        assert store.queue.next_due(run.id) is None
        with pytest.raises(FencedError):
            store.queue.finish(end, RunEnding(RunStatus.FAILED, None, []), 10.0)
        assert current_run(store, run) == finished

    def test_a_failure_parks_ready_visits(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        first, second = claim_visit(store, run, 1.0), claim_visit(store, run, 1.0)
        store.queue.commit(fail(store, first), 2.0)
        assert current_run(store, run).stop is RunStatus.FAILED
        expected = [
            ("a", "succeeded"),
            ("b1", "failed"),
            ("b2", "running"),
            ("b3", "parked"),
            ("b4", "parked"),
        ]
        assert visit_states(store, run) == expected
        assert store.queue.claim(run.id, LEASE, 3.0) is None
        store.queue.commit(succeed(store, second), 3.0)
        assert visit_states(store, run)[-1] == (END, "ready")
        finished = end_run(store, run, RunStatus.FAILED, 3.0)
        assert (finished.status, finished.error and finished.error["message"]) == ("failed", "no")

    def test_the_next_visit_of_a_stopping_run_is_parked(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        assert store.queue.commit(succeed(store, claim), 2.0, LEASE).following is not None
        assert visit_states(store, run) == [("a", "succeeded"), ("b", "parked"), (END, "running")]

    def test_a_retry_in_a_stopping_run_is_parked(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        store.queue.commit(fail(store, claim, retry_at=9.0), 2.0)
        assert visit_states(store, run) == [("a", "parked"), (END, "ready")]

    def test_a_stop_parks_visits_and_ends_the_run(self, store: Store) -> None:
        run = start_run(store)
        stopped = store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        assert stopped.stop is RunStatus.CANCELLED
        assert visit_states(store, run) == [("a", "parked"), (END, "ready")]
        assert store.runs.stop(run.id, RunStatus.CANCELLED, 2.0).stop is RunStatus.CANCELLED
        assert visit_states(store, run) == [("a", "parked"), (END, "ready")]
        assert end_run(store, run, RunStatus.CANCELLED).status is RunStatus.CANCELLED
        assert store.runs.stop(run.id, RunStatus.CANCELLED, 3.0).status is RunStatus.CANCELLED
        assert [event.type for event in store.runs.events(run.id)][-1] == "workflow.cancelled"

    def test_a_stop_may_have_a_reason(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        first, second = (error_record(claim.visit, "Superseded", text) for text in ("one", "two"))
        assert store.runs.stop(run.id, RunStatus.CANCELLED, 1.0, first).error == first
        assert store.runs.stop(run.id, RunStatus.CANCELLED, 2.0, second).error == first
        store.queue.commit(abandon(claim.visit), 3.0)
        assert end_run(store, run, RunStatus.CANCELLED, 4.0).error == first
        assert store.runs.stop(run.id, RunStatus.CANCELLED, 5.0, second).error == first

    def test_the_first_reason_to_stop_is_kept(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        store.queue.commit(fail(store, claim), 2.0)
        assert current_run(store, run).stop is RunStatus.CANCELLED

    def test_a_stop_after_the_end_is_refused(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        finished = end_run(store, run, RunStatus.SUCCEEDED)
        with pytest.raises(RejectedError) as rejected:
            store.runs.stop(run.id, RunStatus.CANCELLED, 9.0)
        assert rejected.value.reason == "finished"
        assert current_run(store, run) == finished

    def test_a_resume_opens_failed_and_parked_visits(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        store.queue.commit(succeed(store, claim_visit(store, run, 1.0)), 2.0)
        store.queue.commit(fail(store, claim_visit(store, run, 2.0)), 3.0)
        end_run(store, run, RunStatus.FAILED, 4.0)
        resumed = store.runs.resume(run.id, 10.0, deadline_at=None, values={"input": {"i": 2}})
        assert (resumed.status, resumed.stop, resumed.resumes, resumed.error) == ("queued", None, 1, None)
        assert (resumed.input, resumed.environment) == ({"i": 2}, {})
        expected = [
            ("a", "succeeded"),
            ("b1", "succeeded"),
            ("b2", "ready"),
            ("b3", "ready"),
            ("b4", "ready"),
        ]
        assert visit_states(store, run) == expected
        again = store.runs.visits(run.id)[2]
        assert (again.attempt, again.claims, again.error, again.failure) == (1, 0, None, None)
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run, 10.0)), 10.0)
        assert [step for step, _ in visit_states(store, run)].count("c") == 1
        for _ in range(2):
            store.queue.commit(succeed(store, claim_visit(store, run, 10.0)), 10.0)
        assert end_run(store, run, RunStatus.SUCCEEDED, 11.0).status is RunStatus.SUCCEEDED
        assert "workflow.resumed" in [event.type for event in store.runs.events(run.id)]

    def test_one_idempotency_key_resumes_once(self, store: Store) -> None:
        run = start_run(store)

        def resume(key: tuple[str, str], now: float) -> Run:
            return store.runs.resume(run.id, now, deadline_at=None, values={}, idempotency=key)

        def fail_again(now: float) -> Run:
            store.queue.commit(fail(store, claim_visit(store, run, now)), now)
            return end_run(store, run, RunStatus.FAILED, now)

        assert store.runs.find_request(run.tenant, "k") is None
        fail_again(1.0)
        assert resume(("k", "body"), 2.0).resumes == 1
        assert resume(("k", "body"), 3.0).resumes == 1
        assert store.runs.find_request(run.tenant, "k") == ("body", run.id)
        assert store.runs.find_request("another", "k") is None
        ended = fail_again(4.0)
        assert resume(("k", "body"), 5.0) == ended
        with pytest.raises(RejectedError) as rejected:
            resume(("k", "another body"), 6.0)
        assert rejected.value.reason == "idempotency_key_reused"
        assert current_run(store, run) == ended
        assert resume(("another", "body"), 7.0).resumes == 2
        assert [event.type for event in store.runs.events(run.id)].count("workflow.resumed") == 2

    def test_a_key_of_a_resume_without_effect_is_kept(self, store: Store) -> None:
        run = start_run(store)
        for now in (1.0, 2.0):
            options: dict[str, Any] = {"deadline_at": None, "values": {}, "idempotency": ("k", "body")}
            assert store.runs.resume(run.id, now, **options).resumes == 0
        store.queue.commit(fail(store, claim_visit(store, run, 3.0)), 3.0)
        ended = end_run(store, run, RunStatus.FAILED, 3.0)
        assert store.runs.resume(run.id, 4.0, **options) == ended

    def test_concurrent_resumes_with_one_idempotency_key_resume_once(self, store: Store) -> None:
        run = start_run(store)
        store.queue.commit(fail(store, claim_visit(store, run)), 1.0)
        end_run(store, run, RunStatus.FAILED, 1.0)
        options: dict[str, Any] = {"deadline_at": None, "values": {}, "idempotency": ("k", "body")}
        runs = run_concurrently(6, lambda _: store.runs.resume(run.id, 2.0, **options))
        assert {resumed.resumes for resumed in runs} == {1}
        assert [event.type for event in store.runs.events(run.id)].count("workflow.resumed") == 1

    def test_a_resume_of_a_run_without_open_visits_ends_it(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(2):
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        last = claim_visit(store, run)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        store.queue.commit(succeed(store, last), 1.0)
        end_run(store, run, RunStatus.CANCELLED)
        store.runs.resume(run.id, 10.0, deadline_at=None, values={})
        assert end_run(store, run, RunStatus.SUCCEEDED, 10.0).status is RunStatus.SUCCEEDED

    @pytest.mark.parametrize("paused_before", [False, True])
    def test_a_resume_makes_a_pending_retry_due_at_once(self, store: Store, *, paused_before: bool) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        if paused_before:
            later = Suspension(Progress(journal={"run": {"at": 1}}), due_at=1.0)
            store.queue.commit(suspend(claim.visit, later, 1.0), 1.0)
            claim = claim_visit(store, run, 1.0)
        store.queue.commit(fail(store, claim, retry_at=900.0), 2.0)
        store.runs.stop(run.id, RunStatus.CANCELLED, 3.0)
        end_run(store, run, RunStatus.CANCELLED, 3.0)
        store.runs.resume(run.id, 10.0, deadline_at=None, values={})
        again = claim_visit(store, run, 10.0).visit
        assert (again.step, again.attempt, again.progress) == ("a", 1, claim.visit.progress)

    def test_a_suspended_visit_stays_suspended_after_a_resume(self, store: Store) -> None:
        run = start_run(store)
        later = Suspension(Progress(journal={"run": {"at": 1}}), due_at=50.0)
        store.queue.commit(suspend(claim_visit(store, run).visit, later, 1.0), 1.0)
        store.runs.stop(run.id, RunStatus.CANCELLED, 3.0)
        end_run(store, run, RunStatus.CANCELLED, 3.0)
        store.runs.resume(run.id, 10.0, deadline_at=None, values={})
        assert store.queue.claim(run.id, LEASE, 49.0) is None
        assert claim_visit(store, run, 50.0).visit.progress == later.progress

    def test_a_run_that_has_not_ended_is_not_resumed(self, store: Store) -> None:
        run = start_run(store)
        before = run_contents(store, run)
        assert store.runs.resume(run.id, 1.0, deadline_at=None, values={}) == run
        assert run_contents(store, run) == before

    def test_a_run_that_succeeded_is_not_resumed(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        end_run(store, run, RunStatus.SUCCEEDED)
        before = run_contents(store, run)
        with pytest.raises(RejectedError) as rejected:
            store.runs.resume(run.id, 1.0, deadline_at=None, values={})
        assert rejected.value.reason == "not_resumable"
        assert run_contents(store, run) == before

    def test_a_worker_from_before_the_resume_is_fenced(self, store: Store) -> None:
        run = start_run(store)
        lost = claim_visit(store, run)
        held = claim_visit(store, run, 30.0)
        store.queue.commit(fail(store, held), 31.0)
        end_run(store, run, RunStatus.FAILED, 32.0)
        store.runs.resume(run.id, 40.0, deadline_at=None, values={})
        for zombie in (lost, held):
            with pytest.raises(FencedError):
                store.queue.commit(succeed(store, zombie), 41.0)
        again = claim_visit(store, run, 42.0)
        with pytest.raises(FencedError):
            store.queue.commit(succeed(store, held), 43.0)
        store.queue.commit(succeed(store, again), 44.0)

    # Queries

    def test_runs_are_returned_in_pages(self, store: Store) -> None:
        runs = [start_run(store, now=float(index // 2)) for index in range(7)]
        newest_first = [
            run.id for run in sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True)
        ]
        run_ids: list[str] = []
        cursor = None
        while True:
            page, cursor = store.runs.find(RunFilter(limit=3, cursor=cursor))
            run_ids += [run.id for run in page]
            start_run(store, now=100.0)
            if cursor is None:
                break
        assert run_ids == newest_first
        for broken in ("", "x", "!!!", "bnVsbA==", "WzFd", cursor or "e30="):
            with pytest.raises(RejectedError) as rejected:
                store.runs.find(RunFilter(cursor=broken))
            assert rejected.value.reason == "invalid_cursor"

    def test_runs_are_filtered(self, store: Store) -> None:
        first = start_run(store, "name: x" + dedent(CHAIN), now=1.0, tags=["red", "blue"])
        second = start_run(store, "name: y" + dedent(CHAIN), now=2.0, tags=["blue"])
        store.runs.stop(first.id, RunStatus.CANCELLED, 3.0)
        end_run(store, first, RunStatus.CANCELLED, 3.0)

        def ids(**filters: Any) -> set[str]:
            return {run.id for run in store.runs.find(RunFilter(**filters))[0]}

        assert ids() == {first.id, second.id}
        assert ids(playbook="x") == {first.id}
        assert ids(tags=("red",)) == {first.id}
        assert ids(tags=("blue",)) == {first.id, second.id}
        assert ids(tags=("re",)) == set()
        assert ids(since=2.0) == {second.id}
        assert ids(statuses=(RunStatus.CANCELLED,)) == {first.id}
        assert ids(statuses=(RunStatus.QUEUED,)) == {second.id}
        assert ids(statuses=(RunStatus.QUEUED,), playbook="x") == set()
        claim_visit(store, second, 3.0)
        assert ids(statuses=(RunStatus.RUNNING,)) == {second.id}

    def test_runs_are_filtered_by_queue_and_parent(self, store: Store) -> None:
        root, other = start_run(store, now=1.0), start_run(store, now=2.0)
        parent = WaitKey(root.id, "visit", "wait")
        child = start_run(store, now=3.0, parent=parent, queue=root.queue, depth=1)
        detached = start_run(store, now=4.0, queue=root.queue, depth=1)

        def ids(**filters: Any) -> list[str]:
            return [run.id for run in store.runs.find(RunFilter(**filters))[0]]

        assert ids(queue=root.queue) == [detached.id, child.id, root.id]
        assert ids(queue=root.queue, since=3.5) == [detached.id]
        assert ids(parent=root.id) == [child.id]
        assert (ids(parent=other.id), ids(queue="")) == ([], [])

    def test_tenants_do_not_see_each_other(self, store: Store) -> None:
        mine, theirs = start_run(store, tenant="mine"), start_run(store, tenant="theirs")
        assert store.runs.get("theirs", mine.id) is None
        assert store.runs.get("mine", mine.id) == mine
        assert [run.id for run in store.runs.find(RunFilter("mine"))[0]] == [mine.id]
        assert [run.id for run in store.runs.find(RunFilter("theirs"))[0]] == [theirs.id]
        assert store.runs.find(RunFilter("nobody")) == ([], None)

    def test_the_trace_of_a_run_is_stored(self, store: Store, second: Store) -> None:
        trace = f"00-{'1' * 32}-{'2' * 16}-01"
        run, other = start_run(store, trace=trace), start_run(store)
        assert (current_run(second, run).trace, current_run(second, other).trace) == (trace, None)
        claim = claim_visit(store, run)
        assert claim.run.trace == trace

    # Lists and status

    def test_a_list_and_the_status_do_not_read_payloads(self, store: Store) -> None:
        """Count memory, because a store has no other way to show what it has read."""
        size, text = 300_000, "input: {text: string}\n" + dedent(CHAIN)
        runs = [start_run(store, text, input={"text": "x" * size}, now=float(n)) for n in range(20)]
        for run in runs[:2]:
            for _ in range(3):
                claim = claim_visit(store, run, 100.0)
                store.queue.commit(succeed(store, claim, saved={"n": "y"}, data="y"), 100.0)
            store.queue.finish(claim_visit(store, run, 100.0), RunEnding(RunStatus.SUCCEEDED, "z", []), 100.0)
        readers: list[Callable[[], object]] = [
            lambda: store.runs.find(RunFilter(limit=20)),
            lambda: [store.runs.overview("default", run.id) for run in runs],
            lambda: [store.runs.summary("default", run.id) for run in runs],
            store.maintenance.probe,
        ]
        for read in readers:
            read()  # plans and statements are cached now
            assert peak_bytes(read) < 3 * size
        ended = current_run(store, runs[0])
        overview = store.runs.overview("default", ended.id)
        assert overview is not None
        assert (overview.summary, overview.error) == (summarize(ended), None)

    def test_an_overview_has_the_latest_visit_of_each_step(self, store: Store) -> None:
        run = start_run(store, CYCLE)
        for expected in ({"a": 0}, {"a": 1, "b": 0}, {"a": 1, "b": 1}, {"a": 2, "b": 1}):
            overview = store.runs.overview("default", run.id)
            assert overview is not None
            assert overview.summary == summarize(current_run(store, run))
            assert overview.steps == latest_visits(store.runs.visits(run.id))
            assert {step: visits.started for step, visits in overview.steps.items()} == expected
            store.queue.commit(succeed(store, claim_visit(store, run, 100.0)), 1.0)
        for _ in range(2):
            store.queue.commit(succeed(store, claim_visit(store, run, 100.0)), 1.0)
        store.queue.commit(fail(store, claim_visit(store, run, 100.0), retry_at=500.0), 1.0)
        overview = store.runs.overview("default", run.id)
        assert overview is not None
        assert overview.steps == latest_visits(store.runs.visits(run.id))
        retried = overview.steps["a"]
        assert (retried.latest.attempt, retried.started) == (2, 4)

    def test_overviews_of_several_runs_are_read_together(self, store: Store) -> None:
        runs = [start_run(store, CYCLE, now=float(number)) for number in range(4)]
        for number, run in enumerate(runs[:3]):
            for _ in range(2 * number):
                store.queue.commit(succeed(store, claim_visit(store, run, 100.0)), 1.0)
        store.queue.commit(suspend_claim(claim_visit(store, runs[0], 100.0)), 100.0)
        ids = [run.id for run in runs]
        expected = {id: store.runs.overview("default", id) for id in ids}
        assert store.visits.overviews("default", [*ids, "unknown"]) == expected
        assert store.visits.overviews("default", []) == {}
        assert store.visits.overviews("other", ids) == {}

    def test_summaries_of_several_runs_are_read_together(self, store: Store) -> None:
        runs = [start_run(store, now=float(number)) for number in range(3)]
        store.queue.commit(suspend_claim(claim_visit(store, runs[1], 100.0)), 100.0)
        ids = [run.id for run in runs]
        expected = {id: store.runs.summary("default", id) for id in ids}
        assert store.visits.summaries("default", [*ids, "unknown"]) == expected
        assert store.visits.summaries("default", []) == store.visits.summaries("other", ids) == {}

    def test_the_newest_runs_of_several_playbooks_are_read_together(self, store: Store) -> None:
        """Read playbooks with more runs than are wanted, with fewer, and with none."""
        for number, name in enumerate("aabcabaa"):
            run = start_run(store, f"name: play{name}\n{dedent(CHAIN)}", now=float(number))
            if number == 4:
                store.queue.commit(suspend_claim(claim_visit(store, run, 100.0)), 100.0)
        for names, limit in ((["playa", "playb", "none"], 3), (["playc"], 1), (["playb", "playa"], 100)):
            found = store.visits.newest_runs("default", names, limit)
            assert found.keys() <= set(names)
            for name in names:
                page, _ = store.runs.find(RunFilter(playbook=name, limit=limit))
                assert list(found.get(name, ())) == page
        assert not any(store.visits.newest_runs("other", ["playa"], 3).values())
        assert store.visits.newest_runs("default", [], 3) == {}

    def test_the_tenant_of_a_run_alone_reads_its_summary_and_overview(self, store: Store) -> None:
        run = start_run(store)
        assert store.runs.summary("default", run.id) == summarize(run)
        for tenant, run_id in (("other", run.id), ("default", "unknown")):
            assert store.runs.summary(tenant, run_id) is None
            assert store.runs.overview(tenant, run_id) is None

    @pytest.mark.parametrize("returned", [None, {"n": 1.5, "é": ["\u2028", "a\n"]}, [], "null"])
    def test_the_result_of_a_run_is_read_as_text(self, store: Store, returned: Any) -> None:
        run = start_run(store)
        assert store.visits.result_text("default", run.id) == ResultText(run.id, RunStatus.QUEUED, "null", ())
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run, 100.0)), 100.0)
        claim = claim_visit(store, run, 100.0)
        errors = [error_record(claim.visit, "Failed", "no")]
        store.queue.finish(claim, RunEnding(RunStatus.FAILED, returned, errors), 100.0)
        result = store.visits.result_text("default", run.id)
        assert result is not None
        assert json.loads(result.text) == returned
        assert replace(result, text="") == ResultText(run.id, RunStatus.FAILED, "", tuple(errors))
        for tenant, run_id in (("other", run.id), ("default", "unknown")):
            assert store.visits.result_text(tenant, run_id) is None

    def test_pages_of_waiting_runs_are_full(self, store: Store) -> None:
        """Let every third run wait. A run that waits has another status in its row."""
        runs = [start_run(store, now=float(number)) for number in range(24)]
        for run in runs[::3]:
            store.queue.commit(suspend_claim(claim_visit(store, run, 100.0)), 100.0)
        for run in runs[1::3]:
            claim_visit(store, run, 100.0)
        waiting, running, queued = ([run.id for run in reversed(runs[first::3])] for first in range(3))
        for status, expected in (("waiting", waiting), ("running", running), ("queued", queued)):
            for limit in (1, 3, 8, 100):
                pages = list(self.read_pages(store, RunFilter(statuses=(RunStatus(status),), limit=limit)))
                assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
                found = [run for page in pages for run in page]
                assert [run.id for run in found] == expected
                assert {run.status for run in found} == {status}

    def test_a_run_with_an_active_branch_is_not_waiting(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        for _ in range(3):
            store.queue.commit(suspend_claim(claim_visit(store, run, 1.0)), 1.0)
        assert store.runs.find(RunFilter(statuses=(RunStatus.WAITING,))) == ([], None)
        assert [found.id for found in store.runs.find(RunFilter(statuses=(RunStatus.RUNNING,)))[0]] == [
            run.id
        ]
        store.queue.commit(suspend_claim(claim_visit(store, run, 1.0)), 1.0)
        assert [found.id for found in store.runs.find(RunFilter(statuses=(RunStatus.WAITING,)))[0]] == [
            run.id
        ]
        assert store.runs.find(RunFilter(statuses=(RunStatus.RUNNING,))) == ([], None)

    def test_filters_of_a_list_are_combined(self, store: Store) -> None:
        tags: tuple[list[str], ...] = (["x"], ["x", "y", "x"], ["ÿ €"], [])
        runs = [start_run(store, now=float(n), tags=tags[n % 4]) for n in range(8)]
        runs += [start_run(store, f"name: other\n{dedent(CHAIN)}", now=8.0, tags=["x"])]
        runs += [start_run(store, now=9.0, tags=["x"], tenant="another")]
        store.runs.stop(runs[0].id, RunStatus.CANCELLED, 9.0)
        end_run(store, runs[0], RunStatus.CANCELLED, 9.0)
        expectations: list[tuple[dict[str, Any], list[int]]] = [
            ({"tags": ("x",)}, [8, 5, 4, 1, 0]),
            ({"tags": ("ÿ €",)}, [6, 2]),
            ({"tags": ("z",)}, []),
            ({"tags": ("x",), "statuses": (RunStatus.CANCELLED,)}, [0]),
            ({"tags": ("x",), "statuses": (RunStatus.QUEUED,), "since": 1.0}, [8, 5, 4, 1]),
            ({"tags": ("x",), "playbook": "other"}, [8]),
            ({"playbook": "play", "since": 6.0}, [7, 6]),
            ({"playbook": "play", "statuses": (RunStatus.CANCELLED,)}, [0]),
            ({"tags": ("x",), "tenant": "another"}, [9]),
        ]
        for conditions, expected in expectations:
            for limit in (1, 2, 100):
                pages = self.read_pages(store, RunFilter(limit=limit, **conditions))
                ids = [run.id for page in pages for run in page]
                assert ids == [runs[number].id for number in expected], conditions

    def test_live_runs_of_plans_are_found(self, store: Store) -> None:
        ended = start_run(store, origin="service")
        claim = store.queue.claim("service", LEASE, 1.0)
        assert claim is not None
        store.runs.stop(ended.id, RunStatus.CANCELLED, 1.0)
        store.queue.commit(succeed(store, claim), 1.0)
        end = store.queue.claim("service", LEASE, 1.0)
        assert end is not None
        store.queue.finish(end, RunEnding(RunStatus.CANCELLED, None, []), 1.0)
        runs = [start_run(store, now=float(number), origin="service") for number in range(2, 5)]
        other = start_run(store, DIAMOND, now=5.0, origin="service")
        start_run(store, now=6.0, origin="service", tenant="another")
        start_run(store, now=7.0)  # it is local
        live = [run.id for run in runs]
        hashes = [runs[0].plan_hash]
        assert store.runs.live_runs("default", "play", hashes, 10) == live
        assert store.runs.live_runs("default", "play", hashes, 2) == live[:2]
        assert store.runs.live_runs("default", "play", [*hashes, other.plan_hash], 10) == [*live, other.id]
        for tenant, playbook, plans in (
            ("x", "play", hashes),
            ("default", "x", hashes),
            ("default", "play", ["x"]),
        ):
            assert store.runs.live_runs(tenant, playbook, plans, 10) == []

    def read_pages(self, store: Store, run_filter: RunFilter) -> Iterator[list[RunSummary]]:
        """Yield the pages of a list."""
        while True:
            page, cursor = store.runs.find(run_filter)
            yield page
            if cursor is None:
                return
            run_filter = replace(run_filter, cursor=cursor)

    def test_events_are_returned_in_pages(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        complete = store.runs.events(run.id)
        assert len({event.id for event in complete}) == len(complete) > 6
        for limit in (1, 2, 5, 100):
            events: list[Any] = []
            while page := store.runs.events(run.id, events[-1].id if events else None, limit):
                assert len(page) <= limit
                events += page
            assert events == complete
        tag = complete[0].id.split("-", 1)[1]
        for broken in (
            "",
            "x",
            "1",
            "1-",
            "-1",
            "1-x",
            "²-1",
            "9" * 50 + "-1",
            f"²-{tag}",
            complete[0].id + "0",
        ):
            with pytest.raises(RejectedError) as rejected:
                store.runs.events(run.id, broken)
            assert rejected.value.reason == "invalid_cursor"
        for place in (f"{'9' * 5000}-0", f"0-{'9' * 5000}", f"{'9' * 5000}-{tag}"):
            with pytest.raises(RejectedError) as rejected:
                store.runs.events(run.id, place)
            assert len(rejected.value.message) < 200

    @pytest.mark.parametrize("name", ["a", "é 😀", 'a"b\\', "100%_"])
    def test_the_events_of_a_visit_are_found(self, store: Store, name: str) -> None:
        """Find them also for names with characters that a store escapes, or that are wildcards of SQL."""
        step = json.dumps(name)
        text = f"""
            steps:
            - name: {step}
              max_visits: 3
              rule: [{{case: "{{{{ run.id }}}}", run: [{step}]}}, {{case: default, run: []}}]
        """
        run = start_run(store, text)
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        complete = store.runs.events(run.id)
        for number in (1, 2, 3):
            expected = [event for event in complete if (event.step, event.visit) == (name, number)]
            assert len(expected) >= 3
            found = store.visits.events(run.id, name, number)
            # An id may have another form than in the history, and is the same cursor.
            assert [replace(event, id="") for event in found] == [replace(event, id="") for event in expected]
            for event, entry in zip(found, expected, strict=True):
                assert store.runs.events(run.id, event.id) == store.runs.events(run.id, entry.id)
            for types in ([], ["step.started"], ["step.completed", "step.transition", "other"]):
                chosen = [event for event in found if event.type in types]
                assert store.visits.events(run.id, name, number, types) == chosen
        assert store.visits.events(run.id, name, 4) == []
        assert store.visits.events(run.id, "other", 1) == []

    @pytest.mark.parametrize("text", [CYCLE, f"\n    mode: sequential{CYCLE}"])
    def test_a_visit_is_found_by_its_number(self, store: Store, text: str) -> None:
        run = start_run(store, text)
        assert store.visits.find(run.id, "a") is None
        for _ in range(4):
            store.queue.commit(succeed(store, claim_visit(store, run, 1.0)), 1.0)
        claimed = claim_visit(store, run, 9.0).visit
        stored = {(visit.step, visit.number): visit for visit in store.runs.visits(run.id)}
        for number, entered_at in ((1, None), (2, 1.0), (3, 1.0)):
            found = store.visits.find(run.id, "a", number)
            assert found is not None
            assert (found.visit, found.started) == (stored["a", number], 3)
            assert found.entered_at == entered_at
        latest = store.visits.find(run.id, "a")
        assert latest is not None
        assert latest.visit == stored["a", 3] == replace(claimed, saved={})
        assert [store.visits.find(run.id, "b", number) is None for number in (1, 2, 3)] == [False] * 2 + [
            True
        ]
        assert store.visits.find(run.id, "a", 4) is store.visits.find(run.id, "a", 10**30) is None
        assert store.visits.find(run.id, "c") is store.visits.find("unknown", "a") is None

    @pytest.mark.parametrize("text", [CYCLE, f"\n    mode: sequential{CYCLE}"])
    def test_outputs_of_visits_are_read_together(self, store: Store, text: str) -> None:
        run = start_run(store, text)
        for number in range(4):
            saved = {"n": "x" * 100 * number}
            store.queue.commit(succeed(store, claim_visit(store, run, 1.0), saved=saved), 1.0)
        claim_visit(store, run, 9.0)
        last = store.runs.events(run.id)[-1].id
        places = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("a", 9), ("none", 1)]
        stored = {(visit.step, visit.number): visit for visit in store.runs.visits_with_outputs(run.id)}
        assert store.visits.outputs(run.id, places, last, 10_000) == {
            place: stored[place] for place in places[:5]
        }
        for most, read in ((0, []), (20, [("a", 1)]), (180, [("a", 1), ("b", 1)])):
            found = store.visits.outputs(run.id, places[:4], last, most)
            assert [place for place in places if place in found and found[place].saved] == read
        assert store.visits.outputs(run.id, [], last, 10_000) == {}

    def test_events_of_some_types_are_read_together(self, store: Store) -> None:
        run, _ = start_run(store), start_run(store)
        for _ in range(2):
            store.queue.commit(succeed(store, claim_visit(store, run, 1.0)), 1.0)
        history = store.runs.events(run.id)
        for types in (["step.started"], ["step.completed", "workflow.started", "none"], []):
            chosen = [event for event in history if event.type in types]
            for limit, most, expected in [
                (10, 10_000, chosen),
                (len(chosen), 10_000, chosen),
                (1, 10_000, chosen[:1]),
                (10, 1, []),
            ]:
                events, has_more = store.visits.events_of_types(run.id, types, limit, most)
                assert (list(events), has_more) == (expected, len(chosen) > len(expected))

    def test_a_cursor_of_another_run_is_refused(self, store: Store) -> None:
        run, other = start_run(store), start_run(store)
        (event,), (foreign,) = store.runs.events(run.id), store.runs.events(other.id)
        assert event.id != foreign.id
        assert store.runs.events(run.id, event.id) == []
        with pytest.raises(RejectedError) as rejected:
            store.runs.events(run.id, foreign.id)
        assert rejected.value.reason == "invalid_cursor"

    def test_positions_grow_with_the_history(self, store: Store, second: Store) -> None:
        run, other = start_run(store), start_run(store)
        assert store.runs.positions([]) == {}
        before = second.runs.positions([run.id, "unknown", other.id])
        assert set(before) == {run.id, other.id}
        assert before[run.id].status is RunStatus.QUEUED
        store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        after = second.runs.positions([run.id, other.id])
        assert after[run.id].status is RunStatus.RUNNING
        assert after[other.id] == before[other.id]
        if after[run.id].entry is not None:
            assert (before[run.id].entry or 0) < (after[run.id].entry or 0)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        end_run(store, run, RunStatus.CANCELLED, 1.0)
        ended = second.runs.positions([run.id])[run.id]
        assert ended.status is RunStatus.CANCELLED
        assert second.runs.events(run.id)[-1].type == "workflow.cancelled"
        store.runs.resume(run.id, 2.0, deadline_at=None, values={})
        resumed = second.runs.positions([run.id])[run.id]
        assert resumed.status is RunStatus.QUEUED
        assert resumed.entry is None or resumed.entry > (ended.entry or 0)

    def test_a_reader_misses_no_event(self, store: Store, second: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        claims = [claim_visit(store, run, 1.0) for _ in range(4)]
        finished = threading.Event()
        seen: list[Any] = []

        def read() -> None:
            last = False
            while not last:
                last = finished.is_set()
                seen.extend(second.runs.events(run.id, seen[-1].id if seen else None, 2))
            while page := second.runs.events(run.id, seen[-1].id, 2):
                seen.extend(page)

        reader = threading.Thread(target=read)
        reader.start()
        run_concurrently(4, lambda index: store.queue.commit(succeed(store, claims[index]), 2.0))
        finished.set()
        reader.join()
        assert seen == store.runs.events(run.id)

    def test_a_write_signals_a_change(self, store: Store) -> None:
        run = start_run(store)
        seen = store.changes.count
        waiter = threading.Thread(target=store.changes.wait, args=(seen, 60.0))
        waiter.start()
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        waiter.join()
        store.changes.wait(seen, 60.0)

    def test_due_visits_signal_work(self, store: Store) -> None:
        seen = store.work.count
        run = start_run(store)
        store.work.wait(seen, 60.0)
        claim = claim_visit(store, run)
        seen = store.work.count
        waiter = threading.Thread(target=store.work.wait, args=(seen, 60.0))
        waiter.start()
        store.queue.commit(succeed(store, claim), 1.0)
        waiter.join()

    def test_waiting_for_a_signal_times_out(self, store: Store) -> None:
        store.changes.wait(store.changes.count, 0.001)
        store.work.wait(store.work.count, 0.001)

    def test_two_connections_see_the_same(self, store: Store, second: Store) -> None:
        run = start_run(store)
        assert run_contents(second, run) == run_contents(store, run)
        second.queue.commit(succeed(second, claim_visit(second, run), saved={"n": 1}), 1.0)
        assert run_contents(second, run) == run_contents(store, run)

    def test_a_committed_visit_is_read_as_it_was(self, store: Store) -> None:
        run = start_run(store)
        commit = succeed(store, claim_visit(store, run), saved={"n": 1}, data="d")
        store.queue.commit(commit, 1.0)
        (stored,) = (visit for visit in store.runs.visits_with_outputs(run.id) if visit.saved)
        assert stored == replace(commit.visit)

    # Copied history

    def test_copied_history_is_read_as_it_was(self, store: Store) -> None:
        before = start_run(store)
        failures = [{"index": 1, "item": 2, "error": {"type": "Failed"}}]
        commit = succeed(store, claim_visit(store, before), saved={"n": [1]}, data={"x": 1})
        store.queue.commit(with_failed_items(commit, failures), 1.0)
        store.queue.commit(fail(store, claim_visit(store, before, 1.0)), 2.0)
        end_run(store, before, RunStatus.FAILED, 3.0)
        run, first = new_run(
            store.plans.header(before.plan_hash), before.plan_hash, StartRequest(origin="local"), now=5.0
        )
        run = replace(run, resumed_from=before.id)
        history = [replace(v, run_id=run.id) for v in store.runs.visits_with_outputs(before.id)]
        first = replace(first, step="b", id="first", clock=3, names={"n": (1, history[0].id)})
        store.runs.create(run, first, history=history)
        *copied, following = store.runs.visits(run.id)
        assert [visit.step for visit in copied] == ["a", "b"]
        assert list(
            map(comparable_values, store.runs.visits_with_outputs(run.id, [v.id for v in history]))
        ) == list(map(comparable_values, history))
        assert (following.step, following.status, following.clock, following.names, following.due_at) == (
            "b",
            "ready",
            3,
            first.names,
            5.0,
        )
        assert current_run(store, run).live == 1
        (event,) = store.runs.events(run.id)
        assert (event.type, event.payload) == (
            "workflow.started",
            {"playbook": "play", "resumed_from": before.id},
        )

    def test_copied_history_is_not_executed_again(self, store: Store) -> None:
        before = start_run(store)
        store.queue.commit(succeed(store, claim_visit(store, before)), 1.0)
        run, first = new_run(
            store.plans.header(before.plan_hash), before.plan_hash, StartRequest(origin="local"), now=5.0
        )
        history = [
            replace(visit, run_id=run.id)
            for visit in store.runs.visits_with_outputs(before.id)
            if visit.finished_at
        ]
        store.runs.create(run, replace(first, step="c", id="first"), history=history)
        visit = claim_visit(store, run, 5.0).visit
        assert (visit.step, visit.id) == ("c", "first")
        for step, id in (("a", history[0].id), ("c", "first")):
            found, latest = store.visits.find(run.id, step, 1), store.visits.find(run.id, step)
            assert found is not None
            assert (found.visit.id, found.started, found) == (id, 1, latest)
        assert store.queue.claim(run.id, LEASE, 5.0) is None
