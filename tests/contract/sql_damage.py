"""Damage to a store in a SQL database, by statements."""

from __future__ import annotations

from typing import Any, ClassVar

from noetl.executor.model.flows import Flow
from noetl.executor.model.gates import Slot
from noetl.executor.model.run import Run
from noetl.executor.stores.plan_uses import PlanUses
from noetl.executor.stores.sql.slots import put_flow, slot_values
from noetl.executor.stores.sql.store import SqlStore


class SqlDamage:
    """Damage by SQL statements."""

    _rows: ClassVar = {
        "visits": (
            "visits (run_id, id, step, queue, status, position, clock, names, number, due_at)",
            ":run_id, '1', 'a', 'q', 'parked', 1, 1, '{}', 1, 1",
        ),
        "joins": ("joins (run_id, step)", ":run_id, 'a'"),
        "arrivals": ("arrivals", ":run_id, 'a', 'x', 1, '{}'"),
        "visit_counts": ("visit_counts", ":run_id, 'a', 1"),
        "waits": ("waits (run_id, visit_id, id)", ":run_id, 'a', 'x'"),
        "tokens": ("tokens (run_id, hash, visit_id, wait_id)", ":run_id, 'hash', 'a', 'x'"),
        "parts": ("parts", ":run_id, 'a', 'x', 1, '[]'"),
        "history": ("history", ":run_id, 1, '[]'"),
        "idempotency_keys": (
            "idempotency_keys (run_id, tenant, key, request_hash)",
            ":run_id, 't', 'k', 'h'",
        ),
        "debounced": ("debounced (run_id, key)", ":run_id, 'k'"),
        "slots": (
            "slots (run_id, visit_id, gate_id, gate_tenant, units, rank, queued_at)",
            ":run_id, 'v', 'own:p:0', 't', 1, 0, 0",
        ),
        "run_tags": ("run_tags (run_id, tenant, tag, created_at)", ":run_id, 't', 'x', 0"),
    }  # fmt: skip
    leftover_kinds = tuple(_rows)
    unreadable_run: ClassVar = {"tags": "{"}

    def update_visit(self, store: SqlStore, run: Run, step: str, **values: Any) -> None:
        sets = ", ".join(f"{name} = :{name}" for name in values)
        query = f"update visits set {sets} where run_id = :run_id and step = :step"
        _change(store, query, run_id=run.id, step=step, **values)

    def put_slot(self, store: SqlStore, slot: Slot) -> None:
        with store.database.transaction() as db:
            db.execute("gates.add_slot", **slot_values(slot))

    def put_flow(self, store: SqlStore, flow: Flow) -> None:
        with store.database.transaction() as db:
            put_flow(db, flow)

    def delete_visit(self, store: SqlStore, run: Run, step: str) -> None:
        query = "delete from visits where run_id = :run_id and step = :step"
        _change(store, query, run_id=run.id, step=step)

    def update_run(self, store: SqlStore, run_id: str, **values: Any) -> None:
        sets = ", ".join(f"{name} = :{name}" for name in values)
        _change(store, f"update runs set {sets} where id = :run_id", run_id=run_id, **values)

    def set_live(self, store: SqlStore, run: Run, join: str, live: int) -> None:
        query = "update joins set live = :live where run_id = :run_id and step = :join"
        _change(store, query, live=live, run_id=run.id, join=join)

    def add_arrival(self, store: SqlStore, run: Run, join: str) -> None:
        query = "insert into arrivals values (:run_id, :join, 'x', 1, '{}')"
        _change(store, query, run_id=run.id, join=join)

    def set_parent(self, store: SqlStore, run_id: str, parent: str) -> None:
        self.update_run(store, run_id, parent_run=parent, parent_visit="v", parent_wait="w")

    def add_version(self, store: SqlStore, name: str, version: str, plan_hash: str) -> None:
        query = (
            "insert into playbooks (tenant, name, version, number, plan_hash, created_at)"
            " values ('default', :name, :version, 1, :plan_hash, 0)"
        )
        _change(store, query, name=name, version=version, plan_hash=plan_hash)

    def add_leftover(self, store: SqlStore, kind: str, run_id: str) -> None:
        columns, values = self._rows[kind]
        _change(store, f"insert into {columns} values ({values})", run_id=run_id)

    def set_retention(self, store: SqlStore, seconds: float) -> None:
        store.context.retention_seconds = seconds

    def restore_without_plans(self, store: SqlStore) -> None:
        _change(store, "delete from plan_parts")
        _change(store, "delete from plans")

    def age_plans(self, store: SqlStore, seconds: float) -> None:
        store.plans.uses = PlanUses()
        _change(store, "update plans set used_at = used_at - :seconds", seconds=seconds)


def _change(store: SqlStore, query: str, **values: Any) -> None:
    with store.database.transaction() as db:
        assert db.execute(query, **values).rowcount > 0
