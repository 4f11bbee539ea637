"""Infallible work: actions and templates that cannot fail if all that they read is assigned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import nodes

from noetl.planner.catalogue import Kind, Parameter, Sink
from noetl.planner.dataflow.transfer import TaskEffects
from noetl.planner.syntax.models import ActionEntry, Entry, Step
from noetl.planner.templates.access_paths import AccessPath, child_nodes, find_access_path
from noetl.planner.templates.template import (
    Template,
    TemplateProblem,
    has_template,
    parse_template,
)

_DEFINED_LENGTHS = {
    "input": 2,
    "environment": 2,
    "args": 2,
    "run": 2,
    "step": 2,
    "loop": 2,
    "result": 2,
    "steps": 3,
}
"""How long an access may be for each root without looking inside of a value. Other roots: 1."""

_INFALLIBLE_NODES = (
    nodes.Output,
    nodes.TemplateData,
    nodes.Const,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Concat,
    nodes.Operand,
)
_INFALLIBLE_TESTS = frozenset({"defined", "undefined", "none"})
_INFALLIBLE_OPERATORS = frozenset({"eq", "ne"})


def _is_infallible(template: Template) -> bool:
    """Return whether a template has a value wherever all that it reads has one.

    >>> _is_infallible(parse_template("{{ a == 1 and b is defined }}"))
    True
    >>> _is_infallible(parse_template("{{ a.b }}")), _is_infallible(parse_template("{{ a + 1 }}"))
    (False, False)
    """
    return all(map(_reads_no_part, template.reads)) and (
        template.has_only_accesses or template.is_access or template.inspect_nodes(_are_infallible)
    )


def may_visit_fail(step: Step, tasks: Mapping[str, TaskEffects]) -> bool:
    """Return whether a visit of a step may fail although all that it reads is assigned."""
    guards = (case.case for case in step.rule or () if isinstance(case.case, str))
    return (
        step.loop is not None
        or any(limit.use or limit.key or limit.max_wait is not None for limit in step.limits_and_rates)
        or any(limit.fair or isinstance(step.priority, str) for limit in step.limits)
        or step.repeat is not None
        or may_work_fail(step.run or (), tasks)
        or not all(map(_is_infallible_text, guards))
    )


def may_work_fail(run: Iterable[Entry], tasks: Mapping[str, TaskEffects]) -> bool:
    """Return whether a `run` may fail although all that it reads is assigned."""
    for entry in run:
        if isinstance(entry, ActionEntry):
            if not _is_infallible_action(entry):
                return True
        elif not isinstance(entry, str) or entry not in tasks or tasks[entry].may_fail:
            return True
    return False


def _is_infallible_text(text: str) -> bool:
    """Return the same for a text, which may contain no template."""
    if "{" not in text:
        return True
    try:
        return parse_template(text).result_of(_is_infallible)
    except TemplateProblem:
        return False


def _is_infallible_action(entry: ActionEntry) -> bool:
    """Return whether an action only evaluates infallible templates, and accepts whatever values they have."""
    declaration = entry.declaration
    return (
        declaration is not None
        and declaration.cannot_fail
        and entry.loop is None
        and (not isinstance(entry.if_, str) or _is_infallible_text(entry.if_))
        and all(map(_is_infallible_text, _texts(entry.parameters)))
        and all(
            _accepts_values_of(value, declaration.parameters[name])
            for name, value in entry.parameters.items()
            if name in declaration.parameters
        )
    )


def _accepts_values_of(value: Any, parameter: Parameter) -> bool:
    """Return whether the values of all templates in `value` are valid: it has none, or any value is."""
    if Kind.ANY in parameter.kinds or not any(map(has_template, _texts(value))):
        return True
    return not isinstance(value, str) and not parameter.fields and parameter.sink is Sink.PLAIN


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _reads_no_part(access: AccessPath) -> bool:
    """Return whether an access reads a whole value. A part of a value may be missing."""
    return len(access) <= _DEFINED_LENGTHS.get(access[0], 1) and access[0] != "secrets"


def _are_infallible(body: Sequence[nodes.Node]) -> bool:
    stack = list(body)
    while stack:
        node = stack.pop()
        if find_access_path(node) is not None:
            continue
        if not _is_infallible_node(node):
            return False
        stack += child_nodes(node)
    return True


def _is_infallible_node(node: nodes.Node) -> bool:
    if isinstance(node, nodes.CondExpr):
        return node.expr2 is not None
    if isinstance(node, nodes.Test):
        return node.name in _INFALLIBLE_TESTS
    if isinstance(node, nodes.Filter):
        return node.name in ("default", "d")
    if isinstance(node, nodes.Compare):
        return all(operand.op in _INFALLIBLE_OPERATORS for operand in node.ops)
    return isinstance(node, _INFALLIBLE_NODES)
