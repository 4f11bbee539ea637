"""Compile the syntax tree of a template into a function of its names, and convert the result to JSON values.

Problem: Jinja2 has hooks for calls, filters and attributes, but none for loops, comparisons, slices, literals
and `~`. These operations must be charged to the budget too.

Algorithm: instrumentation of the syntax tree. Before Jinja2 compiles the tree, each such node is wrapped in a
call of an internal filter that charges for it (see `filters`). The names of these filters contain a blank, so
no template can call them. Source: Jinja2 documentation, "Extensions", AST reference. The result is converted
to JSON values; each copied value is charged.

Cost: one filter call per instrumented operation.

Limits: those of `budget`. A text is limited to MAX_TEXT characters in all, an error message to MAX_MESSAGE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateRuntimeError, TemplateSyntaxError, UndefinedError
from jinja2.runtime import Undefined

from noetl.planner.templates.budget import (
    LIST_ITEM_UNITS,
    LIST_UNITS,
    MAPPING_UNITS,
    MAX_TEXT,
    LimitExceeded,
    charge,
    charge_each,
)
from noetl.planner.templates.filters import (
    COMPARISON_FILTER,
    CONCATENATION_FILTER,
    LITERAL_FILTER,
    LOOKUP_FILTER,
    LOOP_FILTER,
    SLICE_FILTER,
)
from noetl.planner.templates.functions import Function, describe
from noetl.planner.templates.sandbox import SANDBOX

MAX_MESSAGE = 1_000
"""How many characters the message of an error keeps. Some messages quote a whole value."""
TIME_UNITS = 32


class EvaluationError(Exception):
    """A failed evaluation.

    `type` is an error type of the language: UndefinedName, TemplateError, LimitExceeded.
    """

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type
        self.message = message


def describe_error(error: BaseException) -> str:
    """Return the message of an error that an evaluation raised, cut to MAX_MESSAGE characters."""
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    return str(error)[:MAX_MESSAGE]


def instrument(node: nodes.Node) -> nodes.Node:
    """Modify a node and its descendants so that they charge the budget; return the node that replaces it."""
    for field in node.fields:
        value = getattr(node, field, None)
        if isinstance(value, nodes.Node):
            setattr(node, field, instrument(value))
        elif isinstance(value, list):
            setattr(
                node, field, [instrument(item) if isinstance(item, nodes.Node) else item for item in value]
            )
    if isinstance(node, nodes.For):
        node.iter = _filtered(LOOP_FILTER, node.iter)
    if isinstance(node, nodes.Compare):
        node.expr = _filtered(COMPARISON_FILTER, node.expr)
        for operand in node.ops:
            name = LOOKUP_FILTER if operand.op in ("in", "notin") else COMPARISON_FILTER
            operand.expr = _filtered(name, operand.expr)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _filtered(SLICE_FILTER, node)
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _filtered(LITERAL_FILTER, node)
    if isinstance(node, nodes.Concat):
        return _filtered(CONCATENATION_FILTER, nodes.List(node.nodes, lineno=node.lineno))
    return node


def _filtered(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def compile_nodes(tree: nodes.Template, select: Callable[[Any, Any], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return a function that evaluates the tree with given names, and returns `select(context, text)`.

    Raises:
        EvaluationError: the tree is too deep for Python.
    """
    try:
        tree.set_environment(SANDBOX)
        template = SANDBOX.from_string(tree)
    except (RecursionError, MemoryError, SyntaxError, TemplateSyntaxError, ValueError):
        # Python refuses code that is nested too deeply, each version at a limit of its own.
        raise EvaluationError("LimitExceeded", "the expression is nested too deeply") from None

    def run(names: dict[str, Any]) -> Any:
        context = template.new_context(names)
        chunks: list[str] = []
        size = 0
        for chunk in template.root_render_func(context):
            size += len(chunk)
            if size > MAX_TEXT:
                raise LimitExceeded(f"the text is longer than {MAX_TEXT:,} characters")
            chunks.append(chunk)
        return select(context, "".join(chunks))

    return run


def is_json_type(value: object) -> bool:
    """Return whether the type of a value is one of JSON. The content of lists and mappings is not checked."""
    return isinstance(value, str | int | float | bool | list | dict | None)


def to_json_value(value: Any) -> Any:
    """Return the value as JSON values: a list for any iterable, text for a time.

    `Raw`, `Identifier` and mappings of secrets keep their type.

    Raises:
        EvaluationError: the value has no JSON form, or exceeds the budget.
    """
    try:
        return _convert(value)
    except UndefinedError as error:
        raise EvaluationError("UndefinedName", describe_error(error)) from None
    except (LimitExceeded, RecursionError) as error:
        raise EvaluationError("LimitExceeded", describe_error(error)) from None
    except (TypeError, ValueError, TemplateRuntimeError) as error:
        # Lazy filters such as `map` check their arguments only when their items are read.
        raise EvaluationError("TemplateError", describe_error(error)) from None


def _convert(value: Any) -> Any:
    """Return the value as JSON values.

    A shared list or mapping is copied, and charged, as often as it occurs.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        charge(len(value))
        return str(value) if type(value).__name__ == "Markup" else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("the value is not a finite number")
        return value
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if isinstance(value, dict):
        charge(MAPPING_UNITS + 2 * LIST_ITEM_UNITS * len(value))
        return {key if isinstance(key, str) else to_text(key): _convert(item) for key, item in value.items()}
    if isinstance(value, datetime | date):
        charge(TIME_UNITS)
        return value.isoformat()
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Function) or callable(value):
        raise TypeError("the value is a function: call it with `()`")
    if isinstance(value, list | tuple):
        charge(LIST_UNITS + LIST_ITEM_UNITS * len(value))
        return [_convert(item) for item in value]
    if isinstance(value, Iterable):
        return [_convert(item) for item in charge_each(value)]
    raise TypeError(f"the value is {describe(value)}, which JSON cannot hold")


def to_text(value: Any) -> str:
    """Return the value as a part of a text."""
    value = to_json_value(value)
    return value if type(value) is str else str(value)
