"""Narrowing: what a template requires, and what is known after it has been evaluated.

Problem: An expression reads some names always, and others only if a condition before them was true. A guard
that is true (or false) also says something: that `x is defined` held, that the step has failed, or that `mode
== 'full'`. The other analyses need both. One is the required accesses, each with the facts that hold where it
is read. The other is the facts that follow from the value of the template.

Algorithm: Flow typing, also called occurrence typing (Tobin-Hochstadt and Felleisen 2010), over the syntax
tree of one Jinja2 template. `require` walks down and carries the facts that hold so far. `facts_after` gives
the facts after any evaluation of a node, `facts_when` those after it was true or false. `and` unites facts,
`or` intersects them.

Cost: Linear in the size of the template. The facts of each node are kept; without that, the time would double
with each `and` inside an `or`. Results are cached by the text of the template.

Limits: Facts are about single accesses and comparisons with constants. Arithmetic and comparisons of two
accesses give no facts, which is sound: a missing fact only makes later analyses less precise.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import nodes

from noetl.planner.frozen import replace
from noetl.planner.guards.value_classes import LiteralValue
from noetl.planner.templates.access_paths import (
    AccessPath,
    child_nodes,
    find_access_path,
    find_local_names,
    find_root_name,
)
from noetl.planner.templates.template import Template

RunResults = frozenset[str]
"""A set of possible results of a `run`."""

SUCCEEDED, FAILED, TOLERATED = map(frozenset, (("succeeded",), ("failed",), ("tolerated",)))
"""The sets of one result. `TOLERATED` is a failure that `on_error: continue` tolerates."""
NOT_FAILED: RunResults = SUCCEEDED | TOLERATED
ANY_RESULT: RunResults = NOT_FAILED | FAILED
NO_RESULT: RunResults = frozenset()

ERRORS: tuple[AccessPath, ...] = (("error",), ("result", "error"))
SUCCESS: AccessPath = ("result", "success")
SUCCEEDED_RUN: AccessPath = ("run", "succeeded")
"""A pseudo-access among the assigned ones: the whole run has succeeded."""

_RESULT_NAMES = frozenset({"error", "result", "steps"})
_CONDITIONAL = re.compile(
    r"\b(?:and|or|not|is|if|in|default|d|error|result|steps|true|false|none)\b|\{%", re.IGNORECASE
)

ValueSet = int
"""A set of possible values of a name: bit `i` stands for the value with index `i`."""


class Condition(NamedTuple):
    """A test of one access together with its truth value.

    `test` is an operator with a constant, for example `eq 'full'`, or empty for the truth of the value
    itself.
    """

    access: AccessPath
    test: str
    truth: bool

    @property
    def opposite(self) -> Condition:
        """The same test with the opposite truth value."""
        return self._replace(truth=not self.truth)

    def select(self, literals: Sequence[LiteralValue]) -> ValueSet | None:
        """Return for which of these values the condition holds; `None` if that is not known for each of them.

        >>> bin(Condition(("size",), "eq 'small'", False).select(["small", "middle", "large"]))
        '0b110'
        """
        operator, _, text = self.test.partition(" ")
        test = _TESTS_OF_LITERALS.get(operator)
        if not literals or test is None:
            return None
        try:
            constant = literal_eval(text) if text and operator != "is" else None
            return sum(
                1 << index for index, literal in enumerate(literals) if test(literal, constant) is self.truth
            )
        except (TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that hold at one place.

    `assigned` are the accesses that have a value, `unassigned` those that have none. `results` are the
    possible results of the step's `run`; without any of them the place is unreachable. `conditions`
    are tests whose truth value is known.

    `("steps", NAME, "succeeded")` in `assigned` says that the last visit of a step has succeeded.
    """

    assigned: frozenset[AccessPath] = frozenset()
    unassigned: frozenset[AccessPath] = frozenset()
    results: RunResults = ANY_RESULT
    conditions: frozenset[Condition] = frozenset()

    def __and__(self, other: Facts) -> Facts:
        """Return the facts that hold where both operands hold."""
        if other is NO_FACTS:
            return self
        return Facts(
            self.assigned | other.assigned,
            self.unassigned | other.unassigned,
            self.results & other.results,
            self.conditions | other.conditions,
        )

    def __or__(self, other: Facts) -> Facts:
        """Return the facts that hold where at least one operand holds. An unreachable one does not count."""
        if not self.results or not other.results:
            return self if self.results else other
        return Facts(
            self.assigned & other.assigned,
            self.unassigned & other.unassigned,
            self.results | other.results,
            self.conditions & other.conditions,
        )


NO_FACTS = Facts()
UNREACHABLE = Facts(results=NO_RESULT)


class RequiredAccess(NamedTuple):
    """An access that must have a value, its offset in the text, and the facts that hold where it is read."""

    access: AccessPath
    offset: int
    given: Facts = NO_FACTS


class Narrowing(NamedTuple):
    """The required accesses of a template, and the facts after any value, a true value and a false value."""

    required: tuple[RequiredAccess, ...]
    always: Facts
    true: Facts
    false: Facts

    @property
    def reads_error_part(self) -> bool:
        """True if the template reads a part of an error. Without an error, such a guard is false."""
        return any(
            required.access[: len(error)] == error != required.access
            for required in self.required
            for error in ERRORS
        )


def narrow(template: Template) -> Narrowing:
    """Return the required accesses of a template and the facts that follow from its value.

    >>> from noetl.planner.templates.template import parse_template
    >>> [required.access for required in narrow(parse_template("{{ a is defined and a > b }}")).required]
    [('b',)]
    >>> sorted(narrow(parse_template("{{ a is defined and b }}")).true.assigned)
    [('a',), ('b',)]
    """
    return template.result_of(_narrow)


def is_unconditional(template: Template) -> bool:
    """Return whether a template requires all that it reads, and its value says nothing about results."""
    if template.has_only_accesses or template.access_path is not None:
        return template.access_path is None or template.access_path[0] not in _RESULT_NAMES
    return not template.result_of(_is_conditional)


def _is_conditional(template: Template) -> bool:
    return _CONDITIONAL.search(template.source) is not None


def handles_undefined(template: Template, *access: str) -> bool:
    """Return whether a template that reads an access can be evaluated where the access has no value.

    >>> from noetl.planner.templates.template import parse_template
    >>> handles_undefined(parse_template("{{ a | default(1) }}"), "a")
    True
    >>> handles_undefined(parse_template("{{ a + 1 }}"), "a")
    False
    """
    return not is_unconditional(template) and access not in template.result_of(_required_with_prefixes)


def _required_with_prefixes(template: Template) -> frozenset[AccessPath]:
    """Return the required accesses of a template and all their prefixes."""
    return frozenset().union(*(_prefixes(required.access) for required in narrow(template).required))


def _narrow(template: Template) -> Narrowing:
    access, required = template.access_path, tuple(RequiredAccess(*read) for read in template.reads.items())
    if access is not None and required:
        return Narrowing(required, *(_facts_of_access(access, truth) for truth in (None, True, False)))
    if template.is_expression or not is_unconditional(template):
        return template.inspect_nodes(_TemplateNarrower(template).read)
    facts = Facts(frozenset(template.reads))
    return Narrowing(required, facts, facts, facts)


class _TemplateNarrower:
    """The walk over the nodes of one template.

    `bound` are the ids of the name nodes that the template binds itself. `known` caches facts by the id of
    the node and its truth value, `None` for any value.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self.bound: frozenset[int] = frozenset()
        self.required: list[RequiredAccess] = []
        self.known: dict[tuple[int, bool | None], Facts] = {}

    def read(self, body: Sequence[nodes.Node]) -> Narrowing:
        self.bound = find_local_names(body)
        self.require_all(body, NO_FACTS)
        required = tuple(self.required)
        always = self.facts_after_all(body)
        if not self.template.is_expression:
            return Narrowing(required, always, always, always)
        outputs = [child for node in body if isinstance(node, nodes.Output) for child in node.nodes]
        (expression,) = (node for node in outputs if not isinstance(node, nodes.TemplateData))
        return Narrowing(
            required,
            always,
            self.facts_when(expression, truth=True),
            self.facts_when(expression, truth=False),
        )

    def access(self, node: nodes.Node) -> AccessPath | None:
        """Return the access of a node, if it reads something from outside of the template."""
        access = find_access_path(node)
        return (
            access if access in self.template.reads and id(find_root_name(node)) not in self.bound else None
        )

    def require_all(self, sequence: Iterable[nodes.Node], given: Facts) -> None:
        """Add what nodes require that are evaluated in this order."""
        for node in sequence:
            self.require(node, given)
            results = given.results & self.facts_after(node).results
            if results != given.results:
                given = replace(given, results=results)

    def require(self, node: nodes.Node, given: Facts) -> None:
        """Add what a node requires, where `given` holds before it."""
        access = self.access(node)
        if access is not None:
            if access not in given.assigned:
                self.required.append(RequiredAccess(access, find_root_name(node).lineno, given))
        elif isinstance(node, nodes.And | nodes.Or):
            self.require(node.left, given)
            self.require(node.right, given & self.facts_when(node.left, truth=isinstance(node, nodes.And)))
        elif isinstance(node, nodes.CondExpr | nodes.If):
            self.require(node.test, given)
            self.require_in_branches(node, given)
        elif isinstance(node, nodes.For):
            self.require(node.iter, given)
            given &= self.facts_after(node.iter)
            for part in ([node.test] if node.test is not None else [], node.body, node.else_):
                self.require_all(part, given)
        elif (tested := self.tested_for_value(node)) is not None:
            if len(tested) > 1 and tested[:-1] not in given.assigned:
                offset = find_root_name(node.node).lineno  # type: ignore[attr-defined]
                self.required.append(RequiredAccess(tested[:-1], offset, given))
            if isinstance(node, nodes.Filter) and self.accepts_undefined_default(node):
                given &= Facts(unassigned=frozenset((tested,)))
            self.require_all(child_nodes(node)[1:], given)
        else:
            self.require_all(child_nodes(node), given)

    def require_in_branches(self, node: nodes.CondExpr | nodes.If, given: Facts) -> None:
        true = given & self.facts_when(node.test, truth=True)
        false = given & self.facts_when(node.test, truth=False)
        if isinstance(node, nodes.CondExpr):
            self.require(node.expr1, true)
            if node.expr2 is not None:
                self.require(node.expr2, false)
            return
        self.require_all(node.body, true)
        for branch in node.elif_:
            self.require(branch, false)
            false &= self.facts_when(branch.test, truth=False)
        self.require_all(node.else_, false)

    def tested_for_value(self, node: nodes.Node) -> AccessPath | None:
        """Return the access that this node tests for a value, as in `x is defined` or `x | default(1)`."""
        is_default = isinstance(node, nodes.Filter) and node.name in ("default", "d")
        is_definedness_test = isinstance(node, nodes.Test) and node.name in ("defined", "undefined")
        return self.access(child_nodes(node)[0]) if is_default or is_definedness_test else None

    def accepts_undefined_default(self, node: nodes.Node) -> bool:
        """Return whether the argument of `default` may be undefined where it is not used."""
        if not isinstance(node, nodes.Filter) or self.tested_for_value(node) is None:
            return False
        if len(node.args) != 1 or node.kwargs:
            return False
        access = self.access(node.args[0])
        if access is None:
            return self.accepts_undefined_default(node.args[0])
        return len(access) == (3 if access[0] == "steps" else 1)

    def facts_after_all(self, sequence: Iterable[nodes.Node]) -> Facts:
        """Return the facts after all these nodes have been evaluated."""
        parts = [facts for node in sequence if (facts := self.facts_after(node)) is not NO_FACTS]
        if len(parts) < 2:
            return parts[0] if parts else NO_FACTS
        results = ANY_RESULT
        for facts in parts:
            results &= facts.results
        assigned, unassigned = (
            frozenset().union(*sets)
            for sets in ((facts.assigned for facts in parts), (facts.unassigned for facts in parts))
        )
        return Facts(assigned, unassigned, results, frozenset().union(*(facts.conditions for facts in parts)))

    def facts_after(self, node: nodes.Node) -> Facts:
        """Return the facts after a node has been evaluated, whatever its value."""
        facts = self.known.get((id(node), None))
        if facts is None:
            facts = self.known[id(node), None] = self._find_facts_after(node)
        return facts

    def _find_facts_after(self, node: nodes.Node) -> Facts:
        access = self.access(node)
        if access is not None:
            return _facts_of_access(access, None)
        if isinstance(node, nodes.And | nodes.Or):
            return self.facts_when(node, truth=True) | self.facts_when(node, truth=False)
        if isinstance(node, nodes.CondExpr) and node.expr2 is not None:
            true, false = (self.facts_when(node.test, truth=truth) for truth in (True, False))
            return (true & self.facts_after(node.expr1)) | (false & self.facts_after(node.expr2))
        if isinstance(node, nodes.CondExpr | nodes.If):
            return self.facts_after(node.test)
        if isinstance(node, nodes.For):
            return self.facts_after(node.iter)
        if (tested := self.tested_for_value(node)) is not None:
            known = self.facts_after_all(child_nodes(node)[1:]) if isinstance(node, nodes.Test) else NO_FACTS
            return known & Facts(_prefixes(tested[:-1])) if len(tested) > 1 else known
        return self.facts_after_all(child_nodes(node))

    def facts_when(self, node: nodes.Node, *, truth: bool) -> Facts:
        """Return the facts after a node has been evaluated to this truth value."""
        facts = self.known.get((id(node), truth))
        if facts is None:
            facts = self.known[id(node), truth] = self._find_facts_when(node, truth=truth)
        return facts

    def _find_facts_when(self, node: nodes.Node, *, truth: bool) -> Facts:
        if isinstance(node, nodes.Not):
            return self.facts_when(node.node, truth=not truth)
        if isinstance(node, nodes.And | nodes.Or):
            left = self.facts_when(node.left, truth=truth)
            if truth is isinstance(node, nodes.And):
                return left & self.facts_when(node.right, truth=truth)
            return left | (
                self.facts_when(node.left, truth=not truth) & self.facts_when(node.right, truth=truth)
            )
        if isinstance(node, nodes.Const):
            return NO_FACTS if bool(node.value) is truth else UNREACHABLE
        known = self.facts_after(node)
        access = self.access(node)
        if access is not None:
            return _facts_of_access(access, truth)
        if isinstance(node, nodes.Test):
            return known & self.facts_of_test(node, truth=truth)
        if isinstance(node, nodes.Compare) and len(node.ops) == 1:
            return known & self.facts_of_comparison(node, truth=truth)
        return known

    def facts_of_test(self, node: nodes.Test, *, truth: bool) -> Facts:
        access = self.access(node.node)
        if access is None:
            return NO_FACTS
        if node.name in ("defined", "undefined"):
            is_assigned = truth is (node.name == "defined")
            return (
                Facts(assigned=_prefixes(access)) if is_assigned else Facts(unassigned=frozenset((access,)))
            )
        if node.name.lower() == "none":
            facts = _condition(access, "is none", truth=truth)
            return facts & _facts_of_truth(access, truth=not truth) if access in ERRORS else facts
        return NO_FACTS

    def facts_of_comparison(self, node: nodes.Compare, *, truth: bool) -> Facts:
        access, operator, value = self.access(node.expr), node.ops[0].op, _constant(node.ops[0].expr)
        is_mirrored = access is None
        if access is None:
            access, operator = self.access(node.ops[0].expr), _MIRRORED.get(operator, operator)
            value = _constant(node.expr)
        if access is None or value is _NO_CONSTANT:
            return NO_FACTS
        is_negated = operator in ("ne", "notin")
        test = f"{_OPPOSITE[operator] if is_negated else operator} {value!r}"
        if is_mirrored and "in" in operator:
            test = f"mirrored {test}"
        condition = _condition(access, test, truth=truth is not is_negated)
        return condition & self.facts_of_value(access, operator, value, truth=truth)

    def facts_of_value(self, access: AccessPath, operator: str, value: Any, *, truth: bool) -> Facts:
        """Return the facts of a comparison with a constant, besides its condition.

        For example, a step with the status `succeeded`, or with more than zero visits, has been visited.
        """
        if not truth:
            operator = _OPPOSITE.get(operator, "")
        if access in ERRORS and value is None and operator in ("eq", "ne"):
            return _facts_of_truth(access, truth=operator == "ne")
        if access == SUCCESS and isinstance(value, bool) and operator in ("eq", "ne"):
            return _facts_of_truth(access, truth=value is (operator == "eq"))
        if access == ("run", "status") and operator == "eq" and value == "succeeded":
            return Facts(frozenset({SUCCEEDED_RUN}))
        if len(access) == 3 and access[0] == "steps":
            return _facts_of_step(access[1], access[2], operator, value)
        return NO_FACTS


_NO_CONSTANT = object()
_OPPOSITE = {
    "eq": "ne",
    "ne": "eq",
    "gt": "lteq",
    "lteq": "gt",
    "lt": "gteq",
    "gteq": "lt",
    "in": "notin",
    "notin": "in",
}
_MIRRORED = {"gt": "lt", "lt": "gt", "gteq": "lteq", "lteq": "gteq"}
_ENDED = frozenset({"succeeded", "failed"})


def _scalar(literal: LiteralValue) -> Any:
    """Return a literal; of a list or a mapping only the length is known.

    Raises:
        TypeError: the literal is a list or a mapping.
    """
    if isinstance(literal, list | dict):
        raise TypeError
    return literal


_TESTS_OF_LITERALS: Mapping[str, Callable[[LiteralValue, Any], bool]] = {
    "": lambda literal, _: bool(literal),
    "is": lambda literal, _: literal is None,
    "in": lambda literal, constant: _scalar(literal) in constant,
    "eq": lambda literal, constant: _scalar(literal) == constant,
    "lt": lambda literal, constant: _scalar(literal) < constant,
    "lteq": lambda literal, constant: _scalar(literal) <= constant,
    "gt": lambda literal, constant: _scalar(literal) > constant,
    "gteq": lambda literal, constant: _scalar(literal) >= constant,
}


def _constant(node: nodes.Node) -> Any:
    if isinstance(node, nodes.Const):
        return node.value
    if isinstance(node, nodes.List | nodes.Tuple) and all(
        isinstance(item, nodes.Const) for item in node.items
    ):
        return [item.value for item in node.items if isinstance(item, nodes.Const)]
    return _NO_CONSTANT


def _condition(access: AccessPath, test: str, *, truth: bool) -> Facts:
    """Return the condition of a test, unless it tests an error or a result, which differ between visits."""
    if access[0] in _RESULT_NAMES:
        return NO_FACTS
    return Facts(conditions=frozenset((Condition(access, test, truth),)))


def _prefixes(access: AccessPath) -> frozenset[AccessPath]:
    """Return an access and all its prefixes, which have a value where the access has one.

    >>> sorted(_prefixes(("a", "b")))
    [('a',), ('a', 'b')]
    """
    return frozenset(access[:length] for length in range(1, len(access) + 1))


def _facts_of_access(access: AccessPath, truth: bool | None) -> Facts:
    """Return the facts where an access has a value: any (`None`), a true or a false one."""
    is_error_part = access[0] == "error" and len(access) > 1
    facts = Facts(_prefixes(access), results=FAILED if is_error_part else ANY_RESULT)
    if truth is None:
        return facts
    return facts & _facts_of_truth(access, truth=truth) & _condition(access, "", truth=truth)


def _facts_of_truth(access: AccessPath, *, truth: bool) -> Facts:
    """Return the facts about results, or about the visit of a step, where an access is true or false."""
    if access == ("error",):
        return Facts(results=FAILED if truth else NOT_FAILED)
    if access in (SUCCESS, ERRORS[1]):
        return Facts(results=SUCCEEDED if truth is (access == SUCCESS) else FAILED | TOLERATED)
    if len(access) == 3 and access[0] == "steps" and access[2] == "visits" and truth:
        return _visited(access[1])
    return NO_FACTS


def _facts_of_step(name: str, attribute: str, operator: str, value: Any) -> Facts:
    values = value if operator in ("in", "notin") and isinstance(value, list) else [value]
    if attribute == "status" and operator in ("eq", "in", "ne", "notin"):
        statuses = {text for text in values if isinstance(text, str)}
        if operator in ("eq", "in") and statuses == {"succeeded"}:
            return _visited(name) & Facts(frozenset({("steps", name, "succeeded")}))
        is_visited = statuses <= _ENDED if operator in ("eq", "in") else "pending" in statuses
        return _visited(name) if is_visited else NO_FACTS
    if attribute == "visits" and isinstance(value, int):
        implies_visit = {"gt": value >= 0, "gteq": value >= 1, "eq": value >= 1, "ne": value == 0}
        return _visited(name) if implies_visit.get(operator, False) else NO_FACTS
    return NO_FACTS


def _visited(name: str) -> Facts:
    return Facts(frozenset({("steps", name, "result")}))
