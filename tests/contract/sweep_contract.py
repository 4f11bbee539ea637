"""The contract of sweeps of SQL stores: each kind of damage is repaired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import NEVER, Lease, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.worker_identity import process_name
from noetl.executor.stores.interface import SweepResult
from noetl.executor.stores.sql.consistency import check_consistency
from noetl.executor.stores.sql.store import SqlStore
from tests.run_harness import LEASE_SECONDS, RunHarness, compile_text

FORK = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
    - {name: c, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {z: 3}}]}
"""
SEQUENTIAL = """
    mode: sequential
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {x: 1}}]}
    - {name: c, run: [{action: set, set: {y: 2}}]}
"""
WAIT = "steps: [{name: a, run: [{action: callback, timeout: 1h, as: x, on_error: continue}]}]"


def begin_run(store: SqlStore, text: str, steps: int) -> RunHarness:
    """Start a run, and execute `steps` visits of it."""
    play = RunHarness(store, text, folder=Path.cwd())
    for _ in range(steps):
        assert play.execute_next()
    return play


def damage(store: SqlStore, query: str, *values: Any) -> None:
    with store.database.transaction() as db:
        assert db.execute(query, values).rowcount > 0


class SweepContract:
    """Tests of sweeps. `store` is an empty store."""

    def test_a_sweep_of_a_sound_store_repairs_nothing(
        self, store: SqlStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        play = begin_run(store, FORK, 1)
        begin_run(store, WAIT, 1)
        begin_run(store, SEQUENTIAL, 1)
        before = store.runs.visits(play.id)
        assert store.maintenance.sweep(play.clock()) == SweepResult(3, 0)
        assert store.runs.visits(play.id) == before
        assert caplog.records == []

    def test_repairs_a_run_whose_end_was_lost(
        self, store: SqlStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        play = begin_run(store, FORK, 4)
        damage(store, "delete from visits where step = '@end'")
        assert [finding.check for finding in check_consistency(store.database)] == ["stuck"]
        assert store.maintenance.sweep(play.clock()) == SweepResult(1, 1)
        (record,) = caplog.records
        assert record.getMessage() == f"run {play.id} was repaired: its end is due"
        assert vars(record)["fields"] == {"workflow_id": play.id, "repaired": "its end is due"}
        assert play.finish().status is RunStatus.SUCCEEDED
        assert check_consistency(store.database) == []
        assert store.maintenance.sweep(play.clock()) == SweepResult(0, 0)

    def test_repairs_a_join_that_has_not_fired(self, store: SqlStore) -> None:
        play = begin_run(store, FORK, 2)
        (rest,) = (visit for visit in play.visits if visit.finished_at is None)
        damage(store, "update visits set status = 'succeeded', finished_at = 1 where id = ?", rest.id)
        damage(store, "update joins set live = 0")
        damage(store, "update runs set live = 1")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.SUCCEEDED

    def test_repairs_parked_steps_of_a_running_run(self, store: SqlStore) -> None:
        play = begin_run(store, FORK, 1)
        damage(store, "update visits set status = 'parked' where status = 'ready'")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.SUCCEEDED
        assert check_consistency(store.database) == []

    def test_a_run_with_a_lost_branch_fails(self, store: SqlStore) -> None:
        """The position of the branch is unknown, so the run fails with an error."""
        play = begin_run(store, FORK, 1)
        damage(store, "delete from visits where status = 'ready'")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.FAILED
        assert play.run.error is not None
        assert (play.run.error["type"], play.run.error["message"]) == (
            "WorkerLost",
            "a branch of the run was lost",
        )

    def test_repairs_an_incomplete_stop(self, store: SqlStore) -> None:
        play = begin_run(store, FORK, 1)
        store.runs.stop(play.id, RunStatus.CANCELLED, play.clock())
        damage(store, "delete from visits where step = '@end'")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.CANCELLED

    def test_repairs_a_visit_that_missed_its_answer(self, store: SqlStore) -> None:
        play = begin_run(store, WAIT, 1)
        damage(store, "update waits set answer = '7', answered_at = 1")
        damage(store, "update visits set due_at = ? where status = 'waiting'", NEVER)
        assert [finding.check for finding in check_consistency(store.database)] == ["waits in vain"]
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().result == {"x": 7}

    def test_repairs_a_sequential_run_without_an_activated_visit(self, store: SqlStore) -> None:
        play = begin_run(store, SEQUENTIAL, 1)
        damage(store, "update visits set due_at = ? where status = 'ready'", NEVER)
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().result == {"x": 1, "y": 2}

    def test_repairs_a_lease_of_a_clock_that_was_ahead(self, store: SqlStore) -> None:
        play = begin_run(store, FORK, 0)
        assert play.claim() is not None
        assert store.maintenance.sweep(play.clock()) == SweepResult(1, 0)
        damage(store, "update visits set due_at = ?", play.clock() + 1e6)
        assert store.maintenance.sweep(play.clock()).repaired == 1
        play.clock.advance(LEASE_SECONDS)
        assert play.finish().status is RunStatus.SUCCEEDED

    def test_repairs_a_run_without_its_deadline(self, store: SqlStore) -> None:
        play = begin_run(store, "timeout: 1h\nsteps: [{name: a, run: [{action: wait, seconds: 2h}]}]", 1)
        damage(store, "delete from visits where step = '@deadline'")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.TIMED_OUT

    def test_a_finally_step_needs_no_deadline_of_the_run(self, store: SqlStore) -> None:
        text = (
            "timeout: 1h\nfinally: z\nsteps:\n- {name: a, run: [{action: set, set: {x: 1}}]}\n"
            "- {name: z, run: [{action: wait, seconds: 9}]}"
        )
        play = begin_run(store, text, 2)
        assert [visit.step for visit in play.visits] == ["a", "z"]
        assert store.maintenance.sweep(play.clock()) == SweepResult(1, 0)

    def test_visits_of_a_dead_worker_of_this_machine_are_due_at_once(self, store: SqlStore) -> None:
        play = begin_run(store, FORK, 0)
        place, boot, _, _ = process_name().split("/")
        dead, alive = f"{place}/{boot}/4194999/1/walk", f"{process_name()}/walk"
        now = play.clock()
        assert store.queue.claim(play.queue, Lease(dead, 1000.0), now) is not None
        assert store.queue.claim(play.queue, Lease(alive, 1000.0), now) is None
        assert store.queue.release_dead(play.queue, now) == 1
        assert store.queue.claim(play.queue, Lease(alive, 1000.0), now) is not None
        assert store.queue.release_dead(play.queue, now) == 0
        assert store.queue.claim(play.queue, Lease(alive, 1000.0), now) is None

    def test_runs_are_deleted_after_the_retention_period(self, store: SqlStore) -> None:
        store.retention_seconds = 100.0
        play = begin_run(store, FORK, 0)
        play.finish()
        begin_run(store, WAIT, 1)
        play.clock.advance(99.0)
        store.maintenance.sweep(play.clock())
        assert store.runs.get("default", play.id) is not None
        play.clock.advance(2.0)
        assert store.maintenance.sweep(play.clock()) == SweepResult(1, 0)
        assert store.runs.get("default", play.id) is None
        assert [run.finished_at for run in store.runs.find(RunFilter())[0]] == [None]
        assert store.runs.visits(play.id) == []
        assert store.runs.events(play.id) == []
        assert check_consistency(store.database) == []

    def test_without_retention_runs_are_kept(self, store: SqlStore) -> None:
        play = begin_run(store, FORK, 0)
        play.finish()
        store.maintenance.sweep(play.clock() + 1e9)
        assert store.runs.get("default", play.id) is not None

    def test_a_resumed_run_is_kept(self, store: SqlStore) -> None:
        store.retention_seconds = 100.0
        play = begin_run(store, "steps: [{name: a, run: [{action: fail, message: no}]}]", 0)
        play.finish()
        play.clock.advance(101.0)
        store.runs.resume(play.id, play.clock(), deadline_at=None, values={})
        store.maintenance.sweep(play.clock())
        assert store.runs.get("default", play.id) is not None

    def test_a_child_run_is_kept_as_long_as_its_parent(self, store: SqlStore) -> None:
        store.retention_seconds = 100.0
        child = compile_text("name: child\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]")
        store.plans.save(child)
        store.registry.register(RegisteredPlaybook("default", "child", None, child.hash, 0.0))
        text = (
            "steps: [{name: call, run: [{action: workflow, playbook: child}, {action: wait, seconds: 500}]}]"
        )
        play = RunHarness(store, text, folder=Path.cwd())
        while play.execute_next():
            pass
        play.clock.advance(200.0)
        store.maintenance.sweep(play.clock())
        assert len(store.runs.find(RunFilter())[0]) == 2
        play.finish()
        play.clock.advance(101.0)
        store.maintenance.sweep(play.clock())
        store.maintenance.sweep(play.clock())
        assert store.runs.find(RunFilter())[0] == []
        assert check_consistency(store.database) == []
