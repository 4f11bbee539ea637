"""The start of a run that continues another one, with all branches of that run.

Problem: a run that starts in the middle of another one needs its branches and what waits at its joins. It
also needs what its visits have saved. The other run may be deleted later.

Algorithm: finished visits are copied with their outputs and their ids. Ids follow from causes, so the new run
derives the same ids as the old one, and none that a copy has. Idempotency keys differ, because the id of the
run is a part of them. Counters, names and joins are those of `noetl.executor.model.plan_switch.carry`.

Cost: linear in the visits of the run times their names.

The new run may have another plan. Then its history has a visit of SWITCH_STEP, also without given values. It
says that the visits before were done in another plan. So no earlier state follows from the plan of the run.

Limits: work that had begun in a visit begins again. Branches that have ended in a failure stay ended.
"""

from __future__ import annotations

from collections.abc import Mapping

from noetl.executor.model.plan_switch import CarriedRun, carry, given_visit
from noetl.executor.model.run import Branch, FailureState, Run, Visit
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.special_visits import has_given_visit
from noetl.executor.model.transition import branches_after
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import enter_step
from noetl.planner.continuation.switch_state import Switch
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan


@frozen
class ContinuedRun:
    """A new run, not stored yet. `carried.visits` are those that are due, `history` the finished ones.

    `senders` has the visits that have sent the branches which wait at joins, by the ids of the branches.
    """

    run: Run
    carried: CarriedRun
    history: tuple[Visit, ...]
    senders: Mapping[str, str]

    @property
    def has_other_plan(self) -> bool:
        """True if the finished visits were done in another plan than that of the run."""
        return has_given_visit(self.history)


@frozen
class PlanChange:
    """The plan in which a new run continues, if it is not that of the other run."""

    plan: Plan
    switch: Switch


def continue_records(
    records: RunRecords, plan: Plan, run: Run, change: PlanChange | None = None
) -> ContinuedRun:
    """Return the new run `run` at the state of another run, whose records these are and whose plan is `plan`.

    The verdict on the state must be yes. Without a `change`, both runs have the same plan.
    """
    new, switch = (plan, Switch()) if change is None else (change.plan, change.switch)
    carried = carry(plan, new, records, switch, run.created_at)
    live = tuple(
        _begin_again(visit, new, run)
        for visit in carried.visits
        if visit.status not in FINISHED or visit.failure is FailureState.OPEN
    )
    finished = [visit for visit in records.visits if visit.status in FINISHED and not records.is_live(visit)]
    history = [
        _copy_finished(replace(visit, step=switch.renamed.get(visit.step, visit.step)), run)
        for visit in sorted(finished, key=lambda visit: (visit.clock, visit.id))
    ]
    if change is not None:
        given = {name: value for name, value in switch.given.items() if name not in new.header.inputs}
        history.insert(0, replace(given_visit(records, given, run.created_at), run_id=run.id))
    carried = replace(carried, visits=live, deadline_at=run.deadline_at)
    senders = _find_senders(records, plan)
    return ContinuedRun(replace(run, live=carried.live), carried, tuple(history), senders)


def _find_senders(records: RunRecords, plan: Plan) -> dict[str, str]:
    """Return the finished visits that have sent the branches which wait at joins."""
    waiting = {branch.id for arrived in records.arrivals.values() for branch in arrived}
    return {
        branch.id: visit.id
        for visit in (records.visits if waiting else ())
        if visit.status in FINISHED and visit.case is not None
        for branch in branches_after(visit, plan.steps[visit.step], plan.steps.__getitem__)
        if branch.id in waiting
    }


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
