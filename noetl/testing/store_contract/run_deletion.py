"""The contract of the deletion of runs on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noetl.executor.engine.start import prefix_before, restart_from_step
from noetl.executor.errors import FencedError, RejectedError, UnknownRunError
from noetl.executor.model.run import Run, RunEnding, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.operations import (
    LEASE,
    action_events,
    claim_visit,
    current_run,
    end_run,
    fail,
    failed_checks,
    open_wait,
    refusal_of_answer,
    run_concurrently,
    run_contents,
    start_child,
    start_ended_run,
    start_run,
    start_waiting_run,
    succeed,
)

DEEP = """
    steps:
    - {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b, c]}]}
    - name: b
      loop: {items: [1, 2, 3], as: item, batch: 1}
      run: [{action: set, set: {x: "{{ item }}"}}]
      rule: [{case: default, run: [d]}]
    - {name: c, run: [{action: log, message: done}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {y: "{{ n }}"}}]}
"""


def cancel(store: Store, run: Run) -> Run:
    """Cancel a run without running visits, and end it."""
    store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    return end_run(store, run, RunStatus.CANCELLED, 2.0)


def refusal_of_deletion(store: Store, run: Run) -> tuple[str, str]:
    """Return the reason and the message with which the deletion of a run is refused."""
    with pytest.raises(RejectedError) as rejected:
        store.maintenance.delete_run(run.tenant, run.id)
    return rejected.value.reason, rejected.value.message


class RunDeletionContract:
    """Tests of the deletion of runs. `store` is an empty store."""

    def test_a_deleted_run_leaves_nothing(self, store: Store) -> None:
        play = RunHarness(store, DEEP, folder=Path.cwd()).finish()
        assert store.runs.add_bytes(play.id, "logged", 7) == 7
        run, _ = start_waiting_run(store)
        tagged = start_run(store, tags=("env=prod", "x"), key=("k", "hash"))
        child = start_child(store, tagged, None, "child", queue="child", root=tagged.id, max_child_runs=1)
        for other in (run, tagged, child):
            cancel(store, other)
        ids = (play.id, run.id, tagged.id, child.id)
        assert [store.maintenance.delete_run("default", id) for id in ids] == [True] * 4
        assert [store.maintenance.delete_run("default", id) for id in ids] == [False] * 4
        for id in ids:
            assert store.runs.get("default", id) is None
            assert store.runs.overview("default", id) is None
            assert (store.runs.visits(id), store.runs.events(id)) == ([], [])
            assert store.runs.visits_with_outputs(id) == []
        assert store.runs.find(RunFilter())[0] == []
        assert store.runs.find(RunFilter(tags=("env",)))[0] == []
        assert store.runs.positions(ids) == {}
        assert store.runs.find_request("default", "k") is None
        assert store.waits.find_wait("t") is None
        assert store.runs.add_bytes(play.id, "logged", 1) == 1
        assert failed_checks(store) == []

    def test_the_key_and_the_count_of_a_deleted_run_are_free(self, store: Store) -> None:
        for _ in range(2):
            run = start_run(store, key=("k", "hash"), run_id="same")
            assert run.status is RunStatus.QUEUED
            child = start_child(store, run, None, "child", queue="child", root=run.id, max_child_runs=1)
            for started in (run, child):
                cancel(store, started)
                assert store.maintenance.delete_run("default", started.id)

    def test_a_run_with_the_id_of_a_deleted_one_inherits_nothing(self, store: Store) -> None:
        contents: tuple[Any, ...] | None = None
        for _ in range(2):
            run = start_run(store, tags=("x",), run_id="same")
            contents = contents or run_contents(store, run)
            assert run_contents(store, run) == contents
            claim = claim_visit(store, run)
            assert store.runs.add_bytes(run.id, "logged", 7) == 7
            assert store.queue.renew(claim.visit, 100.0, action_events(claim, 1, 2))
            open_wait(store, claim)
            store.queue.commit(fail(store, claim), 1.0)
            end_run(store, run, RunStatus.FAILED, 1.0)
            assert store.maintenance.delete_run("default", run.id)
        assert failed_checks(store) == []

    def test_a_run_that_has_not_ended_is_not_deleted(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        contents = run_contents(store, run)
        message = f"run {run.id} has not ended; cancel it first, or wait for its end"
        assert refusal_of_deletion(store, run) == ("not_ended", message)
        assert run_contents(store, run) == contents
        store.queue.commit(succeed(store, claim), 1.0)

    def test_a_run_of_another_tenant_is_unknown(self, store: Store) -> None:
        run = start_ended_run(store)
        assert not store.maintenance.delete_run("other", run.id)
        assert not store.maintenance.delete_run("default", "unknown")
        assert current_run(store, run).status is RunStatus.CANCELLED

    def test_other_runs_stay(self, store: Store) -> None:
        run, other = start_ended_run(store), start_run(store, tags=("x",), key=("other", "hash"))
        contents = run_contents(store, other)
        assert store.maintenance.delete_run("default", run.id)
        assert run_contents(store, other) == contents
        assert [found.id for found in store.runs.find(RunFilter(tags=("x",)))[0]] == [other.id]
        assert store.runs.find_request("default", "other") == ("hash", other.id)

    def test_child_runs_are_deleted_with_their_parent(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        child = start_child(store, run, key, "child", queue="q1", root=run.id)
        grandchild = start_child(
            store, child, key=type(key)(child.id, "v", "w"), id="grandchild", queue="q2", root=run.id
        )
        cancel(store, run)
        assert refusal_of_deletion(store, run)[0] == "not_ended"
        for queue, descendant in (("q1", child), ("q2", grandchild)):
            store.runs.stop(descendant.id, RunStatus.CANCELLED, 2.0)
            claim = store.queue.claim(queue, LEASE, 2.0)
            assert claim is not None
            store.queue.finish(claim, RunEnding(RunStatus.CANCELLED, None, []), 2.0)
        for descendant, parent in ((child, run), (grandchild, child)):
            reason, message = refusal_of_deletion(store, descendant)
            assert reason == "child_run"
            assert message.startswith(f"run {descendant.id} was started by run {parent.id}, which is kept")
        assert store.maintenance.delete_run("default", run.id)
        assert store.runs.find(RunFilter())[0] == []
        assert failed_checks(store) == []

    def test_a_child_run_that_has_not_ended_is_named(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        start_child(store, run, key, "child", queue="q")
        cancel(store, run)
        store.runs.resume("child", 3.0, deadline_at=None, values={})
        reason, message = refusal_of_deletion(store, run)
        assert reason == "not_ended"
        assert message.startswith(f"run child, which run {run.id} has started, has not ended")
        assert store.runs.get("default", run.id) is not None

    def test_requests_for_a_deleted_run_are_refused(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        cancel(store, run)
        assert store.maintenance.delete_run("default", run.id)
        with pytest.raises(UnknownRunError, match=f"unknown run `{run.id}`"):
            store.runs.resume(run.id, 3.0, deadline_at=None, values={})
        with pytest.raises(UnknownRunError):
            store.runs.stop(run.id, RunStatus.CANCELLED, 3.0)
        assert refusal_of_answer(store) == "unknown_token"
        with pytest.raises(RejectedError) as rejected:
            store.waits.answer_wait(key, None, 1, 3.0)
        assert rejected.value.reason == "closed"

    def test_a_late_worker_writes_nothing(self, store: Store) -> None:
        run = start_run(store)
        late = claim_visit(store, run)
        current = claim_visit(store, run, now=100.0)
        store.queue.commit(fail(store, current, now=101.0), 101.0)
        end_run(store, run, RunStatus.FAILED, 102.0)
        assert store.maintenance.delete_run("default", run.id)
        with pytest.raises(FencedError):
            store.queue.commit(succeed(store, late), 103.0)
        with pytest.raises(FencedError):
            open_wait(store, late)
        assert not store.queue.renew(late.visit, 200.0)
        store.queue.release(late.visit, 103.0, counts=True)
        assert store.queue.claim(run.id, LEASE, 500.0) is None
        assert (store.runs.visits(run.id), failed_checks(store)) == ([], [])

    def test_a_deletion_and_a_resume_at_once(self, store: Store) -> None:
        for _ in range(5):
            run = start_ended_run(store)

            def change(index: int, run: Run = run) -> str:
                try:
                    if index % 2:
                        store.runs.resume(run.id, 3.0, deadline_at=None, values={})
                        return "resumed"
                    return "deleted" if store.maintenance.delete_run("default", run.id) else "unknown"
                except (RejectedError, UnknownRunError) as refusal:
                    return getattr(refusal, "reason", "unknown")

            outcomes = run_concurrently(4, change)
            is_kept = store.runs.get("default", run.id) is not None
            assert is_kept == ("deleted" not in outcomes)
            assert is_kept == ("resumed" in outcomes)
            if is_kept:
                assert current_run(store, run).status is RunStatus.QUEUED
                assert claim_visit(store, run, now=4.0).visit.step == "a"
        assert failed_checks(store) == []

    def test_a_run_that_continues_a_deleted_run_keeps_its_values(self, store: Store) -> None:
        play = RunHarness(store, DEEP, folder=Path.cwd()).finish()
        header, run = store.plans.header(play.run.plan_hash), play.run
        step = store.plans.step(run.plan_hash, "a")
        prefix = prefix_before(step, run, store.runs.visits_with_outputs(run.id), header.finally_step)
        new, first, history = restart_from_step(header, prefix, {}, now=5.0)
        created = store.runs.create(new, first, history=history)
        contents = run_contents(store, created)
        assert store.maintenance.delete_run("default", run.id)
        assert run_contents(store, created) == contents
        assert created.resumed_from == run.id
