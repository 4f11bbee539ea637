"""The start of a run that continues another one, with all branches of that run.

Problem: a run that starts in the middle of another one needs its branches and what waits at its joins. It
also needs what its visits have saved. The other run may be deleted later.

Algorithm: finished visits are copied with their outputs and their ids. Ids follow from causes, so the new run
derives the same ids as the old one, and none that a copy has. Idempotency keys differ, because the id of the
run is a part of them. Counters, names and joins are those of `noetl.executor.model.plan_switch.carry`.

Cost: linear in the visits of the run times their names.

Limits: work that had begun in a visit begins again. Branches that have ended in a failure stay ended.
"""

from __future__ import annotations

from noetl.executor.model.plan_switch import CarriedRun, carry
from noetl.executor.model.run import Branch, FailureState, Run, Visit
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import enter_step
from noetl.planner.continuation.switch_state import Switch
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan


@frozen
class ContinuedRun:
    """A new run, not stored yet. `carried.visits` are those that are due, `history` the finished ones."""

    run: Run
    carried: CarriedRun
    history: tuple[Visit, ...]


def continue_records(records: RunRecords, plan: Plan, run: Run) -> ContinuedRun:
    """Return the new run `run` at the state of another run, whose records these are. Both have the same plan.

    The verdict on the state must be yes.
    """
    carried = carry(plan, plan, records, Switch(), run.created_at)
    live = tuple(
        _begin_again(visit, plan, run)
        for visit in carried.visits
        if visit.status not in FINISHED or visit.failure is FailureState.OPEN
    )
    finished = [visit for visit in records.visits if visit.status in FINISHED and not records.is_live(visit)]
    history = tuple(
        _copy_finished(visit, run) for visit in sorted(finished, key=lambda visit: (visit.clock, visit.id))
    )
    return ContinuedRun(
        replace(run, live=carried.live), replace(carried, visits=live, deadline_at=run.deadline_at), history
    )


def _begin_again(visit: Visit, plan: Plan, run: Run) -> Visit:
    """Return a visit at which a branch stands as its branch enters it."""
    is_counted = plan.steps[visit.step].cyclic
    branch = Branch(visit.id, visit.step, visit.clock, visit.names, is_counted=is_counted)
    return enter_step(branch, run.id, run.created_at, visit.number)


def _copy_finished(visit: Visit, run: Run) -> Visit:
    """Return a finished visit as a part of another run. No resume repeats its failure."""
    copied = replace(visit, run_id=run.id, progress=None)
    if visit.failure is None:
        return copied
    copied = replace(copied, failure=FailureState.HANDLED)
    return replace(copied, saved={}, case=None) if visit.has_ended_branch else copied
