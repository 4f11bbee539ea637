"""Facts for metrics in Postgres."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.facts import SqlFacts
from noetl.executor.stores.sql.rows import Row


class PostgresFacts(SqlFacts):
    """The facts of a Postgres store."""

    def _take(self, db: Writer, limit: int) -> Sequence[Row]:
        return db.execute("facts.take", limit=limit).fetchall()
