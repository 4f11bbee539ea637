"""A new run that starts at a step or an event of another run, with all branches of that moment.

Problem: between a fork and its join, other branches have done their part, or are on their way. The new run
must neither lose nor repeat what they have done.

Algorithm: a consistent cut (`noetl.executor.model.consistent_cut`) is the state before a step. The caller
asks for the verdict on it (`noetl.planner.continuation`). The state after an event comes from the replay of
the history (`noetl.executor.engine.replay`). The run was in that state, in the same plan, so no verdict is
needed. In another plan, the new run needs a verdict on each of these states.

Cost: linear in the visits of the run.

Limits: a run in sequential mode is refused while it has several branches, since they are on a stack that is
not kept. A run that has had several plans starts again only at steps that are on no branch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noetl.executor.engine.replay import PastRun, RecordedHistory
from noetl.executor.engine.start import RunPrefix, check_can_restart, new_run_from
from noetl.executor.errors import RejectedError
from noetl.executor.model.consistent_cut import cut_before, keep_branch
from noetl.executor.model.continued_run import ContinuedRun, PlanChange, continue_records
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import Branch, FailureState, Run, Visit
from noetl.executor.model.run_history import RunRecords, names_of_branches, read_switch_state
from noetl.executor.model.run_transition import check_input_kept, payload_lost
from noetl.executor.model.special_visits import SWITCH_STEP, is_branch_visit, is_pseudo_step
from noetl.executor.model.transition import branches_after
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import enter_step
from noetl.planner.continuation.switch_state import SwitchState
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan

if TYPE_CHECKING:
    from noetl.executor.engine.switching import SwitchRequest


@frozen
class RestartPoint:
    """The step of an ended run at which a new run starts. `visits` are those of the run, with outputs.

    With `drops_siblings`, the branches next to that of the step do not continue. With `has_other_plans`, some
    visits were done in other plans than `plan`.
    """

    run: Run
    plan: Plan
    visits: Sequence[Visit]
    step: str
    drops_siblings: bool = False
    has_other_plans: bool = False


def find_restart_state(point: RestartPoint) -> tuple[RunRecords, SwitchState]:
    """Return the records before the last visit of a step, and the state for the verdict on them.

    Raises:
        RejectedError: `inside_region`, on a branch in sequential mode, or one not visited; `no_past`,
            on a branch with other plans; `unknown_step`, if another step was not visited; `payload_lost`.
    """
    check_input_kept(point.run)
    latest = _find_latest(point)
    records = RunRecords(point.run, point.visits)
    records = (
        _cut_clocks(records, latest) if point.has_other_plans else cut_before(records, point.plan, latest)
    )
    if point.drops_siblings:
        records = keep_branch(records, point.plan, latest)
    _check_kept(records)
    is_edited = point.drops_siblings or point.has_other_plans
    return records, replace(read_restart_state(records, point.plan), is_edited=is_edited)


def read_restart_state(records: RunRecords, plan: Plan) -> SwitchState:
    """Return the state for the verdict on the start of a new run: work that had begun begins again."""
    state = read_switch_state(records, plan)
    branches = tuple(replace(branch, begun=None) for branch in state.branches)
    return replace(state, branches=branches, is_claimed=False)


def _find_latest(point: RestartPoint) -> Visit:
    """Return the last visit of the step at which a new run starts.

    Raises:
        RejectedError: as `find_restart_state`.
    """
    run, step = point.run, point.plan.steps[point.step]
    check_can_restart(run, step)
    other_step = "start from a step before the fork or after the join"
    if step.regions and point.plan.header.sequential:
        message = f"run {run.id} performs its branches one at a time, and step `{step.name}` is on one"
        raise RejectedError("inside_region", f"{message}; {other_step}")
    if step.regions and point.has_other_plans:
        message = f"run {run.id} has steps of several versions of its playbook; {other_step}"
        earlier_run = "" if run.resumed_from is None else f", or name run {run.resumed_from}"
        raise RejectedError("no_past", message + earlier_run)
    visits = [visit for visit in point.visits if visit.step == step.name]
    if visits:
        return max(visits, key=lambda visit: (visit.clock, visit.id))
    where = ", which is on one of several branches" if step.regions else ""
    message = f"run {run.id} has not visited step `{step.name}`{where}; start from a step that it has visited"
    raise RejectedError("inside_region" if step.regions else "unknown_step", message)


def _cut_clocks(records: RunRecords, latest: Visit) -> RunRecords:
    """Return the records of a run with one branch before a visit: its other visits have lower clocks."""
    kept = [
        visit
        for visit in records.visits
        if visit.step == SWITCH_STEP
        or (not is_pseudo_step(visit.step) and visit.status in FINISHED and visit.clock < latest.clock)
    ]
    branch = Branch(latest.id, latest.step, latest.clock, latest.names)
    entered = enter_step(branch, latest.run_id, latest.due_at, latest.number)
    settled = [
        visit if visit.failure is None else replace(visit, failure=FailureState.HANDLED) for visit in kept
    ]
    fired, ids = Counter(visit.step for visit in records.visits), {entered.id, *(visit.id for visit in kept)}
    waves = {
        step: max((n for n in range(1, count + 1) if derived_id("join", step, n) in ids), default=0)
        for step, count in fired.items()
    }
    return replace(
        records,
        visits=[*settled, entered],
        waves={step: wave for step, wave in waves.items() if wave},
    )


def recover_names(prefix: RunPrefix, plan: Plan, visits: Sequence[Visit]) -> RunPrefix:
    """Return the prefix of a run of several plans, with all names that its branch had at the step.

    A visit has only the names that were read later in the plan in which it was done. `plan` is that of now.
    """
    entered = [visit for visit in visits if visit.step == prefix.step.name]
    if not entered:
        return prefix
    latest = max(entered, key=lambda visit: (visit.clock, visit.id))
    return replace(prefix, names=names_of_branches(RunRecords(prefix.run, visits), plan)[latest.id])


def find_past_state(recorded: RecordedHistory, state: PastRun) -> RunRecords:
    """Return the records of an ended run as they were after an event, with what its visits have saved.

    Visits that were open start again. The input is that of now, which a resume may have corrected.

    Raises:
        RejectedError: `not_ended`; `nothing_left`, if no branch was left; `inside_region`, with several
            branches in sequential mode; `payload_lost`; `no_past`, if a step began before its cause ended.
    """
    run, plan, stack = recorded.run, recorded.plan, state.stack
    if not run.status.is_final:
        raise RejectedError("not_ended", f"run {run.id} has not ended, so no run can start from it")
    check_input_kept(run)
    if stack is not None and (stack.frames or stack.arrived):
        message = f"run {run.id} performs its branches one at a time, and at this event it had several"
        raise RejectedError(
            "inside_region", f"{message}; start from an event before the fork or after the join"
        )
    by_id = {visit.id: visit for visit in recorded.visits}
    visits = [
        _with_outputs(visit, by_id.get(visit.id), plan)
        for visit in state.visits
        if is_branch_visit(visit, plan.header.finally_step)
    ]
    waves = state.waves if stack is None else stack.waves
    records = RunRecords(run, visits, state.arrivals, waves)
    live = [visit for visit in visits if records.is_live(visit)]
    if not live:
        message = f"run {run.id} had no branch left at this event, so nothing would be done"
        raise RejectedError("nothing_left", f"{message}; start from an earlier event")
    _check_causes(records, live, recorded)
    _check_kept(records)
    return records


def _with_outputs(visit: Visit, recorded: Visit | None, plan: Plan) -> Visit:
    """Return a replayed visit as its record is, if it had ended for good."""
    has_outputs = visit.status in FINISHED and visit.failure in (None, FailureState.HANDLED)
    if has_outputs and recorded is not None:
        return recorded
    names = {name: visit.names[name] for name in visit.names if name in plan.steps[visit.step].live_names}
    return replace(visit, names=names if visit.status in FINISHED else visit.names)


def _check_causes(records: RunRecords, live: Sequence[Visit], recorded: RecordedHistory) -> None:
    """Check that no visit had begun before the visit ended that has led to it: it would begin twice.

    Processes that write side by side may record events so.
    """
    begun, by_id = {visit.id for visit in records.visits}, {visit.id: visit for visit in recorded.visits}
    steps = recorded.plan.steps
    for visit in live:
        later = by_id.get(visit.id, visit)
        if later.status not in FINISHED:
            continue
        for branch in branches_after(later, steps[later.step], steps.__getitem__):
            if branch.id in begun and not branch.is_absorbed:
                message = f"step `{branch.step}` was recorded before the end of step `{visit.step}`"
                raise RejectedError("no_past", f"{message}; start from an event before or after both")


def _check_kept(records: RunRecords) -> None:
    """Check that what visits have saved is kept.

    Raises:
        RejectedError: `payload_lost`.
    """
    for visit in records.visits:
        if visit.lost_payload is not None:
            raise payload_lost(records.run.id, visit.lost_payload)


def begin_from_records(records: RunRecords, plan: Plan, given: Mapping[str, Any], now: float) -> ContinuedRun:
    """Return a new run at a state of another run. `given` replaces inputs. The verdict must be yes.

    Raises:
        RejectedError: `invalid_input`, as for a new run.
    """
    new, _ = new_run_from(plan.header, records.run, given, now=now)
    return continue_records(records, plan, new)


def begin_in_plan(records: RunRecords, plan: Plan, request: SwitchRequest, now: float) -> ContinuedRun:
    """Return a new run in another plan, at a state of a run of `plan`. The verdict must be yes.

    Raises:
        RejectedError: `invalid_input`, as for a new run.
    """
    run, header = records.run, request.plan.header
    inputs = {
        name: value
        for name, value in run.input.items()
        if name in header.inputs or header.accepts_other_inputs
    }
    before = replace(
        run,
        plan_hash=request.plan.hash,
        version=request.version,
        source=request.source,
        input=inputs,
        variables={name: value for name, value in run.variables.items() if name in header.variables},
    )
    given = {name: value for name, value in request.switch.given.items() if name in header.inputs}
    new, _ = new_run_from(header, before, given, now=now)
    return continue_records(records, plan, new, PlanChange(request.plan, request.switch))
