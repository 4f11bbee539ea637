"""What is known of the values that templates read: their kinds, and the keys of objects whose shape an action declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from noetl.planner.catalogue import Catalogue, Kind
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import ActionEntry, Entry, Playbook, Step, TaskEntry
from noetl.planner.syntax.names import MAX_TASK_DEPTH
from noetl.planner.templates.access_paths import AccessPath
from noetl.planner.templates.template import has_template

TYPES: Mapping[Kind, tuple[type, ...]] = {
    Kind.STRING: (str,),
    Kind.BOOLEAN: (bool,),
    Kind.INTEGER: (int,),
    Kind.NUMBER: (int, float),
    Kind.ARRAY: (list,),
    Kind.OBJECT: (dict,),
}
"""What values of a kind are in templates."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The kind of a value, and of an object the kinds of all its keys, if they are known."""

    kind: Kind
    keys: Mapping[str, Kind] | None = None

    def at(self, attribute: str) -> Shape | None:
        """The shape behind an attribute; None where nothing is known of it.

        Raises:
            AttributeError: there is no such attribute.
        """
        if self.keys is not None and attribute in self.keys:
            return Shape(self.keys[attribute])
        if self.kind not in TYPES or any(hasattr(one, attribute) for one in TYPES[self.kind]):
            return None
        if self.kind is Kind.OBJECT and self.keys is None:
            return None
        raise AttributeError(attribute)


@dataclass(frozen=True)
class Missing:
    """An access to an attribute that its value cannot have: where in the access it stands, and what the value is like."""

    at: int
    shape: Shape


@dataclass(frozen=True)
class Shapes:
    """The shapes of what a playbook is given, saves and gives. A name that may have several has none."""

    given: Mapping[str, Shape | None] = field(default_factory=dict)
    inputs: Mapping[str, Shape | None] = field(default_factory=dict)
    environment: Mapping[str, Shape | None] = field(default_factory=dict)
    results: Mapping[str, Shape | None] = field(default_factory=dict)
    """What each step gives: the data of the last item of its `run`."""

    def of(self, access: AccessPath, step: str | None) -> Shape | Missing | None:
        """What is known of a value that is read, in a rule of a step if that is given."""
        shape, start = self._first(access, step)
        for at in range(start, len(access)):
            if shape is None:
                return None
            try:
                following = shape.at(access[at])
            except AttributeError:
                return Missing(at, shape)
            shape = following
        return shape

    def _first(self, access: AccessPath, step: str | None) -> tuple[Shape | None, int]:
        match access:
            case ("input", name, *_):
                return self.inputs.get(name), 2
            case ("environment", name, *_):
                return self.environment.get(name), 2
            case ("steps", name, "result", *_):
                return self.results.get(name), 3
            case ("result", "data", *_) if step is not None:
                return self.results.get(step), 2
        return self.given.get(access[0]), 1


def find_shapes(
    playbook: Playbook,
    catalogue: Catalogue,
    runs: Iterable[Sequence[Entry]],
    broken: AbstractSet[str] = frozenset(),
) -> Shapes:
    """The shapes of a playbook whose entries of all kinds are in `runs`. Of names and steps in `broken` nothing is known."""
    inputs = {name: Shape(Kind(one.type)) for name, one in (playbook.input or {}).items()}
    environment = {name: _of_value(value) for name, value in playbook.environment.items()}
    variables = {name: _of_value(value) for name, value in playbook.variables.items()}
    saved: dict[str, Shape | None] = {}
    give = _Results(playbook, catalogue)
    for run in runs:
        for entry in run:
            for name, path in find_saved_names([entry], in_loops=True):
                shape = give.entry(entry) if path[-1] == "as" else None
                saved[name] = shape if saved.get(name, shape) == shape and name not in variables else None
    given = {**environment, **inputs, **variables, **saved, **dict.fromkeys(broken)}
    results = {step.name: None if step.name in broken else give.step(step) for step in playbook.steps}
    return Shapes(given, inputs, environment, results)


def _of_value(value: Any) -> Shape | None:
    """The shape of a value as it is written."""
    if isinstance(value, str) and has_template(value):
        return None
    kinds = (kind for kind, types in TYPES.items() if type(value) in types)
    return next((Shape(kind) for kind in kinds), None)


class _Results:
    """What work gives: the data of the last of it, or the list of the data of items that go together."""

    def __init__(self, playbook: Playbook, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.tasks = {task.name: task for task in playbook.tasks}

    def step(self, step: Step) -> Shape | None:
        if not step.run:
            return None
        return _LIST if step.loop is not None or step.parallel else self.entry(step.run[-1])

    def entry(self, entry: Entry) -> Shape | None:
        """The shape of what an entry gives, where it is done and not skipped."""
        for _ in range(MAX_TASK_DEPTH):
            if isinstance(entry, ActionEntry | TaskEntry) and entry.loop is not None:
                return _LIST
            if isinstance(entry, ActionEntry):
                keys = (
                    self.catalogue[entry.action].shape(entry.parameters)
                    if entry.action in self.catalogue
                    else None
                )
                return None if keys is None else Shape(Kind.OBJECT, keys)
            task = self.tasks.get(entry.task if isinstance(entry, TaskEntry) else str(entry))
            if task is None or not task.run:
                return None
            if task.parallel:
                return _LIST
            entry = task.run[-1]
        return None


_LIST = Shape(Kind.ARRAY)
