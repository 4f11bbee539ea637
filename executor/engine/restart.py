"""A new run that starts at a step of another run, with the branches next to that step.

Problem: between a fork and its join, other branches have done their part, or are on their way. The new run
must neither lose nor repeat what they have done.

Algorithm: a consistent cut (`noetl.executor.model.consistent_cut`) is the state before the step. The caller
asks for the verdict on it (`noetl.planner.continuation`).

Cost: linear in the visits of the run.

Limits: a run in sequential mode is refused, since its branches are on a stack that is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.engine.start import new_run_from
from noetl.executor.errors import RejectedError
from noetl.executor.model.consistent_cut import cut_before, keep_branch
from noetl.executor.model.continued_run import ContinuedRun, continue_records
from noetl.executor.model.run import Run, Visit
from noetl.executor.model.run_history import RunRecords, read_switch_state
from noetl.executor.model.run_transition import check_input_kept, payload_lost
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
    for visit in records.visits:
        if visit.lost_payload is not None:
            raise payload_lost(point.run.id, visit.lost_payload)
    return records, replace(read_switch_state(records, point.plan), is_edited=point.drops_siblings)


def begin_from_records(records: RunRecords, plan: Plan, given: Mapping[str, Any], now: float) -> ContinuedRun:
    """Return a new run at a state of another run. `given` replaces inputs. The verdict must be yes.

    Raises:
        RejectedError: `invalid_input`, as for a new run.
    """
    new, _ = new_run_from(plan.header, records.run, given, now=now)
    return continue_records(records, plan, new)
