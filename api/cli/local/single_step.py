"""One step of a playbook, performed alone: its plan, the names that are given, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from noetl.api.cli.display.console import CommandError
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import Run, Visit, VisitStatus
from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan, Step

if TYPE_CHECKING:
    from noetl.executor.stores.interface import Store

_GIVEN = "(given)"
"""The step of the visits that have the names that are given. No playbook has it."""


def isolate_step(plan: Plan, name: str) -> Plan:
    """Return a plan that performs one step of a plan, chooses its case, and ends.

    Raises:
        CommandError: the plan has no such step.
    """
    if name not in plan.steps:
        hint = did_you_mean(name, plan.steps) or f"the steps are {', '.join(plan.steps)}"
        raise CommandError(f"unknown step `{name}`; {hint}")
    step = plan.steps[name]
    cases = tuple(replace(case, targets=(), counter_changes={}, leads_back=False) for case in step.cases)
    alone = Step(
        step.name,
        step.run,
        step.parallel,
        cases,
        max_visits=step.max_visits,
        retry=step.retry,
        timeout_seconds=step.timeout_seconds,
        on_error=step.on_error,
        loop=step.loop,
        repeat=step.repeat,
        at_most_once=step.at_most_once,
        reads=step.reads,
        saves=step.saves,
        live_names=frozenset(step.reads),
        line=step.line,
    )
    header = replace(plan.header, start=name, output={}, reads=(), finally_step=None, sequential=False)
    return Plan(header, {name: alone}, plan.tasks, plan.source)


def split_given(plan: Plan, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return those of the given names that are inputs of the playbook, and the others."""
    inputs = {name: value for name, value in given.items() if name in plan.header.inputs}
    return inputs, {name: value for name, value in given.items() if name not in inputs}


def add_single_run(store: Store, plan: Plan, run: Run, first: Visit, given: Mapping[str, Any]) -> Run:
    """Store a run of an isolated step whose names have the given values, and return it.

    `steps` in `given` holds what `steps.NAME` shows of other steps.
    """
    step = plan.steps[plan.header.start]
    history = {name: visit for name, visit in _given_visits(run.id, given) if name in step.reads}
    names = {name: (visit.clock, visit.id) for name, visit in history.items()}
    store.plans.save(plan)
    visits = tuple({visit.id: visit for visit in history.values()}.values())
    return store.runs.create(run, replace(first, clock=2, names=names), history=visits)


def _given_visits(run_id: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Visit]]:
    """Yield each name, as steps read it, with the visit that holds its value.

    Raises:
        CommandError: `steps` does not hold an object for each step, or `failures` in it is no list.
    """
    steps = given.get("steps", {})
    if not isinstance(steps, Mapping) or not all(isinstance(view, Mapping) for view in steps.values()):
        raise CommandError('`steps` must hold an object for each step, such as {"load": {"result": 7}}')
    saved = {name: value for name, value in given.items() if name != "steps"}
    id = derived_id("given", run_id)
    visit = Visit(id, run_id, _GIVEN, VisitStatus.SUCCEEDED, 1, {}, finished_at=0.0)
    names = replace(visit, saved=saved)
    for name in saved:
        yield name, names
    for name, view in steps.items():
        if not isinstance(view.get("failures", []), list):
            raise CommandError(f"`steps.{name}.failures` must be a list")
        yield (
            f"steps.{name}",
            replace(
                visit,
                id=derived_id("given", run_id, name),
                status=VisitStatus.FAILED if view.get("error") else VisitStatus.SUCCEEDED,
                result=view.get("result"),
                error=view.get("error"),
                failures=tuple(view.get("failures", [])),
            ),
        )


def report_step(store: Store, run: Run, step: Step) -> dict[str, Any]:
    """Return what a step has done: its result, the names it saved, its case from 1, and the next steps.

    `step` is that of the complete plan.
    """
    ids = [visit.id for visit in store.runs.visits(run.id) if visit.step == step.name]
    visit = store.runs.visits_with_outputs(run.id, ids)[-1]
    report: dict[str, Any] = {"step": step.name, "result": visit.result, "saved": dict(visit.saved)}
    if visit.error is not None:
        report["error"] = visit.error
    if step.cases:
        report["case"] = None if visit.case is None else visit.case + 1
    report["next"] = [] if visit.case is None else list(step.cases[visit.case].targets)
    return report
