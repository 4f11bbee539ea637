"""Maintenance of a Postgres store: the sweep also sends lost messages about due visits again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl.executor.stores.interface import StoreMaintenance, SweepResult
from noetl.executor.stores.postgres.database import PostgresDatabase
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS
from noetl.planner.frozen import replace

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding


class PostgresMaintenance:
    """The maintenance of a Postgres store: that of every SQL store, and the messages of a queue."""

    def __init__(self, shared: StoreMaintenance, database: PostgresDatabase) -> None:
        self._shared = shared
        self._database = database

    def probe(self) -> None:
        self._shared.probe()

    def check_consistency(self) -> list[Finding]:
        return self._shared.check_consistency()

    def set_aside(self, run_id: str, reason: str) -> bool:
        return self._shared.set_aside(run_id, reason)

    def put_back(self, now: float) -> list[str]:
        return self._shared.put_back(now)

    def delete_run(self, tenant: str, run_id: str) -> bool:
        return self._shared.delete_run(tenant, run_id)

    def delete_old(self, now: float) -> bool:
        return self._shared.delete_old(now)

    def write_log_back(self) -> None:
        """Return at once: the server writes its log back."""

    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        """Repair runs as every SQL store does, and send messages about overdue visits again."""
        result = self._shared.sweep(now, limit=limit)
        if self._database.message_queue is None:
            return result
        overdue = self._database.find_overdue(now - GRACE_SECONDS, limit)
        self._database.send_messages(overdue)
        return replace(result, repaired=result.repaired + len(overdue))
