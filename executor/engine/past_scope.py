"""The scope of a run as it was when a step had done its work, or as it is now.

Problem: to understand a run, a person evaluates an expression where the run evaluated its own.

Algorithm: a branch only carries the names that its later steps read. So names are looked up among those of
the branch first. Another name is that of the latest earlier visit of a step that saves it.

Cost: one read of the visits without outputs, and one of the visits that have a value.

Limits: a name that the branch does not carry may be that of a parallel branch. Of the outcome of a step, the
store keeps neither `result.items` nor `result.action`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.engine.final_state import FinalState, find_lost_state
from noetl.executor.engine.scope import Scope, load_scope
from noetl.executor.model.outcome import Outcome
from noetl.executor.model.run import Claim, Pointers, Run, Visit, VisitStatus
from noetl.executor.model.transition import final_status
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan, Step
from noetl.planner.templates.template import Template


def find_reads(template: Template) -> tuple[str, ...]:
    """Return the names that a template reads, in the form of `Step.reads`.

    >>> from noetl.planner.templates.template import parse_template
    >>> find_reads(parse_template("{{ steps.load.result.rows + n }}"))
    ('n', 'steps.load')
    """
    return tuple(sorted({".".join(path[: 1 + (path[0] == "steps")]) for path in template.reads}))


def load_present_scope(store: Store, run: Run, reads: Sequence[str]) -> Scope:
    """Return the scope with all names that the branches of a run have saved so far."""
    visit = Visit("", run.id, "", VisitStatus.READY, clock=0, names={})
    values, steps, visits = FinalState(store, run.id, float("inf")).read(reads)
    return Scope(run, visit, values, steps, lost=find_lost_state(run, visits, reads))


def load_scope_of_names(store: Store, run: Run, names: Pointers, reads: Sequence[str]) -> Scope:
    """Return the scope of a branch that carries `names`: pointers to the visits that have saved them."""
    visit = Visit("", run.id, "", VisitStatus.READY, clock=0, names=names)
    return load_scope(store, Claim(run, visit), Step("", reads=tuple(reads)))


def load_past_scope(store: Store, run: Run, visit: Visit, plan: Plan, reads: Sequence[str]) -> Scope:
    """Return the scope in which the rule of a visit was evaluated, or is going to be.

    Without an outcome, it has what the visit has saved so far.
    """
    (visit,) = store.runs.visits_with_outputs(run.id, [visit.id])
    step = replace(plan.steps[visit.step], reads=tuple(reads))
    visit = replace(visit, names={**_find_earlier_holders(store, visit, plan, reads), **visit.names})
    scope = load_scope(store, Claim(run, visit), step)
    if step.is_finally_step:
        status = run.status if run.status.is_final else final_status(run.ending, run.failed_branches)
        scope = replace(scope, ending={"status": status.value, "error": run.error})
    return scope if visit.finished_at is None else scope.with_outcome(_outcome_of(visit))


def _outcome_of(visit: Visit) -> Outcome:
    """Return the outcome of a visit that has ended, as far as the store keeps it."""
    is_success = visit.error is None
    return Outcome(is_success, visit.result, visit.error, saved=visit.saved, failures=visit.failures)


def _find_earlier_holders(
    store: Store, visit: Visit, plan: Plan, reads: Sequence[str]
) -> Mapping[str, tuple[int, str]]:
    """Return pointers to the latest visits before this one that may have the names its branch lacks."""
    missing = {name for name in reads if name not in visit.names}
    savers = {step.name: missing.intersection((*step.saves, f"steps.{step.name}")) for step in _steps(plan)}
    earlier = [
        other
        for other in store.runs.visits(visit.run_id)
        if other.clock < visit.clock and not other.has_ended_branch and savers.get(other.step)
    ]
    pointers: dict[str, tuple[int, str]] = {}
    outputs = _read_outputs(store, visit.run_id, earlier)
    for other in sorted(earlier, key=lambda other: (other.clock, other.id)):
        names = {*outputs[other.id], f"steps.{other.step}"} & savers[other.step]
        pointers.update(dict.fromkeys(names, (other.clock, other.id)))
    return pointers


def _read_outputs(store: Store, run_id: str, visits: Sequence[Visit]) -> Mapping[str, Mapping[str, Any]]:
    """Return what each of the visits has saved."""
    ids = sorted(visit.id for visit in visits)
    return {visit.id: visit.saved for visit in store.runs.visits_with_outputs(run_id, ids)} if ids else {}


def _steps(plan: Plan) -> Sequence[Step]:
    return tuple(plan.steps.values())
