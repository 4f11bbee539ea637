"""Visits that no branch makes: of the finally step, and of the pseudo-step that ends a run."""

from __future__ import annotations

from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import END, Visit, VisitStatus

FINALLY_CLOCK = 2**40
"""The causal clock of the finally step. It is greater than every other clock of a run."""


def finally_visit_id(resumes: int) -> str:
    """Return the id of the visit of the finally step, for a run that was resumed `resumes` times."""
    return derived_id("finally", resumes)


def end_visit(run_id: str, resumes: int, now: float) -> Visit:
    """Return the visit of the pseudo-step `@end`, which ends a run."""
    id = derived_id(END, resumes)
    return Visit(id, run_id, END, VisitStatus.READY, clock=0, names={}, due_at=now)
