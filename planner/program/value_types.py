"""Type inference for values that templates read: their kinds, and the keys of objects that actions return.

Types come from declarations of inputs, from literal values, and from the results that action types declare. A
name that may have several types has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from noetl.planner.catalogue import Kind
from noetl.planner.syntax.entries import find_saved_names, is_saved_by_key
from noetl.planner.syntax.models import ActionEntry, Entry, Playbook, Step, TaskEntry
from noetl.planner.syntax.names import MAX_TASK_DEPTH
from noetl.planner.templates.access_paths import AccessPath
from noetl.planner.templates.template import has_template

PYTHON_TYPES: Mapping[Kind, tuple[type, ...]] = {
    Kind.STRING: (str,),
    Kind.BOOLEAN: (bool,),
    Kind.INTEGER: (int,),
    Kind.NUMBER: (int, float),
    Kind.ARRAY: (list,),
    Kind.OBJECT: (dict,),
}
"""The Python types that values of a kind have in templates."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """The kind of a value. For an object whose keys are known, also the kind of each key."""

    kind: Kind
    keys: Mapping[str, Kind] | None = None

    def attribute_type(self, attribute: str) -> ValueType | None:
        """Return the type of an attribute; None if it is unknown.

        Raises:
            AttributeError: values of this type have no such attribute.
        """
        if self.keys is not None and attribute in self.keys:
            return ValueType(self.keys[attribute])
        if self.kind not in PYTHON_TYPES or any(
            hasattr(type_, attribute) for type_ in PYTHON_TYPES[self.kind]
        ):
            return None
        if self.kind is Kind.OBJECT and self.keys is None:
            return None
        raise AttributeError(attribute)


@dataclass(frozen=True)
class MissingAttribute:
    """An access to an attribute that its value cannot have.

    `index` is the position of the attribute in the access path, `value_type` the type of the value before it.
    """

    index: int
    value_type: ValueType


@dataclass(frozen=True)
class ValueTypes:
    """The types of names, inputs, environment entries and step results; None means that a type is unknown."""

    names: Mapping[str, ValueType | None] = field(default_factory=dict)
    inputs: Mapping[str, ValueType | None] = field(default_factory=dict)
    environment: Mapping[str, ValueType | None] = field(default_factory=dict)
    results: Mapping[str, ValueType | None] = field(default_factory=dict)

    def type_of(self, path: AccessPath, step: str | None) -> ValueType | MissingAttribute | None:
        """Return the type of the value at an access path; None if it is unknown.

        `step` is the step in whose rule the path is read, if any: `result` has a value there.
        """
        value_type, start = self._type_of_prefix(path, step)
        for index in range(start, len(path)):
            if value_type is None:
                return None
            try:
                attribute_type = value_type.attribute_type(path[index])
            except AttributeError:
                return MissingAttribute(index, value_type)
            value_type = attribute_type
        return value_type

    def _type_of_prefix(self, path: AccessPath, step: str | None) -> tuple[ValueType | None, int]:
        """Return the type of the longest prefix that is a known value, and the length of the prefix."""
        match path:
            case ("input", name, *_):
                return self.inputs.get(name), 2
            case ("environment", name, *_):
                return self.environment.get(name), 2
            case ("steps", name, "result", *_):
                return self.results.get(name), 3
            case ("steps", _, "failures", *_):
                return _LIST, 3
            case ("result", "data", *_) if step is not None:
                return self.results.get(step), 2
            case ("result", "failures", *_) if step is not None:
                return _LIST, 2
        return self.names.get(path[0]), 1


def infer_types(
    playbook: Playbook,
    work_lists: Iterable[Sequence[Entry]],
    broken: AbstractSet[str] = frozenset(),
) -> ValueTypes:
    """Infer the types of a playbook with these work lists. Names and steps in `broken` have no known type."""
    inputs = {name: ValueType(Kind(declared.type)) for name, declared in (playbook.input or {}).items()}
    environment = {name: _type_of_literal(value) for name, value in playbook.environment.items()}
    variables = {name: _type_of_literal(value) for name, value in playbook.variables.items()}
    saved: dict[str, ValueType | None] = {}
    results = _ResultTypes(playbook)
    for work in work_lists:
        for entry in work:
            for name, path in find_saved_names([entry], in_loops=True):
                value_type = results.of_entry(entry) if not is_saved_by_key(path) else None
                is_unique = saved.get(name, value_type) == value_type and name not in variables
                saved[name] = value_type if is_unique else None
    names = {**environment, **inputs, **variables, **saved, **dict.fromkeys(broken)}
    step_results = {
        step.name: None if step.name in broken else results.of_step(step) for step in playbook.steps
    }
    return ValueTypes(names, inputs, environment, step_results)


def _type_of_literal(value: Any) -> ValueType | None:
    if isinstance(value, str) and has_template(value):
        return None
    kinds = (kind for kind, types in PYTHON_TYPES.items() if type(value) in types)
    return next((ValueType(kind) for kind in kinds), None)


class _ResultTypes:
    """The types of the data that work returns: the data of its last entry, or a list for parallel work and
    loops.
    """

    def __init__(self, playbook: Playbook) -> None:
        self.tasks = {task.name: task for task in playbook.tasks}

    def of_step(self, step: Step) -> ValueType | None:
        if not step.run:
            return None
        return _LIST if step.loop is not None or step.parallel else self.of_entry(step.run[-1])

    def of_entry(self, entry: Entry) -> ValueType | None:
        """Return the type of the data of an entry that is executed and not skipped."""
        for _ in range(MAX_TASK_DEPTH):
            if isinstance(entry, ActionEntry | TaskEntry) and entry.loop is not None:
                return _LIST
            if isinstance(entry, ActionEntry):
                declaration = entry.declaration
                keys = None if declaration is None else declaration.result_keys(entry.parameters)
                return None if keys is None else ValueType(Kind.OBJECT, keys)
            task = self.tasks.get(entry.task if isinstance(entry, TaskEntry) else str(entry))
            if task is None or not task.run:
                return None
            if task.parallel:
                return _LIST
            entry = task.run[-1]
        return None


_LIST = ValueType(Kind.ARRAY)
