"""The start of a run: checked inputs, rendered environment and variables, and the first visit."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.engine.evaluation import evaluate
from noetl.executor.engine.initial_data import CorrectedEnvironment, InitialData, InitialValues
from noetl.executor.errors import RejectedError
from noetl.executor.model.debounce import postpone_start
from noetl.executor.model.declared_values import DeclaredFields
from noetl.executor.model.ids import derived_id
from noetl.executor.model.notifications import late_time
from noetl.executor.model.run import (
    SERVICE_QUEUE,
    FailureState,
    Pointers,
    Run,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.run_transition import check_input_kept, payload_lost
from noetl.executor.model.special_visits import START_CLOCK, is_branch_visit
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.stored_json import exceeds
from noetl.planner.debounce import Debounce
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Header, Step

MAX_INPUT = 64 * 1024 * 1024
"""The most bytes of JSON of the input of a run: as many as the outputs of a step have."""


def new_run(header: Header, plan_hash: str, request: StartRequest, *, now: float) -> tuple[Run, Visit]:
    """Return a run of the plan with this header and hash, and its first visit. Neither is stored yet.

    `now` is in seconds since the epoch.

    Raises:
        RejectedError: `superseded_plan`; `invalid_input`, with every input that is missing, unknown or
            invalid.
    """
    data = initial_data(header, request, now=now)
    return assemble_run(data, plan_hash, request, evaluate(data, request.tenant))


def initial_data(header: Header, request: StartRequest, *, now: float) -> InitialData:
    """Return the data of a new run of the plan with this header, before its expressions are evaluated.

    Raises:
        RejectedError: `superseded_plan`; `invalid_input`, with every input that is missing, unknown or
            invalid.
    """
    if header.is_superseded:
        message = (
            f"playbook `{header.name}` was compiled by an earlier version of NoETL, which performs the"
            " branches of `mode: sequential` in another order: register it again as a new version"
        )
        raise RejectedError("superseded_plan", message)
    # `now` has the precision of timestamps, so that a run can be found by its timestamp.
    run_id = request.run_id or secrets.token_hex(12)
    inputs = check_inputs(header, request.input)
    debounce = _find_debounce(header, request)
    key = None if debounce is None else debounce.key
    return InitialData(header, run_id, inputs, request.variables or {}, round(now, 6), request.trigger, key)


def _find_debounce(header: Header, request: StartRequest) -> Debounce | None:
    """Return how a start waits for further ones. A child run and a run of one process begin at once."""
    is_immediate = request.is_immediate or request.root is not None or request.origin != "service"
    return None if is_immediate else header.debounce


def assemble_run(
    data: InitialData,
    plan_hash: str,
    request: StartRequest,
    values: InitialValues,
) -> tuple[Run, Visit]:
    """Return the run of a request, and its first visit. `values` are the evaluated data.

    The time limit of a run that waits for further starts counts from the latest time at which it begins.
    """
    header, run_id, now = data.header, data.run_id, data.now
    debounce = _find_debounce(header, request)
    begins_by = now if debounce is None else now + debounce.max_seconds
    run = Run(
        id=run_id,
        tenant=request.tenant,
        playbook=header.name,
        version=request.version or header.version,
        plan_hash=plan_hash,
        status=RunStatus.QUEUED,
        origin=request.origin,
        queue=request.queue or (SERVICE_QUEUE if request.origin == "service" else run_id),
        input=dict(data.inputs),
        environment=dict(values.environment),
        variables=dict(values.variables),
        tags=tuple(request.tags),
        folder=request.folder,
        source=request.source,
        parent=request.parent,
        depth=request.depth,
        root=request.root,
        trace=request.trace,
        created_at=now,
        deadline_at=None if header.timeout_seconds is None else begins_by + header.timeout_seconds,
        live=1,
        trigger=request.trigger,
    )
    visit_id = derived_id("start", header.start)
    run = replace(run, late_at=late_time(header, run))
    due_at = now
    if debounce is not None:
        postponement = postpone_start(debounce, run, values.debounce_key)
        run, due_at = replace(run, debounce=postponement), postponement.due_at(now, now)
    return run, Visit(
        visit_id, run_id, header.start, VisitStatus.READY, clock=START_CLOCK, names={}, due_at=due_at
    )


def correct_input(header: Header, run: Run, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the input of a run with `given` replacing values, and its environment rendered again.

    Raises:
        RejectedError: `invalid_input`, as for a new run; `payload_lost`, if the input of the run was deleted.
    """
    check_input_kept(run)
    inputs = check_inputs(header, {**_known_inputs(header, run), **given})
    data = InitialData(header, run.id, inputs, {}, run.created_at, run.trigger)
    return {"input": inputs, "environment": evaluate(CorrectedEnvironment(data), run.tenant)}


def _known_inputs(header: Header, run: Run) -> dict[str, Any]:
    """Return the input of a run that its plan knows. A run that was switched may have more values."""
    is_open = header.accepts_other_inputs
    return {name: value for name, value in run.input.items() if is_open or name in header.inputs}


@frozen
class RunPrefix:
    """The part of a finished run before the last visit of `step`: its visits, and the names they assigned.

    If the step was never visited, the part is the whole run.
    """

    run: Run
    step: Step
    visits: Sequence[Visit]
    names: Pointers


def prefix_before(step: Step, run: Run, visits: Sequence[Visit], finally_step: str | None) -> RunPrefix:
    """Return the part of a finished run with which a new run can start at `step`.

    `visits` are those of the run, with outputs.

    Raises:
        RejectedError: `not_ended`; `unknown_step` for the finally step; `inside_region` if other branches may
            be on their way to a join after the step; `payload_lost` if data of the run was deleted.
    """
    check_can_restart(run, step)
    if step.regions:
        joins = ", ".join(f"`{join}`" for join in step.regions)
        message = f"step `{step.name}` is on one of several branches that join at {joins}"
        raise RejectedError(
            "inside_region", f"{message}; start from a step before the fork or after the join"
        )
    last = max((v for v in visits if v.step == step.name), key=lambda v: (v.clock, v.id), default=None)
    finished = sorted(
        (v for v in visits if v.finished_at is not None and (last is None or v.clock < last.clock)),
        key=lambda v: (v.clock, v.id),
    )
    finished = [v for v in finished if is_branch_visit(v, finally_step)]
    check_input_kept(run)
    for visit in finished:
        if visit.lost_payload is not None:
            raise payload_lost(run.id, visit.lost_payload)
    return RunPrefix(run, step, finished, _final_pointers(finished) if last is None else last.names)


def restart_from_step(
    header: Header, prefix: RunPrefix, given: Mapping[str, Any], *, now: float
) -> tuple[Run, Visit, list[Visit]]:
    """Return a new run that starts at the step of `prefix`: the run, its first visit, and copied visits.

    `given` replaces inputs. Visits are counted from 1 again.

    Raises:
        RejectedError: `invalid_input`, as for a new run.
    """
    run, step = prefix.run, prefix.step
    new, first_visit = new_run_from(header, run, given, now=now)
    history = [_copy_visit(visit, new.id) for visit in prefix.visits]
    clock = max((visit.clock for visit in prefix.visits), default=0) + 1
    copied = _copied_pointers(prefix.names)
    names = {name: pointer for name, pointer in copied.items() if name in step.live_names}
    id = derived_id("from", run.id, step.name)
    return new, replace(first_visit, id=id, step=step.name, clock=clock, names=names), history


def new_run_from(header: Header, run: Run, given: Mapping[str, Any], *, now: float) -> tuple[Run, Visit]:
    """Return a new run that continues another one, with its input, tags and variables, and its first visit.

    Raises:
        RejectedError: `invalid_input`, as for a new run.
    """
    request = StartRequest(
        input={**_known_inputs(header, run), **given},
        variables=run.variables,
        tags=run.tags,
        tenant=run.tenant,
        origin=run.origin,
        folder=run.folder,
        source=run.source,
        version=run.version,
        trigger=run.trigger,
        is_immediate=True,
    )
    new, first_visit = new_run(header, run.plan_hash, request, now=now)
    new = replace(new, resumed_from=run.id)
    return replace(new, late_at=late_time(header, new)), first_visit


def check_can_restart(run: Run, step: Step) -> None:
    """Check that a new run may start from a step of a run.

    Raises:
        RejectedError: `not_ended`; `unknown_step` for the finally step.
    """
    if not run.status.is_final:
        raise RejectedError("not_ended", f"run {run.id} has not ended, so no run can start from it")
    if step.is_finally_step:
        message = f"step `{step.name}` is the finally step; a run cannot start from it"
        raise RejectedError("unknown_step", message)


def _final_pointers(visits: Sequence[Visit]) -> Pointers:
    """Return the pointers of all names at the end of a run, from its visits in causal order."""
    names: dict[str, tuple[int, str]] = {}
    for visit in visits:
        saved = () if visit.has_ended_branch else visit.saved
        names.update(dict.fromkeys([*saved, f"steps.{visit.step}"], (visit.clock, visit.id)))
    return names


def _copy_visit(visit: Visit, run_id: str) -> Visit:
    """Return a visit as a part of another run's history. Its id is unlike any id of that run's own visits."""
    failure = None if visit.failure is None else FailureState.HANDLED
    id, names = derived_id("remembered", visit.id), _copied_pointers(visit.names)
    saved = {} if visit.has_ended_branch else visit.saved
    return replace(visit, id=id, run_id=run_id, names=names, saved=saved, failure=failure, progress=None)


def _copied_pointers(names: Pointers) -> Pointers:
    return {name: (clock, derived_id("remembered", id)) for name, (clock, id) in names.items()}


def check_inputs(header: Header, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a run: the given ones, and defaults for the others.

    Raises:
        RejectedError: `invalid_input`, with every input that is missing, unknown or invalid; `too_large`.
    """
    if exceeds(given, MAX_INPUT):
        raise RejectedError("too_large", f"the input exceeds {MAX_INPUT:,} bytes of JSON")
    declared = DeclaredFields(header.inputs, "input", "the playbook")
    problems = declared.find_problems(given, accepts_others=header.accepts_other_inputs)
    if problems:
        raise RejectedError("invalid_input", "; ".join(str(p["message"]) for p in problems), inputs=problems)
    return declared.with_defaults(given)
