"""What is known of the values that templates read: their kinds, and the keys of objects whose shape an action declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from planner.accesses import Access
from planner.catalogue import Catalogue, Kind
from planner.entries import saved_names
from planner.playbook import ActionEntry, Entry, Path, Playbook, Step
from planner.templates import has_template

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

    def of(self, access: Access, step: str | None) -> Shape | Missing | None:
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

    def _first(self, access: Access, step: str | None) -> tuple[Shape | None, int]:
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
    playbook: Playbook, catalogue: Catalogue, runs: Iterable[Sequence[Entry]], broken: AbstractSet[str] = frozenset()
) -> Shapes:
    """The shapes of a playbook whose entries of all kinds are in `runs`. Of names and steps in `broken` nothing is known."""
    inputs = {name: Shape(Kind(one.type)) for name, one in (playbook.input or {}).items()}
    environment = {name: _of_value(value) for name, value in playbook.environment.items()}
    variables = {name: _of_value(value) for name, value in playbook.variables.items()}
    saved: dict[str, Shape | None] = {}
    for run in runs:
        for entry in run:
            for name, path in saved_names([entry], in_loops=True):
                shape = _of_saved(entry, path, catalogue)
                saved[name] = shape if saved.get(name, shape) == shape and name not in variables else None
    given = {**environment, **inputs, **variables, **saved, **dict.fromkeys(broken)}
    results = {step.name: None if step.name in broken else _of_step(step, catalogue) for step in playbook.steps}
    return Shapes(given, inputs, environment, results)


def _of_value(value: Any) -> Shape | None:
    """The shape of a value as it is written."""
    if isinstance(value, str) and has_template(value):
        return None
    kinds = (kind for kind, types in TYPES.items() if type(value) in types)
    return next((Shape(kind) for kind in kinds), None)


def _of_saved(entry: Entry, path: Path, catalogue: Catalogue) -> Shape | None:
    if isinstance(entry, ActionEntry) and path[-1] == "as":
        return _of_result(entry, catalogue)
    return None


def _of_result(entry: Entry, catalogue: Catalogue) -> Shape | None:
    if not isinstance(entry, ActionEntry) or entry.loop is not None or entry.action not in catalogue:
        return None
    keys = catalogue[entry.action].shape(entry.parameters)
    return None if keys is None else Shape(Kind.OBJECT, keys)


def _of_step(step: Step, catalogue: Catalogue) -> Shape | None:
    if step.loop is not None or step.parallel or not step.run:
        return None
    return _of_result(step.run[-1], catalogue)
