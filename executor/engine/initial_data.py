"""The environment and the variables of a new run: expressions that are evaluated before its first visit.

Problem: the expressions come from the author of the playbook, and a start of a run is answered only after
their evaluation. It may take seconds.

Algorithm: `InitialData` holds everything that the evaluation needs, so another process can perform it.
`noetl.executor.engine.evaluation` decides whether that is worth a hop.

Limits: MAX_INITIAL_DATA characters of JSON, and one shared budget of templates for each section.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from noetl.executor.engine.evaluation import has_light_texts
from noetl.executor.engine.rendering import render
from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.debounce import MAX_KEY_BYTES
from noetl.executor.model.declared_values import value_problem
from noetl.executor.model.events import timestamp
from noetl.executor.model.json_length import TooLongError
from noetl.executor.model.json_values import write_json
from noetl.planner.frozen import frozen
from noetl.planner.kinds import describe_kind_of
from noetl.planner.plan import Header
from noetl.planner.templates.template import shared_budget

MAX_INITIAL_DATA = 1024 * 1024
"""The limit of the environment and the initial variables of a run together, in characters of JSON."""

_DEBOUNCE_KEY = "debounce.key"
"""The place of the key in the playbook."""


class InitialValues(NamedTuple):
    """The evaluated data of a new run, and the key by which starts share it, if its playbook has one."""

    environment: Mapping[str, Any]
    variables: Mapping[str, Any]
    debounce_key: str | None = None


@frozen
class InitialData:
    """The environment and the variables of a new run, before their expressions are evaluated.

    `inputs` and `variables` are the given ones. `now` is in seconds since the epoch. `debounce_key` is the
    template of the key by which starts share a run, if this one may.
    """

    header: Header
    run_id: str
    inputs: dict[str, Any]
    variables: Mapping[str, Any]
    now: float
    trigger: Mapping[str, Any] | None = None
    debounce_key: str | None = None

    @property
    def is_light(self) -> bool:
        """Return whether the evaluation takes less time than its transfer to another process."""
        return has_light_texts((self.header.environment, self.header.variables, self.debounce_key))

    def evaluate(self) -> InitialValues:
        """Return the environment, the variables with the given initial values, and the key of the start.

        Raises:
            RejectedError: `invalid_input`, if a value is missing, unknown or too large.
        """
        names = self._names
        budget = InitialDataBudget()
        environment = render_section("environment", self.header.environment, names, budget)
        names_of_variables = environment | names | {"environment": environment}
        initial = render_section("variables", self.header.variables, names_of_variables, budget)
        for name, value in self.variables.items():
            if name not in self.header.variables:
                message = f"unknown variable `{name}`"
                raise RejectedError("invalid_input", message, inputs=[value_problem(name, message)])
            budget.reserve(f"variables.{name}", value)
        key = None if self.debounce_key is None else self._read_key(self.debounce_key, environment)
        return InitialValues(environment, {**initial, **self.variables}, key)

    @shared_budget()
    def _read_key(self, template: str, environment: Mapping[str, Any]) -> str:
        """Return the value of the key of `debounce` as text.

        Raises:
            RejectedError: `invalid_input`, if it has no value, is no scalar, or is too long.
        """
        names = {**environment, **self.inputs, "input": self.inputs, "environment": environment}
        try:
            value = render(template, None, names.__getitem__)
        except ActionError as problem:
            raise _wrong_key(f"has no value for this input: {problem.message}") from problem
        if not isinstance(value, str | int | float):
            raise _wrong_key(f"must be a text, a number or a Boolean, not {describe_kind_of(value)}")
        text = value if isinstance(value, str) else write_json(value)
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > MAX_KEY_BYTES:
            raise _wrong_key(f"has {size:,} bytes; it may have {MAX_KEY_BYTES:,}")
        return text

    def evaluate_environment(self) -> dict[str, Any]:
        """Return the environment alone.

        Raises:
            RejectedError: `invalid_input`, if a value is missing or too large.
        """
        return render_section("environment", self.header.environment, self._names, InitialDataBudget())

    @property
    def _names(self) -> dict[str, Any]:
        names = initial_names(self.run_id, self.header, self.now, self.trigger)
        return names | self.inputs | {"input": self.inputs}


@frozen
class CorrectedEnvironment:
    """The environment of a run whose input is corrected, before its expressions are evaluated."""

    data: InitialData

    @property
    def is_light(self) -> bool:
        """Return whether the evaluation takes less time than its transfer to another process."""
        return has_light_texts(self.data.header.environment)

    def evaluate(self) -> dict[str, Any]:
        """Return the environment.

        Raises:
            RejectedError: `invalid_input`, if a value is missing or too large.
        """
        return self.data.evaluate_environment()


def initial_names(
    run_id: str, header: Header, now: float, trigger: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the built-in names that `environment` and `variables` may read."""
    run = {
        "id": run_id,
        "started_at": timestamp(now),
        "playbook": header.name,
        "version": header.version,
        "trigger": trigger,
    }
    return {"run": run, "now": lambda: datetime.fromtimestamp(now, UTC), "uuid": lambda: str(uuid4())}


def _wrong_key(problem: str) -> RejectedError:
    message = f"`{_DEBOUNCE_KEY}` {problem}"
    return RejectedError("invalid_input", message, inputs=[value_problem(_DEBOUNCE_KEY, message)])


class InitialDataBudget:
    """The remaining budget of the environment and the variables of a run, in characters of JSON."""

    def __init__(self) -> None:
        self._remaining = MAX_INITIAL_DATA

    def reserve(self, name: str, value: Any) -> None:
        """Reserve the size of the value of an entry.

        Raises:
            RejectedError: `invalid_input`, if the budget is exceeded.
        """
        try:
            self._remaining -= len(write_json(value, 4 * self._remaining))
        except TooLongError:
            self._remaining = -1
        if self._remaining < 0:
            message = f"`environment` and `variables` exceed {MAX_INITIAL_DATA:,} characters at `{name}`"
            raise RejectedError("invalid_input", message, inputs=[value_problem(name, message)])


@shared_budget()
def render_section(
    section: str, values: Mapping[str, Any], names: Mapping[str, Any], budget: InitialDataBudget
) -> dict[str, Any]:
    """Return a section of the playbook with its templates rendered, within one template budget.

    Each entry reads `names`, and none of the other entries.

    Raises:
        RejectedError: `invalid_input`, if an entry has no value for these inputs or exceeds the budget.
    """
    rendered = {}
    for name, value in values.items():
        entry = f"{section}.{name}"
        try:
            rendered[name] = _render_entry(entry, value, names, budget)
        except ActionError as problem:
            message = f"`{entry}` has no value for this input: {problem.message}"
            raise RejectedError("invalid_input", message, inputs=[value_problem(entry, message)]) from problem
    return rendered


def _render_entry(name: str, value: Any, names: Mapping[str, Any], budget: InitialDataBudget) -> Any:
    # Render part by part, so that the data in memory never exceeds the budget by more than one part.
    if isinstance(value, dict):
        return {key: _render_entry(name, item, names, budget) for key, item in value.items()}
    if isinstance(value, list):
        return [_render_entry(name, item, names, budget) for item in value]
    rendered = render(value, None, names.__getitem__)
    budget.reserve(name, rendered)
    return rendered
