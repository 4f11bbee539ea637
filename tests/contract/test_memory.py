"""The contract of stores on the store in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from noetl.executor.errors import SettingError
from noetl.executor.model.flows import Flow
from noetl.executor.model.gates import Slot
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Branch, Run, RunStatus, VisitStatus, WaitKey
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from noetl.executor.stores.memory.state import WaitToken
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.retention import DAY_SECONDS
from noetl.testing.store_contract import (
    FactsContract,
    MaintenanceContract,
    StoreContract,
    SwitchesContract,
)
from noetl.testing.store_contract.operations import claim_visit, start_run, succeed


class MemoryDamage:
    """Damage to the dictionaries of a store in memory."""

    leftover_kinds = ("tokens", "idempotency_keys", "debounced")
    unreadable_run: ClassVar[dict[str, Any]] = {}

    def update_visit(self, store: MemoryStore, run: Run, step: str, **values: Any) -> None:
        record = store.state.runs[run.id]
        (visit,) = (visit for visit in record.visits.values() if visit.step == step)
        if "status" in values:
            values["status"] = VisitStatus(values["status"])
        record.put(replace(visit, **values))

    def put_slot(self, store: MemoryStore, slot: Slot) -> None:
        store.state.slots[slot.gate, slot.owner] = slot

    def put_flow(self, store: MemoryStore, flow: Flow) -> None:
        store.state.flows[flow.gate, flow.name] = flow

    def delete_visit(self, store: MemoryStore, run: Run, step: str) -> None:
        store.state.runs[run.id].delete_visits(step)

    def update_run(self, store: MemoryStore, run_id: str, **values: Any) -> None:
        record = store.state.runs[run_id]
        if "status" in values:
            values["status"] = RunStatus(values["status"])
        record.run = replace(record.run, **values)

    def set_live(self, store: MemoryStore, run: Run, join: str, live: int) -> None:
        store.state.runs[run.id].live[join] = live

    def add_arrival(self, store: MemoryStore, run: Run, join: str) -> None:
        store.state.runs[run.id].arrivals[join] = {"x": Branch("x", join, 1, {}, is_arrival=True)}

    def set_parent(self, store: MemoryStore, run_id: str, parent: str) -> None:
        self.update_run(store, run_id, parent=WaitKey(parent, "v", "w"))

    def add_version(self, store: MemoryStore, name: str, version: str, plan_hash: str) -> None:
        store.registry.register(RegisteredPlaybook("default", name, version, plan_hash, 0.0))

    def add_leftover(self, store: MemoryStore, kind: str, run_id: str) -> None:
        if kind == "tokens":
            store.state.tokens[f"token of {run_id}"] = WaitToken(WaitKey(run_id, "v", "w"), None)
        elif kind == "debounced":
            store.state.debounced[f"key of {run_id}"] = run_id
        else:
            store.state.idempotency_keys["default", f"key of {run_id}"] = ("hash", run_id)

    def set_retention(self, store: MemoryStore, seconds: float) -> None:
        store.state.retention_seconds = seconds

    def restore_without_plans(self, store: MemoryStore) -> None:
        store.state.plans.clear()

    def age_plans(self, store: MemoryStore, seconds: float) -> None:
        uses = store.state.plan_uses
        store.state.plan_uses = {plan_hash: used_at - seconds for plan_hash, used_at in uses.items()}


def test_the_url_opens_an_empty_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_RETENTION_DAYS", "2")
    store = open_store("memory://")
    assert isinstance(store, MemoryStore)
    assert store.state.retention_seconds == 2 * DAY_SECONDS
    start_run(store)
    assert len(store.runs.find(RunFilter())[0]) == 1
    assert open_store("memory://").runs.find(RunFilter()) == ([], None)
    with pytest.raises(SettingError, match="memory://"):
        open_store("memory://x")


def test_outputs_do_not_change_with_the_values_of_the_caller() -> None:
    store = MemoryStore()
    run = start_run(store)
    rows = [1]
    store.queue.commit(succeed(store, claim_visit(store, run), saved={"n": rows}), 1.0)
    rows.append(2)
    assert store.runs.visits_with_outputs(run.id)[0].saved == {"n": [1]}


class TestMemory(
    StoreContract,
    SwitchesContract,
    FactsContract,
    MaintenanceContract,
):
    limits = PayloadLimits(payload_bytes=4096, answer_bytes=4096)
    damage = MemoryDamage()

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(limits=self.limits)
