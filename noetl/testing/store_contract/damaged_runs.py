"""The contract of damaged runs: one that cannot be read is set aside, and all others continue."""

from __future__ import annotations

import pytest

from noetl.executor.errors import DamagedRunError, RejectedError
from noetl.executor.model.run import Claim, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace
from noetl.testing.run_harness import FakeClock, RunHarness
from noetl.testing.store_contract.damage import StoreDamage
from noetl.testing.store_contract.operations import (
    end_run,
    failed_checks,
    findings_of,
    start_child,
    start_waiting_run,
)

CHAIN = """
    steps:
    - {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: set, set: {m: "{{ n }}"}}]}
"""
MAX_CLAIMS = 50


def execute_due(runs: RunHarness) -> list[str]:
    """Execute all due visits as a worker does, and return the ids of the damaged runs that were found."""
    damaged: list[str] = []
    for _ in range(MAX_CLAIMS):
        claim: Claim | None = None
        try:
            claim = runs.claim()
            if claim is None:
                return damaged
            while claim is not None:
                claim = runs.executor().execute(claim)
        except DamagedRunError as error:
            run_id = error.run_id or (claim.run.id if claim is not None else "of no claim")
            damaged.append(run_id)
            runs.store.maintenance.set_aside(run_id, str(error))
    raise AssertionError("claims do not end")


class DamagedRunsContract:
    """Tests of runs without their plan. `store` is an empty store, and `damage` damages it."""

    damage: StoreDamage

    def test_other_runs_continue_and_a_repaired_run_too(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = FakeClock()
        damaged = RunHarness(store, CHAIN, clock=clock, origin="service")
        self.damage.update_run(store, damaged.id, plan_hash="lost")
        sound = [RunHarness(store, CHAIN, clock=clock, origin="service") for _ in range(3)]
        assert set(execute_due(damaged)) == {damaged.id}
        assert [run.status for run in sound] == [RunStatus.SUCCEEDED] * 3
        (record,) = [record for record in caplog.records if damaged.id in record.getMessage()]
        assert "was set aside" in record.getMessage()
        assert "set aside" in failed_checks(store)
        overview = store.runs.overview("default", damaged.id)
        ids = [damaged.id, *(run.id for run in sound)]
        assert {run.id for run in sound} <= set(store.visits.overviews("default", ids))
        assert overview is not None
        assert overview.damage is not None
        assert "lost" in overview.damage
        self._is_left_alone(store, damaged)

        self.damage.update_run(store, damaged.id, plan_hash=damaged.plan.hash)
        assert store.maintenance.put_back(clock()) == [damaged.id]
        clock.advance(60.0)
        assert execute_due(damaged) == []
        assert damaged.status is RunStatus.SUCCEEDED
        assert store.maintenance.put_back(clock()) == []
        assert failed_checks(store) == []

    def test_a_list_leaves_out_a_run_that_cannot_be_decoded(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = FakeClock()
        runs = []
        for _ in range(5):
            clock.advance(1)
            runs.append(RunHarness(store, CHAIN, clock=clock, origin="service").id)
        assert self._list_runs(store) == runs[::-1]
        if not self.damage.unreadable_run:
            return
        self.damage.update_run(store, runs[2], **self.damage.unreadable_run)
        assert self._list_runs(store) == self._list_runs(store) == [runs[4], runs[3], runs[1], runs[0]]
        assert set(store.visits.overviews("default", runs)) == {*runs} - {runs[2]}
        (record,) = [record for record in caplog.records if runs[2] in record.getMessage()]
        assert "lists leave it out" in record.getMessage()

    def _list_runs(self, store: Store) -> list[str]:
        """Return the ids of all runs, read in pages."""
        run_filter, ids = RunFilter(tenant="default", limit=2), []
        while True:
            page, cursor = store.runs.find(run_filter)
            ids += [run.id for run in page]
            if cursor is None:
                return ids
            run_filter = replace(run_filter, cursor=cursor)

    def _is_left_alone(self, store: Store, damaged: RunHarness) -> None:
        """Check that neither claims nor sweeps meet the run any more, and that its reason is kept."""
        assert not store.maintenance.set_aside(damaged.id, "another reason")
        damaged.clock.advance(120.0)
        assert store.maintenance.sweep(damaged.clock()).repaired == 0
        assert damaged.claim() is None
        assert store.queue.next_due(damaged.queue) is None
        (finding,) = (finding for finding in findings_of(store) if finding.check == "set aside")
        assert finding.run_id == damaged.id
        assert "another reason" not in finding.message

    def test_a_run_that_is_still_damaged_is_set_aside_again(self, store: Store) -> None:
        damaged = RunHarness(store, CHAIN, clock=FakeClock(), origin="service")
        self.damage.update_run(store, damaged.id, plan_hash="lost")
        execute_due(damaged)
        assert store.maintenance.put_back(damaged.clock()) == [damaged.id]
        damaged.clock.advance(60.0)
        execute_due(damaged)
        assert "set aside" in failed_checks(store)

    def test_a_damaged_run_is_deleted_although_it_has_not_ended(self, store: Store) -> None:
        damaged, sound = (RunHarness(store, CHAIN, clock=FakeClock(), origin="service") for _ in range(2))
        self.damage.update_run(store, damaged.id, plan_hash="lost")
        execute_due(damaged)
        assert not store.maintenance.delete_run("other", damaged.id)
        assert store.maintenance.delete_run("default", damaged.id)
        assert self._list_runs(store) == [sound.id]
        assert (store.maintenance.put_back(damaged.clock()), failed_checks(store)) == ([], [])

    def test_a_run_ends_although_its_child_run_is_damaged(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        child = start_child(store, run, key, "child", queue="child", root=run.id)
        self.damage.update_run(store, child.id, plan_hash="lost")
        store.maintenance.set_aside(child.id, "its plan is lost")
        with pytest.raises(RejectedError, match=f"delete run {run.id} with it"):
            store.maintenance.delete_run("default", child.id)
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        end_run(store, run, RunStatus.CANCELLED, 2.0)
        assert store.maintenance.delete_run("default", run.id)
        assert (self._list_runs(store), failed_checks(store)) == ([], [])

    def test_an_unknown_run_is_claimed_by_no_worker(self, store: Store) -> None:
        store.maintenance.set_aside("unknown", "its row is missing")
        assert store.runs.overview("default", "unknown") is None
        store.maintenance.put_back(store.clock())
        assert failed_checks(store) == []
