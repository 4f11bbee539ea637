"""The expressions of a firing: the key, the condition and the input of its trigger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias
from uuid import uuid4

from noetl.executor.engine.evaluation import has_light_texts
from noetl.executor.engine.rendering import render_at_key
from noetl.planner.frozen import frozen
from noetl.planner.plan import Trigger
from noetl.planner.templates.template import is_true, shared_budget

FiringPart: TypeAlias = Literal["key", "input", "wanted input"]
"""What is evaluated. The wanted input is None if the condition is false."""


@frozen
class FiringExpressions:
    """A part of the expressions of a trigger. `view` is what they read under `trigger`.

    The inputs in `given` are not evaluated, as a person has given them.
    """

    declared: Trigger
    view: Mapping[str, Any]
    now: float
    part: FiringPart
    given: frozenset[str] = frozenset()

    @property
    def is_light(self) -> bool:
        """True if the evaluation takes less time than its transfer to another process."""
        declared = self.declared
        if self.part == "key":
            return has_light_texts(declared.key)
        return has_light_texts((self._input, declared.condition if self.part == "wanted input" else None))

    @shared_budget()
    def evaluate(self) -> Any:
        """Return the key, or the input of the run.

        Raises:
            ActionError: an expression has no value.
        """
        if self.part == "key":
            return render_at_key("key", self.declared.key, self._names.__getitem__)
        names, condition = self._names, self.declared.condition
        if self.part == "wanted input" and condition is not None:
            if not is_true(render_at_key("if", condition, names.__getitem__)):
                return None
        return {name: render_at_key(name, value, names.__getitem__) for name, value in self._input.items()}

    @property
    def _input(self) -> Mapping[str, Any]:
        return {name: value for name, value in self.declared.input.items() if name not in self.given}

    @property
    def _names(self) -> dict[str, Any]:
        return {
            "trigger": self.view,
            "now": lambda: datetime.fromtimestamp(self.now, UTC),
            "uuid": lambda: str(uuid4()),
        }
