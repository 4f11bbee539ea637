"""The contract of sweeps: each kind of damage is repaired, and old runs are deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import NEVER, Lease, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.triggers import FiringOutcome
from noetl.executor.model.worker_identity import process_name
from noetl.executor.stores.interface import Store, SweepResult
from noetl.testing.run_harness import LEASE_SECONDS, RunHarness, compile_text
from noetl.testing.store_contract.damage import SweepDamage
from noetl.testing.store_contract.operations import (
    claim_visit,
    failed_checks,
    start_child,
    start_ended_run,
    start_run,
    start_waiting_run,
)
from noetl.testing.store_contract.outbox import NOTIFICATION, add, entry
from noetl.testing.store_contract.triggers import advance_by, declare, list_firings, read_trigger, register

FORK = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
    - {name: c, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {z: 3}}]}
"""
WITH_FINALLY = f"{FORK}    - {{name: z, run: [{{action: log, message: x}}]}}\n    finally: z\n"
SEQUENTIAL = """
    mode: sequential
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {x: 1}}]}
    - {name: c, run: [{action: set, set: {y: 2}}]}
"""
WAIT = "steps: [{name: a, run: [{action: callback, timeout: 1h, as: x, on_error: continue}]}]"


def begin_run(store: Store, text: str, steps: int) -> RunHarness:
    """Start a run, and execute `steps` visits of it."""
    play = RunHarness(store, text, folder=Path.cwd())
    for _ in range(steps):
        assert play.execute_next()
    return play


class SweepContract:
    """Tests of sweeps. `store` is an empty store, and `damage` damages it."""

    damage: SweepDamage

    def test_a_sweep_of_a_sound_store_repairs_nothing(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        play = begin_run(store, FORK, 1)
        begin_run(store, WAIT, 1)
        begin_run(store, SEQUENTIAL, 1)
        before = store.runs.visits(play.id)
        assert store.maintenance.sweep(play.clock()) == SweepResult(3, 0)
        assert store.runs.visits(play.id) == before
        assert caplog.records == []

    def test_repairs_a_run_whose_end_was_lost(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        play = begin_run(store, FORK, 4)
        self.damage.delete_visit(store, play.run, "@end")
        assert failed_checks(store) == ["stuck"]
        assert store.maintenance.sweep(play.clock()) == SweepResult(1, 1)
        (record,) = caplog.records
        assert record.getMessage() == f"run {play.id} was repaired: its end is due"
        assert vars(record)["fields"] == {"workflow_id": play.id, "repaired": "its end is due"}
        assert play.finish().status is RunStatus.SUCCEEDED
        assert failed_checks(store) == []
        assert store.maintenance.sweep(play.clock()) == SweepResult(0, 0)

    def test_repairs_a_join_that_has_not_fired(self, store: Store) -> None:
        play = begin_run(store, FORK, 2)
        (rest,) = (visit for visit in play.visits if visit.finished_at is None)
        self.damage.update_visit(store, play.run, rest.step, status="succeeded", finished_at=1.0)
        self.damage.set_live(store, play.run, "d", 0)
        self.damage.update_run(store, play.id, live=1)
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.SUCCEEDED

    def test_repairs_parked_steps_of_a_running_run(self, store: Store) -> None:
        play = begin_run(store, FORK, 1)
        for step in ("b", "c"):
            self.damage.update_visit(store, play.run, step, status="parked")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.SUCCEEDED
        assert failed_checks(store) == []

    def test_repairs_a_parked_finally_step(self, store: Store) -> None:
        """Continue one that earlier commits have parked while it waited for a limit."""
        play = begin_run(store, WITH_FINALLY, 1)
        store.runs.stop(play.id, RunStatus.CANCELLED, play.clock())
        self.damage.update_visit(store, play.run, "z", status="parked")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.CANCELLED
        assert [visit.status for visit in play.visits if visit.step == "z"] == ["succeeded"]
        assert failed_checks(store) == []

    def test_a_run_with_a_lost_branch_fails(self, store: Store) -> None:
        # The position of the branch is unknown, so the run fails with an error.
        play = begin_run(store, FORK, 1)
        for step in ("b", "c"):
            self.damage.delete_visit(store, play.run, step)
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.FAILED
        assert play.run.error is not None
        assert (play.run.error["type"], play.run.error["message"]) == (
            "WorkerLost",
            "a branch of the run was lost",
        )

    def test_repairs_an_incomplete_stop(self, store: Store) -> None:
        play = begin_run(store, FORK, 1)
        store.runs.stop(play.id, RunStatus.CANCELLED, play.clock())
        self.damage.delete_visit(store, play.run, "@end")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.CANCELLED

    def test_repairs_a_visit_that_missed_its_answer(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        store.waits.answer("t", 7, 2.0)
        self.damage.update_visit(store, run, "a", due_at=NEVER)
        assert failed_checks(store) == ["waits in vain"]
        assert store.maintenance.sweep(3.0).repaired == 1
        assert claim_visit(store, run, 3.0).visit.id == key.visit_id

    def test_a_sequential_run_with_a_lost_branch_fails_and_its_resume_goes_on_with_the_next(
        self, store: Store
    ) -> None:
        play = begin_run(store, SEQUENTIAL, 1)
        self.damage.delete_visit(store, play.run, "b")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.FAILED
        assert play.resume().finish().result == {"y": 2}
        assert failed_checks(store) == []

    def test_repairs_a_parked_step_of_a_sequential_run(self, store: Store) -> None:
        fail = '{action: fail, message: no, if: "{{ input.bad }}"}, {action: set'
        text = SEQUENTIAL.replace("mode:", "on_error: continue\n    mode:").replace("{action: set", fail)
        play = RunHarness(store, text, {"bad": True}, folder=Path.cwd()).finish().resume(bad=False)
        self.damage.update_visit(store, play.run, "b", status="parked")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert {visit.step: visit.status for visit in play.visits} == {
            "a": "succeeded", "b": "ready", "c": "failed",
        }  # fmt: skip
        assert play.finish().result == {"x": 1, "y": 2}

    def test_repairs_a_lease_of_a_clock_that_was_ahead(self, store: Store) -> None:
        play = begin_run(store, FORK, 0)
        assert play.claim() is not None
        assert store.maintenance.sweep(play.clock()) == SweepResult(1, 0)
        self.damage.update_visit(store, play.run, "a", due_at=play.clock() + 1e6)
        assert store.maintenance.sweep(play.clock()).repaired == 1
        play.clock.advance(LEASE_SECONDS)
        assert play.finish().status is RunStatus.SUCCEEDED

    def test_repairs_a_run_without_its_deadline(self, store: Store) -> None:
        play = begin_run(store, "timeout: 1h\nsteps: [{name: a, run: [{action: wait, seconds: 2h}]}]", 1)
        self.damage.delete_visit(store, play.run, "@deadline")
        assert store.maintenance.sweep(play.clock()).repaired == 1
        assert play.finish().status is RunStatus.TIMED_OUT

    def test_a_finally_step_needs_no_deadline_of_the_run(self, store: Store) -> None:
        text = (
            "timeout: 1h\nfinally: z\nsteps:\n- {name: a, run: [{action: set, set: {x: 1}}]}\n"
            "- {name: z, run: [{action: wait, seconds: 9}]}"
        )
        play = begin_run(store, text, 2)
        assert [visit.step for visit in play.visits] == ["a", "z"]
        assert store.maintenance.sweep(play.clock()) == SweepResult(1, 0)

    def test_visits_of_a_dead_worker_of_this_machine_are_due_at_once(self, store: Store) -> None:
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

    def test_runs_are_deleted_after_the_retention_period(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
        play = begin_run(store, FORK, 0)
        play.finish()
        assert store.runs.add_bytes(play.id, "logged", 7) == 7
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
        assert [store.runs.add_bytes(play.id, "logged", 1) for _ in range(2)] == [1, 1]
        assert failed_checks(store) == []

    def test_old_runs_are_deleted_in_small_parts(self, store: Store) -> None:
        """Delete none in DynamoDB, which deletes them itself."""
        self.damage.set_retention(store, 100.0)
        for _ in range(21):
            start_ended_run(store)
        parts = 0
        while store.maintenance.delete_old(1e9):
            parts += 1
            assert len(store.runs.find(RunFilter())[0]) == 21 - 20 * parts
        remaining = len(store.runs.find(RunFilter())[0])
        assert (parts, remaining) in ((1, 0), (0, 0), (0, 21))
        assert failed_checks(store) == []

    def test_the_count_of_child_runs_is_forgotten_after_the_retention_period(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
        root = start_run(store)
        start_child(store, root, None, "a", 1.0, root=root.id, max_child_runs=1)
        store.maintenance.sweep(100.0)
        with pytest.raises(RejectedError):
            start_child(store, root, None, "b", 100.0, root=root.id, max_child_runs=1)
        store.maintenance.sweep(102.0)
        start_child(store, root, None, "b", 102.0, root=root.id, max_child_runs=1)

    def test_expired_entries_of_the_outbox_are_deleted(self, store: Store) -> None:
        add(store, entry("a", expires_at=100.0), entry("b", expires_at=200.0, due_at=None), entry("c"))
        store.maintenance.sweep(99.0)
        assert store.outbox.get("default", "a") is not None
        store.maintenance.sweep(100.0)
        assert [store.outbox.get("default", id) is None for id in "abc"] == [True, False, False]
        store.maintenance.sweep(200.0)
        assert store.outbox.find("default", NOTIFICATION) == ([entry("c")], None)

    def test_firings_are_deleted_after_the_retention_period(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
        register(store, declare())
        for now in (1.0, 50.0):
            assert store.triggers.advance(advance_by(read_trigger(store), now, FiringOutcome.MISSED))
        store.maintenance.sweep(100.0)
        assert [firing.fired_at for firing in list_firings(store)] == [50.0, 1.0]
        store.maintenance.sweep(102.0)
        assert [firing.fired_at for firing in list_firings(store)] == [50.0]
        assert read_trigger(store).next_at == 180.0

    def test_without_retention_runs_are_kept(self, store: Store) -> None:
        play = begin_run(store, FORK, 0)
        play.finish()
        store.maintenance.sweep(play.clock() + 1e9)
        assert store.runs.get("default", play.id) is not None

    def test_a_resumed_run_is_kept(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
        play = begin_run(store, "steps: [{name: a, run: [{action: fail, message: no}]}]", 0)
        play.finish()
        play.clock.advance(101.0)
        store.runs.resume(play.id, play.clock(), deadline_at=None, values={})
        store.maintenance.sweep(play.clock())
        assert store.runs.get("default", play.id) is not None

    def test_a_child_run_is_kept_as_long_as_its_parent(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
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
        assert failed_checks(store) == []
