"""Damage to a store in a SQL database, by statements."""

from __future__ import annotations

from typing import Any, ClassVar

from noetl.executor.model.run import Run
from noetl.executor.stores.sql.store import SqlStore


class SqlDamage:
    """Damage by SQL statements."""

    _rows: ClassVar = {
        "visits": (
            "visits (run_id, id, step, queue, status, position, clock, names, number, due_at)",
            "?, '1', 'a', 'q', 'parked', 1, 1, '{}', 1, 1",
        ),
        "joins": ("joins (run_id, step)", "?, 'a'"),
        "arrivals": ("arrivals", "?, 'a', 'x', 1, '{}'"),
        "visit_counts": ("visit_counts", "?, 'a', 1"),
        "waits": ("waits (run_id, visit_id, id)", "?, 'a', 'x'"),
        "tokens": ("tokens (run_id, hash, visit_id, wait_id)", "?, 'hash', 'a', 'x'"),
        "parts": ("parts", "?, 'a', 'x', 1, '[]'"),
        "history": ("history", "?, 1, '[]'"),
        "idempotency_keys": ("idempotency_keys (run_id, tenant, key, request_hash)", "?, 't', 'k', 'h'"),
    }  # fmt: skip
    leftover_kinds = tuple(_rows)

    def update_visit(self, store: SqlStore, run: Run, step: str, **values: Any) -> None:
        sets = ", ".join(f"{name} = ?" for name in values)
        _change(
            store, f"update visits set {sets} where run_id = ? and step = ?", *values.values(), run.id, step
        )

    def delete_visit(self, store: SqlStore, run: Run, step: str) -> None:
        _change(store, "delete from visits where run_id = ? and step = ?", run.id, step)

    def update_run(self, store: SqlStore, run_id: str, **values: Any) -> None:
        sets = ", ".join(f"{name} = ?" for name in values)
        _change(store, f"update runs set {sets} where id = ?", *values.values(), run_id)

    def set_live(self, store: SqlStore, run: Run, join: str, live: int) -> None:
        _change(store, "update joins set live = ? where run_id = ? and step = ?", live, run.id, join)

    def add_arrival(self, store: SqlStore, run: Run, join: str) -> None:
        _change(store, "insert into arrivals values (?, ?, 'x', 1, '{}')", run.id, join)

    def set_parent(self, store: SqlStore, run_id: str, parent: str) -> None:
        self.update_run(store, run_id, parent_run=parent, parent_visit="v", parent_wait="w")

    def add_version(self, store: SqlStore, name: str, version: str, plan_hash: str) -> None:
        _change(
            store, "insert into playbooks values ('default', ?, ?, 1, ?, 0, null)", name, version, plan_hash
        )

    def add_leftover(self, store: SqlStore, kind: str, run_id: str) -> None:
        columns, values = self._rows[kind]
        _change(store, f"insert into {columns} values ({values})", run_id)

    def set_retention(self, store: SqlStore, seconds: float) -> None:
        store.retention_seconds = seconds


def _change(store: SqlStore, query: str, *values: Any) -> None:
    with store.database.transaction() as db:
        assert db.execute(query, values).rowcount > 0
