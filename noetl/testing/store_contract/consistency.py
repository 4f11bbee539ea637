"""The contract of consistency checks: each kind of damage is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from noetl.executor.model.run import NEVER, Run, RunStatus, WaitKey
from noetl.executor.model.triggers import Advance
from noetl.executor.stores.finding import MAX_FINDINGS
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.damage import StoreDamage
from noetl.testing.store_contract.operations import (
    CHAIN,
    DIAMOND,
    claim_visit,
    end_run,
    fail,
    start_child,
    start_run,
    start_waiting_run,
    succeed,
)
from noetl.testing.store_contract.triggers import declare, read_trigger, register


def finish_run(store: Store, text: str = DIAMOND) -> Run:
    """Return a run that was executed to its end."""
    return RunHarness(store, text, folder=Path.cwd()).finish().run


def list_findings(store: Store) -> list[tuple[str, str | None, str]]:
    return [
        (finding.check, finding.run_id, finding.message) for finding in store.maintenance.check_consistency()
    ]


def list_checks(store: Store) -> list[tuple[str, str | None]]:
    return [(finding.check, finding.run_id) for finding in store.maintenance.check_consistency()]


class ConsistencyContract:
    """Tests of consistency checks. `store` is an empty store, and `damage` damages it."""

    damage: StoreDamage

    def test_a_sound_store_has_no_findings(self, store: Store) -> None:
        assert store.maintenance.check_consistency() == []
        assert finish_run(store).status is RunStatus.SUCCEEDED
        stopped = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, stopped)), 1.0)
        store.queue.commit(fail(store, claim_visit(store, stopped, 1.0)), 2.0)
        assert store.maintenance.check_consistency() == []
        assert end_run(store, stopped, RunStatus.FAILED, 3.0).live > 0
        run, key = start_waiting_run(store)
        assert store.maintenance.check_consistency() == []
        child_run = start_child(store, run, WaitKey(run.id, key.visit_id, "child"), "inner", queue="inner")
        store.waits.close_wait(key, 2.0)
        assert store.maintenance.check_consistency() == []
        store.runs.stop(child_run.id, RunStatus.CANCELLED, 3.0)
        end_run(store, child_run, RunStatus.CANCELLED, 4.0)
        assert store.maintenance.check_consistency() == []

    @pytest.mark.parametrize("status", ["parked", "failed"])
    def test_finds_a_run_without_active_visits(self, store: Store, status: str) -> None:
        run = start_run(store, "timeout: 1h" + CHAIN.replace("\n    ", "\n"))
        self.damage.update_visit(store, run, "a", status=status)
        assert (
            "stuck",
            run.id,
            f"run {run.id} has not ended, but no active visit is left",
        ) in list_findings(store)

    def test_finds_a_wait_that_is_closed(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        store.waits.close_wait(key, 2.0)
        assert list_findings(store) == [
            ("waits in vain", run.id, f"run {run.id} waits, but no answer can arrive any more")
        ]

    def test_finds_a_child_that_ended_without_answering(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        child_run = start_child(store, run, WaitKey(run.id, key.visit_id, "child"), "inner")
        store.waits.close_wait(key, 2.0)
        assert store.maintenance.check_consistency() == []
        self.damage.update_run(store, child_run.id, status="failed", finished_at=1)
        assert dict(list_checks(store)) == {"waits in vain": run.id, "goes on after its end": child_run.id}

    def test_finds_a_ready_visit_that_is_never_due(self, store: Store) -> None:
        run = start_run(store)
        self.damage.update_visit(store, run, "a", due_at=NEVER)
        assert list_checks(store) == [("waits in vain", run.id)]

    def test_finds_an_active_step_of_an_ended_run(self, store: Store) -> None:
        run = finish_run(store)
        self.damage.update_visit(store, run, "d", status="ready", finished_at=None)
        expected = (
            "goes on after its end",
            run.id,
            f"run {run.id} has ended, but step `d` is still active",
        )
        assert list_findings(store) == [expected]

    @pytest.mark.parametrize("live", [-1, 2])
    def test_finds_wrong_counters_of_joins(self, store: Store, live: int) -> None:
        run = finish_run(store)
        self.damage.set_live(store, run, "c", live)
        expected = (
            "counters of joins",
            run.id,
            f"run {run.id} counts {live} branches on the way to join `c`",
        )
        assert list_findings(store) == [expected]

    def test_finds_a_negative_counter_of_an_active_run(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        self.damage.set_live(store, run, "c", -1)
        assert list_checks(store) == [("counters of joins", run.id)]

    @pytest.mark.parametrize("live", [-1, 2])
    def test_finds_wrong_counters_of_runs(self, store: Store, live: int) -> None:
        run = finish_run(store)
        self.damage.update_run(store, run.id, live=live)
        assert list_findings(store) == [
            ("counters of runs", run.id, f"run {run.id} counts {live} active branches")
        ]

    def test_finds_an_arrival_in_an_ended_run(self, store: Store) -> None:
        run = finish_run(store)
        self.damage.add_arrival(store, run, "c")
        message = f"run {run.id} has ended, but branches still wait at join `c`"
        assert list_findings(store) == [("arrivals", run.id, message)]

    def test_finds_a_run_whose_status_contradicts_its_end(self, store: Store) -> None:
        run = finish_run(store)
        self.damage.update_run(store, run.id, status="running")
        assert ("endings of runs", run.id) in list_checks(store)

    def test_finds_a_visit_whose_status_contradicts_its_end(self, store: Store) -> None:
        run = finish_run(store)
        self.damage.update_visit(store, run, "d", finished_at=None)
        assert list_checks(store) == [("endings of visits", run.id)]

    def test_finds_rows_of_an_unknown_run(self, store: Store) -> None:
        for kind in self.damage.leftover_kinds:
            self.damage.add_leftover(store, kind, "no")
        expected = [
            ("unknown runs", "no", f"`{kind}` has rows of unknown run no")
            for kind in self.damage.leftover_kinds
        ]
        assert sorted(list_findings(store)) == sorted(expected)

    def test_finds_an_unknown_parent(self, store: Store) -> None:
        run = start_run(store)
        self.damage.set_parent(store, run.id, "no")
        assert list_findings(store) == [
            ("unknown parents", run.id, f"run {run.id} has unknown parent run no")
        ]

    def test_finds_an_unknown_plan_of_a_playbook(self, store: Store) -> None:
        self.damage.add_version(store, "p", "3", "no")
        assert list_findings(store) == [
            ("unknown plans", None, "version 3 of playbook `p` has an unknown plan")
        ]

    def test_finds_an_unknown_plan_of_a_run(self, store: Store) -> None:
        run = finish_run(store, CHAIN)
        self.damage.update_run(store, run.id, plan_hash="no")
        assert list_findings(store) == [
            ("unknown plans", run.id, f"run {run.id} of `{run.playbook}` has an unknown plan")
        ]

    def test_the_number_of_findings_is_limited(self, store: Store) -> None:
        for number in range(MAX_FINDINGS + 1):
            self.damage.add_leftover(store, self.damage.leftover_kinds[0], f"r{number}")
        findings = store.maintenance.check_consistency()
        assert len(findings) == MAX_FINDINGS + 1
        assert findings[-1].message == f"more than {MAX_FINDINGS} such findings"

    def test_a_trigger_of_another_version_is_found(self, store: Store) -> None:
        register(store, declare())
        trigger = read_trigger(store)
        lost = replace(trigger, version="9", edition=trigger.edition + 1)
        assert store.triggers.advance(Advance(trigger, lost))
        message = "trigger `t` belongs to version 9 of playbook `p`, which is not live"
        assert list_findings(store) == [("lost triggers", None, message)]
        register(store, declare())
        assert list_findings(store) == []
