"""Facts for metrics in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.facts import SqlFacts
from noetl.executor.stores.sql.rows import Row


class SqliteFacts(SqlFacts):
    """The facts of a SQLite store."""

    def _take(self, db: Writer, limit: int) -> Sequence[Row]:
        taken = db.execute("facts.group", limit=limit).fetchall()
        db.execute("facts.delete_grouped", limit=limit)
        return taken
