"""The runs of a Postgres store. A Lambda function counts the outputs of their visits before they arrive.

Problem: a step may read values whose sum exceeds the memory of its function, which is then killed.

Algorithm: the claim-check pattern (Hohpe and Woolf 2003). The first query returns the outputs until they have
MAX_AT_ONCE characters, and of the others only their lengths. Each of these is read after memory was reserved
for it (`noetl.executor.model.read_memory`).

Cost: nothing for outputs with MAX_AT_ONCE characters in all, and outside of a Lambda function. Otherwise one
query for each of the others. The server knows the length of a text without reading it.

Limits: errors and the progress of visits are not counted. They are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noetl.executor.model.large_json import read_large_json
from noetl.executor.model.read_memory import dropped_on_error, is_counting_reads, reserve_read
from noetl.executor.model.run import Visit
from noetl.executor.stores.sql.rows import Row, visit_from_row
from noetl.executor.stores.sql.runs import SqlRuns

MAX_AT_ONCE = 256 * 1024
"""The characters of outputs that are read before memory was reserved for them."""


class PostgresRuns(SqlRuns):
    """The runs of a SQL store. In a Lambda function, memory is reserved for the outputs of visits."""

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        if not is_counting_reads():
            return super().visits_with_outputs(run_id, visit_ids)
        if visit_ids is None:
            rows = self._find("runs.counted_visits", run_id=run_id, is_all=True)
        else:
            rows = self._find(
                "runs.counted_visits", run_id=run_id, ids=self._context.database.encode_list(visit_ids)
            )
        key = {"run_id": run_id}
        with dropped_on_error():
            return [
                visit_from_row(self._complete(row, "runs.outputs", **key, visit_id=row["id"])) for row in rows
            ]

    def batch_results(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        if not is_counting_reads():
            return super().batch_results(run_id, visit_id, loop)
        key = {"run_id": run_id, "visit_id": visit_id, "loop": loop}
        rows = self._find("runs.counted_batch_results", **key)
        with dropped_on_error():
            return [
                read_large_json(
                    self._complete(row, "runs.batch_result", **key, position=row["position"])["body"]
                )
                for row in rows
            ]

    def _find(self, query: str, **values: Any) -> list[Row]:
        return self._context.database.fetch_all(query, most=MAX_AT_ONCE, **values)

    def _complete(self, row: Row, query: str, **key: Any) -> Row:
        """Return a row with its outputs, for which memory is reserved first.

        Raises:
            ActionError: as `reserve_read`.
        """
        reserve_read(row["characters"])
        if row["is_complete"]:
            return row
        return {**row, **self._context.database.fetch_one(query, **key)}
