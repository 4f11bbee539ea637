"""Possible values: the finite set of literals that a name can have, if its definitions show one.

Problem: A rule may cover all values that a name can really have, and a guard may ask for one that it never
has. Neither can be decided from the guards alone.

Algorithm: Constant propagation (Kildall 1973), reduced to one set for each name in the whole playbook. Every
definition contributes the literals that it can evaluate to. If one definition can have any other value,
nothing is known about the name.

Cost: Linear in the definitions of the names that guards test. Other names are not looked up.

Limits: Only scalars, and the lengths of lists and mappings. Expressions are literals, choices between them
(`'a' if x else 'b'`, `['a', 'b'] | random`) and truth values (`x > 1`, `not x`). A name that is copied from
another name is unknown. So is a variable, because the caller of a run may replace its first value. At most
`MAX_ENUM_VALUES` values of a name are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, NamedTuple

from jinja2 import nodes

from noetl.planner.guards.coverage import MAX_ENUM_VALUES, has_scalar_enum
from noetl.planner.guards.formulas import find_constant
from noetl.planner.guards.value_classes import LiteralValue
from noetl.planner.syntax.models import ActionEntry, DocumentPath, InputDeclaration, Playbook, Step, TaskEntry
from noetl.planner.templates.access_paths import AccessPath
from noetl.planner.templates.template import TemplateProblem, has_template, parse_template

Literals = Sequence[LiteralValue]
"""The literals that a value is one of. Without any, the value is unknown."""

_TRUTH_VALUES: Literals = (True, False)


class SavedName(NamedTuple):
    """A name that an entry saves, and the path of the key or value that names it.

    `entry` is the path of the entry, and `saver` the entry itself. `step` contains it; it is None in a task.
    With `is_key`, it is a key of a mapping with values, as in `set`. The name is visible only inside of a
    loop: of the entry with `is_entry_local`, of the step with `is_step_local`.
    """

    name: str
    path: DocumentPath
    entry: DocumentPath
    saver: ActionEntry | TaskEntry
    step: Step | None
    is_key: bool
    is_entry_local: bool
    is_step_local: bool

    @property
    def literals(self) -> Literals:
        """The literals of which the value is one; none if it is unknown."""
        saver = self.saver
        if not isinstance(saver, ActionEntry) or not self.is_key:
            return ()
        if saver.declaration is None or not saver.declaration.saves_given_values:
            return ()
        parameter, name = self.path[-2:]
        return find_literals(saver.parameters[str(parameter)][name])


class PossibleValues(dict[AccessPath, Literals]):
    """The literals that each access path is one of where it has a value; none if it is unknown.

    They are found when they are asked for. `lost_names` are names of which not all definitions are known.
    """

    def __init__(
        self, playbook: Playbook, saved_names: Sequence[SavedName], lost_names: Iterable[str]
    ) -> None:
        self._inputs = playbook.input or {}
        self._environment = playbook.environment
        self._unknown = {*playbook.variables, *lost_names}
        self._saved: dict[str, list[SavedName]] = {}
        for saved in saved_names:
            self._saved.setdefault(saved.name, []).append(saved)

    def __missing__(self, access: AccessPath) -> Literals:
        found = self._find(access)
        literals = self[access] = found if len(found) <= MAX_ENUM_VALUES else ()
        return literals

    def _find(self, access: AccessPath) -> Literals:
        section, name = ("", *access)[-2:] if len(access) < 3 else ("", "")
        if section == "input":
            return _literals_of_input(self._inputs.get(name))
        if section == "environment":
            return find_literals(self._environment[name]) if name in self._environment else ()
        if section or name in self._unknown:
            return ()
        definitions = [saved.literals for saved in self._saved.get(name, ())]
        if name in self._inputs:
            definitions.append(_literals_of_input(self._inputs[name]))
        if name in self._environment:
            definitions.append(find_literals(self._environment[name]))
        return _union(definitions)


def _literals_of_input(declaration: InputDeclaration | None) -> Literals:
    if declaration is None:
        return ()
    literals: Literals = _TRUTH_VALUES if declaration.type == "boolean" else ()
    if has_scalar_enum(declaration):
        literals = declaration.enum or ()
    may_be_none = "default" in declaration.model_fields_set and declaration.default is None
    return _union([literals, [None]]) if may_be_none else literals


def find_literals(value: Any) -> Literals:
    """Return the literals that a value of a playbook can evaluate to; none if it may have any other value.

    >>> find_literals("{{ 'a' if x else 'b' if y else 'c' }}")
    ['a', 'b', 'c']
    >>> find_literals("{{ x }}"), find_literals([1, "{{ x }}"])
    ((), [[1, '{{ x }}']])
    """
    if not isinstance(value, str) or not has_template(value):
        return _known(value)
    try:
        template = parse_template(value)
    except TemplateProblem:
        return ()
    if not template.is_expression or template.is_access:
        return ()
    return _literals_of_node(template.expression)


def _literals_of_node(node: nodes.Node) -> Literals:
    match node:
        case nodes.CondExpr() if node.expr2 is not None:
            return _union([_literals_of_node(node.expr1), _literals_of_node(node.expr2)])
        case nodes.Filter(name="random", node=nodes.List() | nodes.Tuple() as choices):
            return _union(map(_literals_of_node, choices.items))
        case nodes.Compare() | nodes.Not() | nodes.Test():
            return _TRUTH_VALUES
        case nodes.List() | nodes.Tuple():
            return [node.items]
        case nodes.Dict():
            return [dict(enumerate(node.items))]
    constant = find_constant(node)
    return () if constant is None else _known(constant.value)


def _known(value: Any) -> Literals:
    """Return a value of the playbook as the only literal. NaN and infinity are no JSON data."""
    return () if isinstance(value, float) and not isfinite(value) else [value]


def _union(sets: Iterable[Literals]) -> Literals:
    """Return the different literals of all sets; none if a set has none."""
    literals: dict[tuple[type, str], LiteralValue] = {}
    for literal_set in sets:
        if not literal_set:
            return ()
        for literal in literal_set:
            literals[type(literal), repr(literal)] = literal
    return [*literals.values()]
