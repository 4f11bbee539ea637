"""What a run starts with: its inputs checked, its configuration filled in, its first visit."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from executor.errors import ActionError, RejectedError
from executor.records import END, Run, RunStatus, Visit, VisitStatus, timestamp
from executor.rendering import render
from executor.transition import derived_id
from planner.catalogue import Kind
from planner.kinds import described, is_of_kind
from planner.plan import Header, Input, Plan

LAST_CLOCK = 2**40
"""The causal clock of the step that runs last: behind every other."""


def new_run(
    plan: Plan,
    given: Mapping[str, Any],
    *,
    now: float,
    tenant: str = "default",
    origin: str = "service",
    folder: str | None = None,
    variables: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
) -> tuple[Run, Visit]:
    """A run of the plan and the visit it begins with, neither of them stored yet.

    `given` are inputs by name; `variables` replace first values that the playbook declares. `origin` is `local` for runs
    that only the process which started them walks. `now` is in seconds since the epoch.

    Raises:
        RejectedError: `invalid_input`, with every input that is missing, unknown or of another type.
    """
    now = round(now, 6)  # as timestamps show it, so that a timestamp finds the run again
    header = plan.header
    inputs = check_inputs(header, given)
    run_id = secrets.token_hex(12)
    known = _beginning(run_id, header, now) | inputs | {"input": inputs}
    environment = fill_in("environment", header.environment, known)
    first = fill_in("variables", header.variables, environment | known | {"environment": environment})
    for name in variables or {}:
        if name not in header.variables:
            message = f"the playbook declares no variable `{name}`"
            raise RejectedError("invalid_input", message, inputs=[{"name": name, "message": message, "line": None}])
    run = Run(
        id=run_id,
        tenant=tenant,
        playbook=header.name,
        version=header.version,
        plan_hash=plan.hash,
        status=RunStatus.QUEUED,
        origin=origin,
        input=inputs,
        environment=environment,
        variables={**first, **(variables or {})},
        tags=tuple(tags),
        folder=folder,
        created_at=now,
        deadline_at=None if header.timeout_seconds is None else now + header.timeout_seconds,
        live=1,
    )
    visit_id = derived_id("start", header.start)
    return run, Visit(visit_id, run_id, header.start, VisitStatus.READY, clock=1, names={}, due_at=now)


def corrected(header: Header, run: Run, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The input of a run with `given` laid over it, and its environment filled in anew.

    Raises:
        RejectedError: `invalid_input`, as for a new run.
    """
    inputs = check_inputs(header, {**run.input, **given})
    known = _beginning(run.id, header, run.created_at) | inputs | {"input": inputs}
    return {"input": inputs, "environment": fill_in("environment", header.environment, known)}


def last_visit_id(resumes: int) -> str:
    """The id of the visit of the step that runs last."""
    return derived_id("finally", resumes)


def ending_visit(run_id: str, resumes: int, now: float) -> Visit:
    """The visit that ends a run."""
    id = derived_id(END, resumes)
    return Visit(id, run_id, END, VisitStatus.READY, clock=0, names={}, due_at=now)


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
        if header.takes_other_inputs:
            values[name] = given[name]
        else:
            problems.append({"name": name, "message": f"input `{name}` is unknown: {_known(header)}", "line": None})
    if problems:
        raise RejectedError("invalid_input", "; ".join(str(p["message"]) for p in problems), inputs=problems)
    return values


def _known(header: Header) -> str:
    if not header.inputs:
        return "the playbook takes none"
    return f"the playbook takes {', '.join(f'`{name}`' for name in header.inputs)}"


def _mismatch(name: str, declared: Input, value: Any) -> str | None:
    if not is_of_kind(value, Kind(declared.type)):
        return f"input `{name}` must be {declared.type}, and is {described(value)}"
    if declared.enum is not None and value not in declared.enum:
        return f"input `{name}` must be one of {', '.join(map(str, declared.enum))}"
    return None


def _beginning(run_id: str, header: Header, now: float) -> dict[str, Any]:
    """The names that have a value before anything of the run has happened."""
    run = {"id": run_id, "started_at": timestamp(now), "playbook": header.name, "version": header.version}
    return {"run": run, "now": lambda: datetime.fromtimestamp(now, UTC), "uuid": lambda: str(uuid4())}


def fill_in(section: str, values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A section of the playbook with its templates filled in, each entry seeing `known` and nothing of its neighbours.

    Raises:
        RejectedError: `invalid_input`, when an entry has no value for these inputs.
    """
    filled = {}
    for name, value in values.items():
        try:
            filled[name] = render(value, None, known.__getitem__)
        except ActionError as problem:
            message = f"`{section}.{name}` has no value for this input: {problem.message}"
            entry = {"name": f"{section}.{name}", "message": message, "line": None}
            raise RejectedError("invalid_input", message, inputs=[entry]) from problem
    return filled
