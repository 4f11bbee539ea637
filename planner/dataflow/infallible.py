"""What cannot fail: work and guards so simple that, if what they read is there, they always come to an end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import nodes
from noetl.planner.syntax.models import ActionEntry
from noetl.planner.templates.access_paths import AccessPath, child_nodes, find_access_path
from noetl.planner.templates.template import Template, TemplateProblem, has_template, parse_template

SAFE_ACTIONS = frozenset({"set", "log"})
_PARTS = {"input": 2, "environment": 2, "args": 2, "run": 2, "step": 2, "loop": 2, "result": 2, "steps": 3}
_SAFE_NODES = (
    nodes.Output,
    nodes.TemplateData,
    nodes.Const,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.CondExpr,
    nodes.Concat,
)
_SAFE_TESTS = frozenset({"defined", "undefined", "none"})
_SAFE_OPERATORS = frozenset({"eq", "ne"})


def is_harmless(template: Template) -> bool:
    """Whether a template has a value wherever all that it reads has one."""
    return all(map(_is_whole, template.reads)) and (
        template.has_only_accesses or template.is_access or _is_simple(template.source)
    )


def is_harmless_text(text: str) -> bool:
    """The same of a text, which may have no templates."""
    if not has_template(text):
        return True
    try:
        return is_harmless(parse_template(text))
    except TemplateProblem:
        return False


def is_harmless_action(entry: ActionEntry) -> bool:
    """Whether an action only puts values together that are there."""
    return (
        entry.action in SAFE_ACTIONS
        and entry.loop is None
        and (not isinstance(entry.if_, str) or is_harmless_text(entry.if_))
        and all(map(is_harmless_text, _texts(entry.parameters)))
    )


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _is_whole(access: AccessPath) -> bool:
    """Whether nothing is looked for inside of a value."""
    return len(access) <= _PARTS.get(access[0], 1) and access[0] not in ("secrets", "callback")


@lru_cache(maxsize=16_384)
def _is_simple(source: str) -> bool:
    return parse_template(source).inspect_nodes(_are_simple)


def _are_simple(body: Sequence[nodes.Node]) -> bool:
    stack = list(body)
    while stack:
        node = stack.pop()
        if find_access_path(node) is not None:
            continue
        safe = (
            isinstance(node, _SAFE_NODES)
            or (isinstance(node, nodes.Test) and node.name in _SAFE_TESTS)
            or (isinstance(node, nodes.Filter) and node.name in ("default", "d"))
            or (
                isinstance(node, nodes.Compare) and all(operand.op in _SAFE_OPERATORS for operand in node.ops)
            )
            or isinstance(node, nodes.Operand)
        )
        if not safe or (isinstance(node, nodes.CondExpr) and node.expr2 is None):
            return False
        stack += child_nodes(node)
    return True
