"""Visits that no branch makes: of the finally step, and of the pseudo-steps."""

from __future__ import annotations

from collections.abc import Iterable

from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import DEADLINE, END, Visit, VisitStatus
from noetl.planner.frozen import replace

START_CLOCK = 1
"""The causal clock of the first visit of a run."""

FINALLY_CLOCK = 2**40
"""The causal clock of the finally step. It is greater than every other clock of a run."""


SWITCH_STEP = "@switch"
"""The pseudo-step whose visit holds the values that were given for a switch."""


def has_given_visit(visits: Iterable[Visit]) -> bool:
    """Return whether a visit holds values that were given for a switch, or marks the plan before it."""
    return any(visit.step == SWITCH_STEP for visit in visits)


def is_pseudo_step(step: str) -> bool:
    """Return whether a step is `@end` or `@deadline`, which no playbook contains."""
    return step.startswith("@")


def is_branch_visit(visit: Visit, finally_step: str | None) -> bool:
    """Return whether a branch has made the visit: its step is no pseudo-step and not the finally step."""
    return not is_pseudo_step(visit.step) and visit.step != finally_step


def finally_visit_id(resumes: int) -> str:
    """Return the id of the visit of the finally step, for a run that was resumed `resumes` times."""
    return derived_id("finally", resumes)


def finally_visit(run_id: str, step: str, resumes: int, now: float) -> Visit:
    """Return the visit of the finally step `step`."""
    return Visit(
        finally_visit_id(resumes), run_id, step, VisitStatus.READY, FINALLY_CLOCK, names={}, due_at=now
    )


def end_visit(run_id: str, resumes: int, now: float) -> Visit:
    """Return the visit of the pseudo-step `@end`, which ends a run."""
    id = derived_id(END, resumes)
    return Visit(id, run_id, END, VisitStatus.READY, clock=0, names={}, due_at=now)


def deadline_visit(run_id: str, resumes: int, deadline_at: float) -> Visit:
    """Return the visit of the pseudo-step `@deadline`, which is due when the time of a run is over."""
    id = derived_id(DEADLINE, resumes)
    return Visit(id, run_id, DEADLINE, VisitStatus.READY, clock=0, names={}, due_at=deadline_at)


def move_deadline(claimed: Visit, resumes: int, deadline_at: float) -> Visit:
    """Return the visit of a deadline that has moved. Its fence grows, so a lost claim of it is refused."""
    return replace(deadline_visit(claimed.run_id, resumes, deadline_at), fence=claimed.fence + 1)
