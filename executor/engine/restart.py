"""A new run that starts at a step or an event of another run, with all branches of that moment.

Problem: between a fork and its join, other branches have done their part, or are on their way. The new run
must neither lose nor repeat what they have done.

Algorithm: a consistent cut (`noetl.executor.model.consistent_cut`) is the state before a step. The caller
asks for the verdict on it (`noetl.planner.continuation`). The state after an event comes from the replay of
the history (`noetl.executor.engine.replay`). The run was in that state, in the same plan, so no verdict is
needed.

Cost: linear in the visits of the run.

Limits: a run in sequential mode is refused while it has several branches, since they are on a stack that is
not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.engine.replay import PastRun, RecordedHistory
from noetl.executor.engine.start import new_run_from
from noetl.executor.errors import RejectedError
from noetl.executor.model.consistent_cut import cut_before, keep_branch
from noetl.executor.model.continued_run import ContinuedRun, continue_records
from noetl.executor.model.run import FailureState, Run, Visit
from noetl.executor.model.run_history import RunRecords, read_switch_state
from noetl.executor.model.run_transition import check_input_kept, payload_lost
from noetl.executor.model.special_visits import is_branch_visit
from noetl.executor.model.transition import branches_after
from noetl.executor.model.visit_states import FINISHED
from noetl.planner.continuation.switch_state import SwitchState
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan


@frozen
class RestartPoint:
    """The step of an ended run at which a new run starts. `visits` are those of the run, with outputs.

    With `drops_siblings`, the branches next to that of the step do not continue.
    """

    run: Run
    plan: Plan
    visits: Sequence[Visit]
    step: str
    drops_siblings: bool = False


def find_restart_state(point: RestartPoint) -> tuple[RunRecords, SwitchState]:
    """Return the records before the last visit of a step, and the state for the verdict on them.

    Raises:
        RejectedError: `inside_region`, if the step was not visited, or in sequential mode; `payload_lost`.
    """
    check_input_kept(point.run)
    if point.plan.header.sequential:
        message = f"run {point.run.id} performs its branches one at a time, and step `{point.step}` is on one"
        raise RejectedError(
            "inside_region", f"{message}; start from a step before the fork or after the join"
        )
    latest = max(
        (visit for visit in point.visits if visit.step == point.step),
        key=lambda visit: (visit.clock, visit.id),
        default=None,
    )
    if latest is None:
        message = (
            f"run {point.run.id} has not visited step `{point.step}`, which is on one of several branches"
        )
        raise RejectedError("inside_region", f"{message}; start from a step that it has visited")
    records = cut_before(RunRecords(point.run, point.visits), point.plan, latest)
    if point.drops_siblings:
        records = keep_branch(records, point.plan, latest)
    _check_kept(records)
    return records, replace(read_switch_state(records, point.plan), is_edited=point.drops_siblings)


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
