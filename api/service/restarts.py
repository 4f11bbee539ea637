"""New runs that start at a step between a fork and its join of another run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from noetl.executor.errors import RejectedError
from noetl.executor.model.special_visits import has_given_visit
from noetl.planner.continuation.verdict import Reason, SwitchVerdict

if TYPE_CHECKING:
    from noetl.api.service.tenant import TenantContext
    from noetl.executor.engine.restart import RestartPoint
    from noetl.executor.model.continued_run import ContinuedRun
    from noetl.executor.model.events import Event
    from noetl.executor.model.run import Visit
    from noetl.executor.model.run_history import RunRecords

_MAX_SHOWN_REASONS = 3
_MAX_SHOWN_NAMES = 10


def check_same_plan(run_id: str, events: Iterable[Event], visits: Iterable[Visit], result: str) -> None:
    """Check that a run has had one plan only: the branches before a switch are not those of the plan of now.

    Raises:
        RejectedError: `no_past`. Its message ends with `result`.
    """
    if any(event.type == "workflow.migrated" for event in events):
        message = f"run {run_id} has continued in another version of its playbook"
        raise RejectedError("no_past", f"{message}; {result}")
    if has_given_visit(visits):
        message = f"run {run_id} has continued a run of another version of its playbook"
        raise RejectedError("no_past", f"{message}; {result}")


def has_other_plans(context: TenantContext, run_id: str, visits: Iterable[Visit]) -> bool:
    """Return whether some visits of a run were done in other plans than that of now."""
    from noetl.executor.engine.run_events import read_events

    is_switched = any(event.type == "workflow.migrated" for event in read_events(context.store, run_id))
    return is_switched or has_given_visit(visits)


def judge_restart(context: TenantContext, point: RestartPoint) -> RunRecords:
    """Return the state before a step, from which a new run may start with the branches next to the step.

    Raises:
        RejectedError: `cannot_continue`, with the reasons of the verdict; `inside_region`, if the step was
            not visited, or in sequential mode; `payload_lost`; `no_past`, if the run was switched.
    """
    from noetl.executor.engine.restart import find_restart_state
    from noetl.executor.engine.run_events import read_events
    from noetl.planner.continuation.judge import may_continue
    from noetl.planner.continuation.switch_state import Switch

    fix = "start from a step before the fork or after the join"
    check_same_plan(point.run.id, read_events(context.store, point.run.id), point.visits, fix)
    records, state = find_restart_state(point)
    verdict = may_continue(point.plan, point.plan, state, Switch(), context.compiler.catalogue)
    if not verdict.is_yes:
        raise _refuse(point, verdict)
    return records


def begin_restart(context: TenantContext, point: RestartPoint, given: dict[str, object]) -> ContinuedRun:
    """Return the new run, which is not stored yet. `given` replaces inputs.

    Raises:
        RejectedError: as `judge_restart`; `invalid_input`, as for a new run.
    """
    from noetl.executor.engine.restart import begin_from_records

    return begin_from_records(judge_restart(context, point), point.plan, given, context.clock())


def _refuse(point: RestartPoint, verdict: SwitchVerdict) -> RejectedError:
    """Return the refusal of a start at a step, with the reasons of its verdict."""
    where = f"run {point.run.id} cannot continue from step `{point.step}`"
    if verdict.reasons:
        return RejectedError(
            "cannot_continue", f"{where}: {describe_reasons(verdict.reasons)}", verdict=verdict.to_json()
        )
    names = describe_required(verdict)
    fix = "start without dropping the other branches" if point.drops_siblings else "start at an earlier step"
    return RejectedError(
        "cannot_continue", f"{where}: NC113: no value for {names}; {fix}", verdict=verdict.to_json()
    )


def describe_reasons(reasons: Sequence[Reason]) -> str:
    """Return the first reasons of a verdict with their codes.

    >>> describe_reasons([Reason("NC105", "step `a` would be done twice", "a", 7)])
    'NC105: step `a` would be done twice (line 7)'
    """
    shown = [
        f"{reason.code}: {reason.message}" + (f" (line {reason.line})" if reason.line else "")
        for reason in reasons[:_MAX_SHOWN_REASONS]
    ]
    more = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def describe_required(verdict: SwitchVerdict) -> str:
    """Return the first names for which a verdict requires values, with their lines.

    >>> from noetl.planner.continuation.verdict import Required
    >>> describe_required(SwitchVerdict(required=(Required("a", line=7), Required("b")), more_required=40))
    '`a` (line 7), `b` and 40 more'
    """
    shown = ", ".join(
        f"`{required.name}`" + (f" (line {required.line})" if required.line else "")
        for required in verdict.required[:_MAX_SHOWN_NAMES]
    )
    more = max(len(verdict.required) - _MAX_SHOWN_NAMES, 0) + verdict.more_required
    return shown + (f" and {more:,} more" if more else "")
