"""What a template needs, and what is known once it has been evaluated.

An expression reads some names whatever happens, and others only where a condition before them was true. If a guard is
true, then what it has read was there, and `x is defined` was not in vain; whether the step has failed may be known too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import nodes
from noetl.planner.templates.access_paths import (
    AccessPath,
    child_nodes,
    find_access_path,
    find_local_names,
    find_root_name,
)
from noetl.planner.templates.template import Template, parse_template

SUCCEEDED, FAILED, FORGIVEN = 1, 2, 4
UNFAILED = SUCCEEDED | FORGIVEN
ANY = UNFAILED | FAILED

ERRORS: tuple[AccessPath, ...] = (("error",), ("result", "error"))
SUCCESS: AccessPath = ("result", "success")
SUCCEEDED_RUN: AccessPath = ("run", "succeeded")
"""Stands among facts for a run that has succeeded."""

_TELLING = frozenset({"error", "result", "steps"})
_CONDITIONAL = re.compile(
    r"\b(?:and|or|not|is|if|in|default|d|error|result|steps|true|false|none)\b|\{%", re.IGNORECASE
)


class Condition(NamedTuple):
    """A test of one access, and how it has turned out: `== 'full'`, of `("input", "mode")`. Without a test it is its truth."""

    access: AccessPath
    test: str
    truth: bool

    @property
    def opposite(self) -> Condition:
        return self._replace(truth=not self.truth)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at a place: accesses that have a value, accesses that have none, and whether the `run` of the step may have
    succeeded, failed, or ended in a failure that is forgiven, as bits. With none of them the place is never reached. `met` is
    how tests have turned out.

    `("steps", NAME, "succeeded")` among those that have a value says that the last visit of a step has succeeded.
    """

    there: frozenset[AccessPath] = frozenset()
    gone: frozenset[AccessPath] = frozenset()
    outcomes: int = ANY
    met: frozenset[Condition] = frozenset()

    def __and__(self, other: Facts) -> Facts:
        """Both hold."""
        if other is NOTHING:
            return self
        return Facts(
            self.there | other.there,
            self.gone | other.gone,
            self.outcomes & other.outcomes,
            self.met | other.met,
        )

    def __or__(self, other: Facts) -> Facts:
        """One of them holds. What cannot be has no say."""
        if not self.outcomes or not other.outcomes:
            return self if self.outcomes else other
        return Facts(
            self.there & other.there,
            self.gone & other.gone,
            self.outcomes | other.outcomes,
            self.met & other.met,
        )


NOTHING = Facts()
NEVER = Facts(outcomes=0)


@dataclass(frozen=True, slots=True)
class Need:
    """An access that must have a value, where it stands in the text, and what is known when it is read."""

    access: AccessPath
    offset: int
    given: Facts = NOTHING


@dataclass(frozen=True, slots=True)
class Implied:
    """The needs of a template, and what is known where it has a value: any, a true one, or a false one."""

    needs: tuple[Need, ...]
    always: Facts
    true: Facts
    false: Facts

    @property
    def asks_for_errors(self) -> bool:
        """Whether it reads a part of an error that there may not be: a guard is not true then."""
        return any(
            need.access[: len(error)] == error != need.access for need in self.needs for error in ERRORS
        )


def implied(template: Template) -> Implied:
    """What a template needs and implies."""
    return _implied(template.source)


def implied_by_guard(template: Template) -> Implied:
    """The same of a guard, with what its own outcome says of the values that it tests."""
    return _read(template.source) if is_unconditional(template) else _implied(template.source)


def is_unconditional(template: Template) -> bool:
    """Whether a template needs all that it reads, whatever its value, and says nothing of outcomes."""
    if template.has_only_accesses or template.access_path is not None:
        return template.access_path is None or template.access_path[0] not in _TELLING
    return not _is_conditional(template.source)


@lru_cache(maxsize=65_536)
def _is_conditional(source: str) -> bool:
    return _CONDITIONAL.search(source) is not None


def provides_for(template: Template, *access: str) -> bool:
    """Whether a text that reads an access provides for its having no value, wherever it does."""
    return not is_unconditional(template) and access not in _needed(template.source)


@lru_cache(maxsize=65_536)
def _needed(source: str) -> frozenset[AccessPath]:
    """The accesses that a template needs, and all that they look into."""
    return frozenset().union(*(_with_parts(need.access) for need in _implied(source).needs))


@lru_cache(maxsize=65_536)
def _implied(source: str) -> Implied:
    template = parse_template(source)
    if is_unconditional(template):
        facts = Facts(frozenset(template.reads))
        return Implied(tuple(Need(*read) for read in template.reads.items()), facts, facts, facts)
    return _read(source)


@lru_cache(maxsize=65_536)
def _read(source: str) -> Implied:
    template = parse_template(source)
    return template.inspect_nodes(_Reader(template).read)


class _Reader:
    """Reads the nodes of a template. `inside` are the names that it binds itself, `known` is what has been found of nodes: once
    they are evaluated, and once they are true or false. Without it, the time would double with each `and` in an `or`.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self.inside: frozenset[int] = frozenset()
        self.needs: list[Need] = []
        self.known: dict[tuple[int, bool | None], Facts] = {}

    def read(self, body: Sequence[nodes.Node]) -> Implied:
        self.inside = find_local_names(body)
        self.need_in_turn(body, NOTHING)
        needs = tuple(self.needs)
        always = self.certain_in_turn(body)
        if not self.template.is_expression:
            return Implied(needs, always, always, always)
        outputs = [child for node in body if isinstance(node, nodes.Output) for child in node.nodes]
        (expression,) = (node for node in outputs if not isinstance(node, nodes.TemplateData))
        return Implied(
            needs, always, self.implied(expression, truth=True), self.implied(expression, truth=False)
        )

    def access(self, node: nodes.Node) -> AccessPath | None:
        """The access to something from outside that a node is."""
        access = find_access_path(node)
        return (
            access if access in self.template.reads and id(find_root_name(node)) not in self.inside else None
        )

    def need_in_turn(self, nodes_: Iterable[nodes.Node], given: Facts) -> None:
        for node in nodes_:
            self.need(node, given)
            outcomes = given.outcomes & self.certain(node).outcomes
            if outcomes != given.outcomes:
                given = replace(given, outcomes=outcomes)

    def need(self, node: nodes.Node, given: Facts) -> None:
        """Add what a node needs, where something is known already."""
        access = self.access(node)
        if access is not None:
            if access not in given.there:
                self.needs.append(Need(access, find_root_name(node).lineno, given))
        elif isinstance(node, nodes.And | nodes.Or):
            self.need(node.left, given)
            self.need(node.right, given & self.implied(node.left, truth=isinstance(node, nodes.And)))
        elif isinstance(node, nodes.CondExpr | nodes.If):
            self.need(node.test, given)
            self.need_in_branches(node, given)
        elif isinstance(node, nodes.For):
            self.need(node.iter, given)
            given &= self.certain(node.iter)
            for part in ([node.test] if node.test is not None else [], node.body, node.else_):
                self.need_in_turn(part, given)
        elif (asked := self.asked(node)) is not None:
            if len(asked) > 1 and asked[:-1] not in given.there:
                self.needs.append(Need(asked[:-1], find_root_name(node.node).lineno, given))  # type: ignore[attr-defined]
            if isinstance(node, nodes.Filter) and self.may_be_undefined(node):
                given &= Facts(gone=frozenset((asked,)))
            self.need_in_turn(child_nodes(node)[1:], given)
        else:
            self.need_in_turn(child_nodes(node), given)

    def need_in_branches(self, node: nodes.CondExpr | nodes.If, given: Facts) -> None:
        true = given & self.implied(node.test, truth=True)
        false = given & self.implied(node.test, truth=False)
        if isinstance(node, nodes.CondExpr):
            self.need(node.expr1, true)
            if node.expr2 is not None:
                self.need(node.expr2, false)
            return
        self.need_in_turn(node.body, true)
        for branch in node.elif_:
            self.need(branch, false)
            false &= self.implied(branch.test, truth=False)
        self.need_in_turn(node.else_, false)

    def asked(self, node: nodes.Node) -> AccessPath | None:
        """The access that a node asks after, so that it need not have a value: in `x is defined` and `x | default(1)`."""
        is_default = isinstance(node, nodes.Filter) and node.name in ("default", "d")
        is_asked = isinstance(node, nodes.Test) and node.name in ("defined", "undefined")
        return self.access(child_nodes(node)[0]) if is_default or is_asked else None

    def may_be_undefined(self, node: nodes.Node) -> bool:
        """Whether the `default` of a node need not have a value where it is not taken: it is handed over, and not looked into."""
        if (
            not isinstance(node, nodes.Filter)
            or self.asked(node) is None
            or len(node.args) != 1
            or node.kwargs
        ):
            return False
        access = self.access(node.args[0])
        return (
            self.may_be_undefined(node.args[0])
            if access is None
            else len(access) == (3 if access[0] == "steps" else 1)
        )

    def certain_in_turn(self, nodes_: Iterable[nodes.Node]) -> Facts:
        each = [found for node in nodes_ if (found := self.certain(node)) is not NOTHING]
        if len(each) < 2:
            return each[0] if each else NOTHING
        outcomes = ANY
        for found in each:
            outcomes &= found.outcomes
        there, gone = (frozenset().union(*sets) for sets in ((f.there for f in each), (f.gone for f in each)))
        return Facts(there, gone, outcomes, frozenset().union(*(f.met for f in each)))

    def certain(self, node: nodes.Node) -> Facts:
        """What is known once a node has been evaluated, whatever its value."""
        found = self.known.get((id(node), None))
        if found is None:
            found = self.known[id(node), None] = self.find_certain(node)
        return found

    def find_certain(self, node: nodes.Node) -> Facts:
        access = self.access(node)
        if access is not None:
            return Facts(
                _with_parts(access), outcomes=FAILED if access[0] == "error" and len(access) > 1 else ANY
            )
        if isinstance(node, nodes.And | nodes.Or):
            return self.implied(node, truth=True) | self.implied(node, truth=False)
        if isinstance(node, nodes.CondExpr) and node.expr2 is not None:
            true, false = (self.implied(node.test, truth=truth) for truth in (True, False))
            return (true & self.certain(node.expr1)) | (false & self.certain(node.expr2))
        if isinstance(node, nodes.CondExpr | nodes.If):
            return self.certain(node.test)
        if isinstance(node, nodes.For):
            return self.certain(node.iter)
        if (asked := self.asked(node)) is not None:
            known = self.certain_in_turn(child_nodes(node)[1:]) if isinstance(node, nodes.Test) else NOTHING
            return known & Facts(_with_parts(asked[:-1])) if len(asked) > 1 else known
        return self.certain_in_turn(child_nodes(node))

    def implied(self, node: nodes.Node, *, truth: bool) -> Facts:
        """What is known once a node has turned out true or false."""
        found = self.known.get((id(node), truth))
        if found is None:
            found = self.known[id(node), truth] = self.find_implied(node, truth=truth)
        return found

    def find_implied(self, node: nodes.Node, *, truth: bool) -> Facts:
        if isinstance(node, nodes.Not):
            return self.implied(node.node, truth=not truth)
        if isinstance(node, nodes.And | nodes.Or):
            left = self.implied(node.left, truth=truth)
            if truth is isinstance(node, nodes.And):
                return left & self.implied(node.right, truth=truth)
            return left | (self.implied(node.left, truth=not truth) & self.implied(node.right, truth=truth))
        if isinstance(node, nodes.Const):
            return NOTHING if bool(node.value) is truth else NEVER
        known = self.certain(node)
        access = self.access(node)
        if access is not None:
            return known & _of_access(access, truth=truth) & _met(access, "", truth=truth)
        if isinstance(node, nodes.Test):
            return known & self.of_test(node, truth=truth)
        if isinstance(node, nodes.Compare) and len(node.ops) == 1:
            return known & self.of_comparison(node, truth=truth)
        return known

    def of_test(self, node: nodes.Test, *, truth: bool) -> Facts:
        access = self.access(node.node)
        if access is None:
            return NOTHING
        if node.name in ("defined", "undefined"):
            is_there = truth is (node.name == "defined")
            return Facts(there=_with_parts(access)) if is_there else Facts(gone=frozenset((access,)))
        if node.name.lower() == "none":
            found = _met(access, "is none", truth=truth)
            return found & _of_access(access, truth=not truth) if access in ERRORS else found
        return NOTHING

    def of_comparison(self, node: nodes.Compare, *, truth: bool) -> Facts:
        """A step whose last visit has an outcome, or which has visits, was visited."""
        access, operator, value = self.access(node.expr), node.ops[0].op, _constant(node.ops[0].expr)
        is_turned = access is None
        if access is None:
            access, operator = self.access(node.ops[0].expr), _TURNED.get(operator, operator)
            value = _constant(node.expr)
        if access is None or value is _NO_CONSTANT:
            return NOTHING
        is_negated = operator in ("ne", "notin")
        test = f"{_OPPOSITE[operator] if is_negated else operator} {value!r}"
        met = _met(
            access,
            f"turned {test}" if is_turned and "in" in operator else test,
            truth=truth is not is_negated,
        )
        return met & self.of_value(access, operator, value, truth=truth)

    def of_value(self, access: AccessPath, operator: str, value: Any, *, truth: bool) -> Facts:
        """What it says besides that an access has been compared with a constant."""
        if not truth:
            operator = _OPPOSITE.get(operator, "")
        if access in ERRORS and value is None and operator in ("eq", "ne"):
            return _of_access(access, truth=operator == "ne")
        if access == SUCCESS and isinstance(value, bool) and operator in ("eq", "ne"):
            return _of_access(access, truth=value is (operator == "eq"))
        if access == ("run", "status") and operator == "eq" and value == "succeeded":
            return Facts(frozenset({SUCCEEDED_RUN}))
        if len(access) == 3 and access[0] == "steps":
            return _of_step(access[1], access[2], operator, value)
        return NOTHING


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
_TURNED = {"gt": "lt", "lt": "gt", "gteq": "lteq", "lteq": "gteq"}
_ENDED = frozenset({"succeeded", "failed"})


def _constant(node: nodes.Node) -> Any:
    if isinstance(node, nodes.Const):
        return node.value
    if isinstance(node, nodes.List | nodes.Tuple) and all(
        isinstance(item, nodes.Const) for item in node.items
    ):
        return [item.value for item in node.items if isinstance(item, nodes.Const)]
    return _NO_CONSTANT


def _met(access: AccessPath, test: str, *, truth: bool) -> Facts:
    return Facts(met=frozenset((Condition(access, test, truth),)))


def _with_parts(access: AccessPath) -> frozenset[AccessPath]:
    """An access that has a value, and all that it looks into."""
    return frozenset(access[:length] for length in range(1, len(access) + 1))


def _of_access(access: AccessPath, *, truth: bool) -> Facts:
    """What is known of the step's outcome where an access is true or false, or of another step that is asked after."""
    if access == ("error",):
        return Facts(outcomes=FAILED if truth else UNFAILED)
    if access in (SUCCESS, ERRORS[1]):
        return Facts(outcomes=SUCCEEDED if truth is (access == SUCCESS) else FAILED | FORGIVEN)
    if len(access) == 3 and access[0] == "steps" and access[2] == "visits" and truth:
        return _visited(access[1])
    return NOTHING


def _of_step(name: str, attribute: str, operator: str, value: Any) -> Facts:
    values = value if operator in ("in", "notin") and isinstance(value, list) else [value]
    if attribute == "status" and operator in ("eq", "in", "ne", "notin"):
        meant = {word for word in values if isinstance(word, str)}
        if operator in ("eq", "in") and meant == {"succeeded"}:
            return _visited(name) & Facts(frozenset({("steps", name, "succeeded")}))
        visited = meant <= _ENDED if operator in ("eq", "in") else "pending" in meant
        return _visited(name) if visited else NOTHING
    if attribute == "visits" and isinstance(value, int):
        least = {"gt": value >= 0, "gteq": value >= 1, "eq": value >= 1, "ne": value == 0}
        return _visited(name) if least.get(operator, False) else NOTHING
    return NOTHING


def _visited(name: str) -> Facts:
    return Facts(frozenset({("steps", name, "result")}))
