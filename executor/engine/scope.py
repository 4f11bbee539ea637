"""The scope of a visit: the names that its templates read, how they are loaded, and those that it saves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from noetl.executor.errors import ActionError
from noetl.executor.model.events import timestamp
from noetl.executor.model.ids import derived_id
from noetl.executor.model.json_values import to_json_value
from noetl.executor.model.memory_budget import MemoryBudget, json_size
from noetl.executor.model.outcome import Outcome, error_record, place_error
from noetl.executor.model.run import Claim, ErrorRecord, Run, Visit, VisitStatus
from noetl.executor.model.transition import find_holders
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace
from noetl.planner.plan import Step
from noetl.planner.templates.template import EvaluationError, Lookup


@dataclass(slots=True, eq=False, repr=False)
class Scope:
    """The names of one visit.

    `loaded` are values that earlier visits saved; `steps` are the views of other steps (`steps.NAME`);
    `saved` are the names that this visit has saved. `outcome` is set after the work of the step, `ending` in
    the finally step. `local` are the names of enclosing loops, `args` those of the enclosing task. `sizes`
    are the reserved sizes of the saved names. `lost` says, for names whose values were deleted from the
    store, which payload is lost. `enclosing` are the items of the enclosing loops, from the outside in.
    """

    run: Run
    visit: Visit
    loaded: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    saved: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None
    ending: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    enclosing: tuple[Any, ...] = ()

    def copy(self, local: Mapping[str, Any] | None = None) -> Scope:
        """Return a scope that reads the same names and `local`, and has its own saved names."""
        return replace(self, saved=dict(self.saved), local={**self.local, **(local or {})}, sizes={})

    def with_outcome(self, outcome: Outcome) -> Scope:
        """Return the scope of the rule, in which the outcome of the step's work is known."""
        scope = self.copy()
        scope.saved = dict(outcome.saved)
        scope.outcome = outcome
        return scope

    def lookup(self, position: str, error: Any = None) -> Lookup:
        """Return the function that evaluates a name at a position of the work.

        Values of `uuid` and idempotency keys are derived from the position. For a name whose value was
        deleted from the store, the function raises an EvaluationError `PayloadLost`.
        """
        uuids = _UuidSequence(self.visit, position)
        builtins: dict[str, Callable[[], Any]] = {
            "input": lambda: self.run.input,
            "environment": lambda: self.run.environment,
            "run": self._run_view,
            "step": lambda: self._step_view(position),
            "steps": lambda: self.steps,
            "error": lambda: error if error is not None else self._error(),
            "now": lambda: self._segment_start,
            "uuid": lambda: uuids,
        }
        if self.args is not None:
            builtins["args"] = lambda: self.args
        if self.outcome is not None:
            builtins["result"] = self.outcome.as_result

        def value_of(name: str) -> Any:
            if name in self.local:
                return self.local[name]
            if name in self.lost and name not in self.saved:
                raise EvaluationError("PayloadLost", self.lost[name])
            return builtins[name]() if name in builtins else self.value(name)

        return value_of

    def value(self, name: str) -> Any:
        """Return the value of a saved name, a variable, an input or an entry of `environment`, in this order.

        Raises:
            EvaluationError: `PayloadLost`, if the value was deleted from the store.
            KeyError: the name has no value.
        """
        for values in (self.saved, self.loaded, self.run.variables, self.run.input):
            if name in values:
                return values[name]
        if self.run.lost_payload is not None:
            raise EvaluationError("PayloadLost", self.run.lost_payload)
        return self.run.environment[name]

    def save(self, names: Mapping[str, Any], budget: MemoryBudget) -> None:
        """Save values under their names, and reserve memory for them.

        Raises:
            ActionError: `PayloadTooLarge`, if the memory budget is exceeded.
        """
        for name, value in names.items():
            size = json_size(value)
            budget.reserve(size - self.sizes.get(name, 0))
            self.sizes[name] = size
            self.saved[name] = value

    @property
    def reserved(self) -> int:
        """The memory reserved for saved names, in characters of JSON."""
        return sum(self.sizes.values())

    def release(self, budget: MemoryBudget, sizes: Mapping[str, int] | None = None) -> None:
        """Release the memory of saved names, except for `sizes`, which were reserved before."""
        budget.release(self.reserved - sum((sizes or {}).values()))
        self.sizes.clear()
        self.sizes.update(sizes or {})

    def failure(self, problem: ActionError, action: str, line: int = 0) -> ErrorRecord:
        """Return the record of a failure of an action or a task of this visit, at its line if it is known."""
        record = error_record(
            self.visit,
            problem.type,
            problem.message,
            retryable=problem.retryable,
            details=to_json_value(problem.details),
        )
        record = {**record, "action": action, "status": problem.status}
        return place_error(record, {**problem.place, "line": line} if line else problem.place)

    def idempotency_key(self, position: str) -> str:
        """Return the idempotency key of a position: the same in every attempt, and unique in all runs."""
        return derived_id("idempotency", self.run.id, self.visit.id, position)

    def _error(self) -> ErrorRecord | None:
        return self.outcome.error if self.outcome is not None and self.outcome.failed else None

    def _segment_start(self) -> datetime:
        return datetime.fromtimestamp(self.visit.segment_started_at or 0.0, UTC)

    def _run_view(self) -> dict[str, Any]:
        run = self.run
        return {
            "id": run.id,
            "started_at": timestamp(run.started_at or run.created_at),
            "playbook": run.playbook,
            "version": run.version,
            "trigger": run.trigger,
            **self.ending,
        }

    def _step_view(self, position: str) -> dict[str, Any]:
        return {
            "name": self.visit.step,
            "visit": self.visit.number,
            "attempt": self.visit.attempt,
            "idempotency_key": self.idempotency_key(position),
        }


def load_scope(store: Store, claim: Claim, step: Step) -> Scope:
    """Return the scope of a claimed visit. Read the visits that hold its names, except those in the claim."""
    run, visit = claim.run, claim.visit
    holders = find_holders(visit.names, step.reads)
    visits = {v.id: v for v in claim.prefetched}
    missing = sorted(set(holders.values()) - set(visits))
    visits |= {v.id: v for v in store.runs.visits_with_outputs(run.id, missing)} if missing else {}
    loaded: dict[str, Any] = {}
    steps: dict[str, Mapping[str, Any]] = {}
    for name in step.reads:
        holder = visits.get(holders.get(name, ""))
        if name.startswith("steps."):
            steps[name.removeprefix("steps.")] = view_step(holder)
        elif holder is not None and name in holder.saved:
            loaded[name] = holder.saved[name]
    lost = find_lost_names(run, {name: visits[id] for name, id in holders.items() if id in visits})
    return Scope(run, visit, loaded, steps, dict(visit.saved), lost=lost)


def find_lost_names(run: Run, holders: Mapping[str, Visit]) -> dict[str, str]:
    """Return what is lost of each name that a scope must not read, from the visits that hold what it reads.

    The names of `holders` are as in `Step.reads`. If the view of one of its steps is lost, so is `steps`.
    """
    given = {} if run.lost_payload is None else dict.fromkeys(("input", "environment"), run.lost_payload)
    return given | {
        "steps" if name.startswith("steps.") else name: visit.lost_payload
        for name, visit in holders.items()
        if visit.lost_payload is not None
    }


def view_step(visit: Visit | None) -> Mapping[str, Any]:
    """Return what `steps.NAME` shows of a step, from its last visit on a branch.

    >>> view_step(None)
    {'status': 'pending', 'visits': 0}
    """
    if visit is None:
        return {"status": "pending", "visits": 0}
    status = "pending" if visit.status in (VisitStatus.READY, VisitStatus.PARKED) else visit.status.value
    return {
        "status": status,
        "visits": visit.number,
        "result": visit.result,
        "error": visit.error,
        "failures": list(visit.failures),
    }


class _UuidSequence:
    """The function `uuid` of templates.

    Each call returns another value; a repeated attempt gets the same values.
    """

    def __init__(self, visit: Visit, position: str) -> None:
        self._seed = (visit.run_id, visit.id, visit.attempt, position)
        self._calls = 0

    def __call__(self) -> str:
        self._calls += 1
        text = "\x1f".join(map(str, (*self._seed, self._calls)))
        return str(UUID(bytes=hashlib.blake2b(text.encode(), digest_size=16).digest(), version=4))
