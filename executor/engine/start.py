"""What a run starts with: its inputs checked, its configuration filled in, its first visit."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from noetl.executor.engine.rendering import render
from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.ids import derived_id
from noetl.executor.model.json_values import write_json
from noetl.executor.model.run import (
    SERVICE_QUEUE,
    FailureState,
    Pointers,
    Run,
    RunStatus,
    Visit,
    VisitStatus,
    WaitKey,
)
from noetl.planner.catalogue import Kind
from noetl.planner.kinds import describe_kind_of, is_of_kind
from noetl.planner.plan import Header, Input, Step
from noetl.planner.templates.template import shared_budget

MAX_INITIAL_DATA = 1024 * 1024
"""How long the environment and the first values of the variables of a run may be together, as JSON."""


def new_run(
    header: Header,
    plan_hash: str,
    given: Mapping[str, Any],
    *,
    now: float,
    id: str | None = None,
    tenant: str = "default",
    origin: str = "service",
    queue: str | None = None,
    folder: str | None = None,
    source: str | None = None,
    parent: WaitKey | None = None,
    depth: int = 0,
    variables: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    trace: str | None = None,
) -> tuple[Run, Visit]:
    """A run of the plan with this header and hash, and the visit it begins with, neither of them stored yet.

    `given` are inputs by name; `variables` replace first values that the playbook declares. `origin` is `local` for runs
    that only the process which started them walks: each in a queue of its own, unless one is given. `now` is in seconds
    since the epoch.

    Raises:
        RejectedError: `invalid_input`, with every input that is missing, unknown or of another type.
    """
    now = round(now, 6)  # as timestamps show it, so that a timestamp finds the run again
    inputs = check_inputs(header, given)
    run_id = id or secrets.token_hex(12)
    known = _beginning(run_id, header, now) | inputs | {"input": inputs}
    room = InitialDataBudget()
    environment = render_section("environment", header.environment, known, room)
    first = render_section(
        "variables", header.variables, environment | known | {"environment": environment}, room
    )
    for name in variables or {}:
        if name not in header.variables:
            message = f"the playbook declares no variable `{name}`"
            raise RejectedError(
                "invalid_input", message, inputs=[{"name": name, "message": message, "line": None}]
            )
        room.reserve(f"variables.{name}", (variables or {})[name])
    run = Run(
        id=run_id,
        tenant=tenant,
        playbook=header.name,
        version=header.version,
        plan_hash=plan_hash,
        status=RunStatus.QUEUED,
        origin=origin,
        queue=queue or (SERVICE_QUEUE if origin == "service" else run_id),
        input=inputs,
        environment=environment,
        variables={**first, **(variables or {})},
        tags=tuple(tags),
        folder=folder,
        source=source,
        parent=parent,
        depth=depth,
        trace=trace,
        created_at=now,
        deadline_at=None if header.timeout_seconds is None else now + header.timeout_seconds,
        live=1,
    )
    visit_id = derived_id("start", header.start)
    return run, Visit(visit_id, run_id, header.start, VisitStatus.READY, clock=1, names={}, due_at=now)


def correct_input(header: Header, run: Run, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The input of a run with `given` laid over it, and its environment filled in anew.

    Raises:
        RejectedError: `invalid_input`, as for a new run.
    """
    inputs = check_inputs(header, {**run.input, **given})
    known = _beginning(run.id, header, run.created_at) | inputs | {"input": inputs}
    return {
        "input": inputs,
        "environment": render_section("environment", header.environment, known, InitialDataBudget()),
    }


def restart_from_step(
    header: Header, step: Step, run: Run, visits: Sequence[Visit], given: Mapping[str, Any], *, now: float
) -> tuple[Run, Visit, list[Visit]]:
    """A new run that goes on from a step with what a run that has ended knew there: the run, the visit it begins with, and
    the visits of the other run that it remembers.

    `visits` are those of the other run, with what they saved. Where the step was visited, the new run knows what was known at
    its last visit, else what was known at the end. `given` is laid over the input. Visits are counted anew.

    Raises:
        RejectedError: `not_ended`; `unknown_step`, of the one that runs last; `inside_region`, when other branches may be on their way to a join that the step is on
            the way to; `invalid_input`, as for a new run.
    """
    if not run.status.is_final:
        raise RejectedError("not_ended", f"run {run.id} has not ended, so nothing can be started from it")
    if step.is_finally_step:
        raise RejectedError(
            "unknown_step", f"step `{step.name}` runs last, behind all others; nothing is started there"
        )
    if step.regions:
        joins = ", ".join(f"`{join}`" for join in step.regions)
        message = f"step `{step.name}` is one of several branches that come together at {joins}; start from before or behind"
        raise RejectedError("inside_region", message)
    before = max((v for v in visits if v.step == step.name), key=lambda v: (v.clock, v.id), default=None)
    known = sorted(
        (v for v in visits if v.finished_at is not None and (before is None or v.clock < before.clock)),
        key=lambda v: (v.clock, v.id),
    )
    known = [v for v in known if not v.step.startswith("@") and v.step != header.finally_step]
    names = _pointers(known) if before is None else before.names
    fresh, first = new_run(
        header,
        run.plan_hash,
        {**run.input, **given},
        now=now,
        tenant=run.tenant,
        origin=run.origin,
        folder=run.folder,
        source=run.source,
        variables=run.variables,
        tags=run.tags,
    )
    fresh = replace(fresh, resumed_from=run.id)
    history = [_remembered(visit, fresh.id) for visit in known]
    clock = max((visit.clock for visit in known), default=0) + 1
    handed = {name: pointer for name, pointer in _moved(names).items() if name in step.live_names}
    id = derived_id("from", run.id, step.name)
    return fresh, replace(first, id=id, step=step.name, clock=clock, names=handed), history


def _pointers(visits: Sequence[Visit]) -> Pointers:
    """Which visits hold the names at the end, of visits in their causal order."""
    names: dict[str, tuple[int, str]] = {}
    for visit in visits:
        saved = () if visit.has_ended_branch else visit.saved
        names.update(dict.fromkeys([*saved, f"steps.{visit.step}"], (visit.clock, visit.id)))
    return names


def _remembered(visit: Visit, run_id: str) -> Visit:
    """A visit as another run remembers it: under an id that none of its own can have, its failure over and done with."""
    failure = None if visit.failure is None else FailureState.HANDLED
    id, names = derived_id("remembered", visit.id), _moved(visit.names)
    saved = {} if visit.has_ended_branch else visit.saved
    return replace(visit, id=id, run_id=run_id, names=names, saved=saved, failure=failure, progress=None)


def _moved(names: Pointers) -> Pointers:
    return {name: (clock, derived_id("remembered", id)) for name, (clock, id) in names.items()}


def check_inputs(header: Header, given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a run: what was given, and the defaults of the rest.

    Raises:
        RejectedError: `invalid_input`, with every input that is missing, unknown or of another type.
    """
    problems = []
    values: dict[str, Any] = {}
    for name, declared in header.inputs.items():
        if name in given:
            values[name] = given[name]
            problem = _mismatch(name, declared, given[name])
            if problem is not None:
                problems.append({"name": name, "message": problem, "line": declared.line})
        elif declared.required:
            read = "read" if declared.inferred else "declared"
            message = f"input `{name}` is missing: it is {read} on line {declared.line}"
            problems.append({"name": name, "message": message, "line": declared.line})
        elif not declared.inferred:
            values[name] = declared.default
    for name in given:
        if name in header.inputs:
            continue
        if header.accepts_other_inputs:
            values[name] = given[name]
        else:
            problems.append(
                {"name": name, "message": f"input `{name}` is unknown: {_known(header)}", "line": None}
            )
    if problems:
        raise RejectedError("invalid_input", "; ".join(str(p["message"]) for p in problems), inputs=problems)
    return values


def _known(header: Header) -> str:
    if not header.inputs:
        return "the playbook takes none"
    return f"the playbook takes {', '.join(f'`{name}`' for name in header.inputs)}"


def _mismatch(name: str, declared: Input, value: Any) -> str | None:
    if not is_of_kind(value, Kind(declared.type)):
        return f"input `{name}` must be {declared.type}, and is {describe_kind_of(value)}"
    if declared.enum is not None and value not in declared.enum:
        return f"input `{name}` must be one of {', '.join(map(str, declared.enum))}"
    return None


def _beginning(run_id: str, header: Header, now: float) -> dict[str, Any]:
    """The names that have a value before anything of the run has happened."""
    run = {"id": run_id, "started_at": timestamp(now), "playbook": header.name, "version": header.version}
    return {"run": run, "now": lambda: datetime.fromtimestamp(now, UTC), "uuid": lambda: str(uuid4())}


class InitialDataBudget:
    """What is left for the environment and the variables of a run."""

    def __init__(self) -> None:
        self._left = MAX_INITIAL_DATA

    def reserve(self, name: str, value: Any) -> None:
        """Put the value of an entry into it.

        Raises:
            RejectedError: `invalid_input`; it does not fit.
        """
        self._left -= len(write_json(value))
        if self._left < 0:
            message = f"`environment` and `variables` are longer than {MAX_INITIAL_DATA:,} together, from `{name}` on"
            raise RejectedError(
                "invalid_input", message, inputs=[{"name": name, "message": message, "line": None}]
            )


@shared_budget()
def render_section(
    section: str, values: Mapping[str, Any], known: Mapping[str, Any], room: InitialDataBudget
) -> dict[str, Any]:
    """A section of the playbook with its templates filled in on one budget, each entry seeing `known` and nothing of its
    neighbours.

    Raises:
        RejectedError: `invalid_input`, when an entry has no value for these inputs, or there is no room for it.
    """
    filled = {}
    for name, value in values.items():
        try:
            filled[name] = _filled(f"{section}.{name}", value, known, room)
        except ActionError as problem:
            message = f"`{section}.{name}` has no value for this input: {problem.message}"
            entry = {"name": f"{section}.{name}", "message": message, "line": None}
            raise RejectedError("invalid_input", message, inputs=[entry]) from problem
    return filled


def _filled(name: str, value: Any, known: Mapping[str, Any], room: InitialDataBudget) -> Any:
    # Part by part, so that no more is held at once than there is room for.
    if isinstance(value, dict):
        return {key: _filled(name, item, known, room) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(name, item, known, room) for item in value]
    found = render(value, None, known.__getitem__)
    room.reserve(name, found)
    return found
