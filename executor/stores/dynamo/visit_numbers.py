"""Numbers of the visits of steps on cycles, in a run that has forked."""

from __future__ import annotations

from noetl.executor.model.run import Branch
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.expressions import Condition, Update, Write
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.visit_items import VisitOrigin


class VisitNumbers:
    """Numbers for visits of steps on cycles in a run that has forked, each given once.

    A number is taken by a write under the condition that no other commit has taken one since it was read.
    """

    def __init__(self, table: DynamoTable, run_id: str) -> None:
        self._table = table
        self._run_id = run_id
        self._counts: dict[str, tuple[int, int]] = {}
        self._latest: dict[str, tuple[str, str]] = {}

    def take(self, branch: Branch, origin: VisitOrigin, cause: str = "") -> int:
        """Return the next number for the step of a branch.

        `cause` is the visit before, or "" after a join.
        """
        if branch.step not in self._counts:
            item = self._table.get(keys.visit_count(self._run_id, branch.step)) or {}
            self._counts[branch.step] = (item.get("visits", 0), 0)
        before, taken = self._counts[branch.step]
        self._counts[branch.step] = (before, taken + 1)
        self._latest[branch.step] = (branch.id, cause)
        return int(origin.counts.get(branch.step, 0) + before + taken + 1)

    def writes(self) -> list[Write]:
        """Return the writes that take the numbers."""
        writes: list[Write] = []
        for step, (before, taken) in self._counts.items():
            is_unchanged: Condition = ("visits", "=", before) if before else ("visits", "absent", None)
            key = keys.visit_count(self._run_id, step)
            visit, cause = self._latest[step]
            sets = {"visits": before + taken, "latest": visit, "cause": cause}
            writes.append(Update(key, sets, when=(is_unchanged,)))
        return writes
