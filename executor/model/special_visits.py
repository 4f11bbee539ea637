"""The visits that a run has besides those of its steps: its end, and its `finally` step."""

from __future__ import annotations

from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import END, Visit, VisitStatus

FINALLY_CLOCK = 2**40
"""The causal clock of the step that runs last: behind every other."""


def finally_visit_id(resumes: int) -> str:
    """The id of the visit of the step that runs last."""
    return derived_id("finally", resumes)


def end_visit(run_id: str, resumes: int, now: float) -> Visit:
    """The visit that ends a run."""
    id = derived_id(END, resumes)
    return Visit(id, run_id, END, VisitStatus.READY, clock=0, names={}, due_at=now)
