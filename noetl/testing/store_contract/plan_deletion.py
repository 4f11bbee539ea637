"""The contract of the deletion of plans that no run and no registered playbook needs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from noetl.executor.engine.start import new_run
from noetl.executor.errors import StoreError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.interface import Store
from noetl.executor.stores.plan_uses import MAX_DELETED_PLANS, UNUSED_SECONDS
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.damage import SweepDamage
from noetl.testing.store_contract.operations import failed_checks, run_concurrently, start_run


def save_plan(store: Store, name: str) -> Plan:
    """Save a plan, which the name makes unlike others."""
    plan = compile_text(f"name: {name!r}\nsteps: [{{name: a, run: [{{action: set, set: {{n: 1}}}}]}}]")
    store.plans.save(plan)
    return plan


def start_saved(store: Store, plan: Plan, run_id: str) -> Run:
    """Start a run of a plan that was saved before, as a child run is started."""
    return store.runs.create(*new_run(plan.header, plan.hash, StartRequest(run_id=run_id), now=1.0))


def delete_old(store: Store) -> None:
    """Delete old runs and unused plans until none is left."""
    while store.maintenance.delete_old(store.clock()):
        pass


def find_plans(store: Store, plans: Mapping[str, Plan]) -> list[str]:
    """Return the names of the plans that the store has."""
    found = []
    for name, plan in plans.items():
        with suppress(StoreError):
            store.plans.get(plan.hash)
            found.append(name)
    return found


class PlanDeletionContract:
    """Tests of the deletion of plans. `store` is an empty store, and `damage` damages it.

    The store keeps a plan for `unused_seconds` after its last use, and longer by `seconds_after_end` after
    the end of a run. `deletes_runs` is whether `delete_old` deletes runs, too.
    """

    damage: SweepDamage
    unused_seconds: ClassVar[float] = UNUSED_SECONDS
    seconds_after_end: ClassVar[float] = 0.0
    deletes_runs: ClassVar[bool] = True

    def test_plans_that_nothing_names_are_deleted(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
        plans = {name: save_plan(store, name) for name in ("named", "kept", "removed", "unused", "ended")}
        for name in ("kept", "removed"):
            store.registry.register(RegisteredPlaybook("default", name, None, plans[name].hash, 0.0))
        store.registry.unregister("default", "removed", now=0.0)
        start_run(store, plans["named"].source)
        RunHarness(store, plans["ended"].source, folder=Path.cwd()).finish()
        self.damage.age_plans(store, self.unused_seconds - 60.0)
        delete_old(store)
        assert find_plans(store, plans) == ["named", "kept", "removed", "unused", "ended"]
        self.damage.age_plans(store, 120.0 + self.seconds_after_end)
        delete_old(store)
        assert find_plans(store, plans) == ["named", "kept"]
        assert failed_checks(store) == []

    def test_more_plans_are_deleted_than_a_transaction_deletes(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
        plans = {str(number): save_plan(store, str(number)) for number in range(MAX_DELETED_PLANS + 1)}
        store.registry.register(RegisteredPlaybook("default", "p", None, plans["0"].hash, 0.0))
        self.damage.age_plans(store, self.unused_seconds + 60.0)
        delete_old(store)
        assert find_plans(store, plans) == ["0"]

    def test_without_retention_plans_are_kept(self, store: Store) -> None:
        plans = {"a": save_plan(store, "a")}
        self.damage.age_plans(store, self.unused_seconds + 60.0)
        delete_old(store)
        assert find_plans(store, plans) == ["a"]

    def test_a_start_uses_its_plan(self, store: Store) -> None:
        """Use it too if the run is started without saving the plan again."""
        self.damage.set_retention(store, 100.0)
        plans = {name: save_plan(store, name) for name in ("saved", "started")}
        self.damage.age_plans(store, self.unused_seconds + 60.0)
        store.plans.save(plans["saved"])
        start_saved(store, plans["started"], "run")
        self.damage.update_run(store, "run", finished_at=1.0, status=RunStatus.CANCELLED)
        delete_old(store)
        assert store.runs.get("default", "run") is None or not self.deletes_runs
        assert find_plans(store, plans) == ["saved", "started"]

    def test_the_start_of_a_deleted_plan_is_refused_until_it_is_saved(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
        plan = save_plan(store, "a")
        self.damage.age_plans(store, self.unused_seconds + 60.0)
        delete_old(store)
        with pytest.raises(StoreError, match="no plan"):
            start_saved(store, plan, "refused")
        assert store.runs.get("default", "refused") is None
        store.plans.save(plan)
        assert start_saved(store, plan, "run").plan_hash == plan.hash
        assert store.plans.get(plan.hash).to_json() == plan.to_json()
        assert failed_checks(store) == []

    @pytest.mark.parametrize("is_cached", [False, True])
    def test_a_plan_that_was_used_just_now_may_be_gone(self, store: Store, is_cached: bool) -> None:
        """Check a store that was restored from a copy, which lacks the plans of its processes."""
        plan = save_plan(store, "a")
        if is_cached:
            start_saved(store, plan, "before")
        self.damage.restore_without_plans(store)
        with pytest.raises(StoreError, match="no plan"):
            start_saved(store, plan, "refused")
        store.plans.save(plan)
        assert start_saved(store, plan, "run").plan_hash == plan.hash
        assert store.plans.get(plan.hash).to_json() == plan.to_json()

    def test_a_plan_is_not_deleted_while_its_run_starts(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
        plans = [save_plan(store, str(number)) for number in range(8)]
        self.damage.age_plans(store, self.unused_seconds + 60.0)

        def race(index: int) -> None:
            if index % 2:
                delete_old(store)
            else:
                with suppress(StoreError):
                    start_saved(store, plans[index // 2], str(index))

        run_concurrently(2 * len(plans), race)
        assert failed_checks(store) == []
