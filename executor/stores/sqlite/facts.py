"""Facts for metrics in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.model.metrics import StoreMetrics
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.facts import SqlFacts
from noetl.executor.stores.sql.rows import Row
from noetl.executor.stores.sqlite.write_ahead_log import WriteAheadLog
from noetl.planner.frozen import replace


class SqliteFacts(SqlFacts):
    """The facts of a SQLite store, and the length of its log."""

    def __init__(self, context: SqlContext, log: WriteAheadLog) -> None:
        super().__init__(context)
        self._log = log

    def read(self, tenant: str | None, now: float) -> StoreMetrics | None:
        metrics = super().read(tenant, now)
        return None if metrics is None else replace(metrics, log_bytes=self._log.size())

    def _take(self, db: Writer, limit: int) -> Sequence[Row]:
        taken = db.execute("facts.group", limit=limit).fetchall()
        db.execute("facts.delete_grouped", limit=limit)
        return taken
