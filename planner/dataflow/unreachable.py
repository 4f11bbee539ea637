"""Unreachable cases and exclusive steps: the results of the definite-assignment analysis for other checks.

Problem: Some cases are never taken, because their guard requires facts that cannot hold. Some steps never run
in the same run, because a test of a constant value is true before one and false before the other.

Algorithm: Infeasible branches follow from data-flow facts (Bodik, Gupta and Soffa 1997). Two steps are
exclusive if the must sets at their entries have opposite results of one test. The same holds for two entries
and the conditions around them.

Cost: One operation on fact sets for each question.

Limits: Those of the solver (`noetl.planner.dataflow.solver`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from noetl.planner.dataflow.fact_encoding import FactTable
from noetl.planner.dataflow.transfer import EMPTY, FactSet
from noetl.planner.syntax.models import DocumentPath

UnreachableCases = frozenset[tuple[str, int]]
"""Cases that are never taken: the step and the index of the case."""


class Unreachable(NamedTuple):
    """The cases that no run takes, and the pairs of steps or entries that no run has both.

    Without a `table` nothing is known about pairs. `must` holds the must set at the entry of each step.
    """

    cases: UnreachableCases = frozenset()
    table: FactTable | None = None
    must: Mapping[str, FactSet] = {}

    def are_exclusive_steps(self, step: str, other_step: str) -> bool:
        """Return whether no run visits both steps."""
        must = self.must
        return self.table is not None and self.table.are_exclusive(
            must.get(step, EMPTY), must.get(other_step, EMPTY)
        )

    def are_exclusive_entries(self, entry: DocumentPath, other_entry: DocumentPath) -> bool:
        """Return whether no run does the work of both entries, as their `if` say."""
        if self.table is None:
            return False
        conditions = self.table.entry_conditions
        return self.table.are_exclusive(conditions.get(entry, EMPTY), conditions.get(other_entry, EMPTY))
