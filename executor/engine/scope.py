"""The names that templates can read while a step is performed, and those that it saves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from noetl.executor.errors import ActionError
from noetl.executor.model.events import timestamp
from noetl.executor.model.ids import derived_id
from noetl.executor.model.json_values import to_json_value
from noetl.executor.model.memory_budget import MemoryBudget, json_size
from noetl.executor.model.outcome import Outcome, error_record
from noetl.executor.model.run import ErrorRecord, Run, Visit
from noetl.planner.templates.template import Lookup


@dataclass(slots=True, eq=False, repr=False)
class Scope:
    """The names of one visit.

    `loaded` are values that earlier visits saved; `steps` what is known of other steps, as `steps.NAME` shows it; `saved`
    what this visit has saved so far. `outcome` is known once the run of the step is done, `ending` in the step that runs
    last. `local` are the names of loops around the work. `sizes` tells how much of what is saved this work holds.
    """

    run: Run
    visit: Visit
    loaded: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    saved: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None
    ending: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def copy(self, local: Mapping[str, Any] | None = None) -> Scope:
        """A scope that sees what this one has, and `local` besides, and saves for itself."""
        return replace(self, saved=dict(self.saved), local={**self.local, **(local or {})}, sizes={})

    def with_outcome(self, outcome: Outcome) -> Scope:
        """The scope of the rule, in which the outcome of the run can be read."""
        scope = self.copy()
        scope.saved = dict(outcome.saved)
        scope.outcome = outcome
        return scope

    def lookup(self, position: str, args: Mapping[str, Any] | None = None, error: Any = None) -> Lookup:
        """The names as seen at a place of the step's work, which `uuid` and idempotency keys are derived from."""
        uuids = _Uuids(self.visit, position)
        given: dict[str, Callable[[], Any]] = {
            "input": lambda: self.run.input,
            "environment": lambda: self.run.environment,
            "run": self._run,
            "step": lambda: self._step(position),
            "steps": lambda: self.steps,
            "error": lambda: error if error is not None else self._error(),
            "now": lambda: self._now,
            "uuid": lambda: uuids,
        }
        if args is not None:
            given["args"] = lambda: args
        if self.outcome is not None:
            given["result"] = self.outcome.as_result

        def look_up(name: str) -> Any:
            if name in self.local:
                return self.local[name]
            return given[name]() if name in given else self.value(name)

        return look_up

    def value(self, name: str) -> Any:
        """The value of a saved name, a variable, an input or an entry of `environment`, looked up in this order.

        Raises:
            KeyError: there is none.
        """
        for values in (self.saved, self.loaded, self.run.variables, self.run.input):
            if name in values:
                return values[name]
        return self.run.environment[name]

    def save(self, names: Mapping[str, Any], room: MemoryBudget) -> None:
        """Save values under their names.

        Raises:
            ActionError: `PayloadTooLarge`; there is no room for them.
        """
        for name, value in names.items():
            size = json_size(value)
            room.reserve(size - self.sizes.get(name, 0))
            self.sizes[name] = size
            self.saved[name] = value

    @property
    def reserved(self) -> int:
        """How much of what was saved is held, in characters as JSON."""
        return sum(self.sizes.values())

    def release(self, room: MemoryBudget, sizes: Mapping[str, int] | None = None) -> None:
        """Hold no more of what was saved than these `sizes` tell, which were held before."""
        room.reserve(sum((sizes or {}).values()) - self.reserved)
        self.sizes.clear()
        self.sizes.update(sizes or {})

    def failure(self, problem: ActionError, action: str) -> ErrorRecord:
        """The failure of an action, or a task, of the visit."""
        return error_record(
            self.visit,
            problem.type,
            problem.message,
            action=action,
            retryable=problem.retryable,
            status=problem.status,
            details=to_json_value(problem.details),
        )

    def idempotency_key(self, position: str) -> str:
        """A key for outside systems: the same for every attempt at this piece of work, and of no other."""
        return derived_id("idempotency", self.run.id, self.visit.id, position)

    def _error(self) -> ErrorRecord | None:
        return self.outcome.error if self.outcome is not None and self.outcome.failed else None

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.visit.segment_started_at or 0.0, UTC)

    def _run(self) -> dict[str, Any]:
        run = self.run
        return {
            "id": run.id,
            "started_at": timestamp(run.started_at or run.created_at),
            "playbook": run.playbook,
            "version": run.version,
            **self.ending,
        }

    def _step(self, position: str) -> dict[str, Any]:
        return {
            "name": self.visit.step,
            "visit": self.visit.number,
            "attempt": self.visit.attempt,
            "idempotency_key": self.idempotency_key(position),
        }


class _Uuids:
    """The function `uuid`: each call at a place gives another value, and the same ones when the attempt is repeated."""

    def __init__(self, visit: Visit, position: str) -> None:
        self._seed = (visit.run_id, visit.id, visit.attempt, position)
        self._calls = 0

    def __call__(self) -> str:
        self._calls += 1
        text = "\x1f".join(map(str, (*self._seed, self._calls)))
        return str(UUID(bytes=hashlib.blake2b(text.encode(), digest_size=16).digest(), version=4))
