"""How the nodes of a template become a value: a function of the names that it reads, and plain data of what that gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import UndefinedError
from jinja2.runtime import Undefined
from noetl.planner.templates.budget import LIST, LIST_ITEM, MAPPING, MAX_TEXT, LimitExceeded, bounded, charge
from noetl.planner.templates.filters import (
    BUILT,
    CONCATENATE,
    COPIED,
    LOOP_ITEMS,
    SEARCHED,
    WEIGHED,
    describe,
)
from noetl.planner.templates.sandbox import SANDBOX

MAX_MESSAGE = 1_000
TIME_UNITS = 32


class EvaluationError(Exception):
    """A template has no value here. `type` is the error type of the language: UndefinedName, TemplateError, LimitExceeded."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type
        self.message = message


def message_of(error: BaseException) -> str:
    """What an error of an evaluation says."""
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    # Some quote all of a value.
    return str(error)[:MAX_MESSAGE]


def charged(node: nodes.Node) -> nodes.Node:
    """The node with the budget's filters where Jinja2 has no hook: around what is looped over, compared or cut out, and
    for `~`.
    """
    for field in node.fields:
        value = getattr(node, field, None)
        if isinstance(value, nodes.Node):
            setattr(node, field, charged(value))
        elif isinstance(value, list):
            setattr(node, field, [charged(item) if isinstance(item, nodes.Node) else item for item in value])
    if isinstance(node, nodes.For):
        node.iter = nodes.Filter(node.iter, LOOP_ITEMS, [], [], None, None, lineno=node.lineno)
    if isinstance(node, nodes.Compare):
        node.expr = _through(WEIGHED, node.expr)
        for operand in node.ops:
            operand.expr = _through(SEARCHED if operand.op in ("in", "notin") else WEIGHED, operand.expr)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _through(COPIED, node)
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _through(BUILT, node)
    if isinstance(node, nodes.Concat):
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, CONCATENATE, [], [], None, None, lineno=node.lineno)
    return node


def _through(name: str, node: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def compiled(tree: nodes.Template, pick: Callable[[Any, Any], Any]) -> Callable[[dict[str, Any]], Any]:
    """The function of the values of names that evaluates a tree, and gives what is picked of its context and its text.

    Raises:
        EvaluationError: the tree is too deep.
    """
    try:
        tree.set_environment(SANDBOX)
        template = SANDBOX.from_string(tree)
    except RecursionError:
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
        return pick(context, "".join(chunks))

    return run


def is_foreign(value: object) -> bool:
    """Whether a value is none of those that JSON knows."""
    return not isinstance(value, str | int | float | bool | list | dict | None)


def plain_or_error(value: Any) -> Any:
    """The value as JSON knows it: lists for what can be walked, text for times. `Raw`, `Identifier` and secrets stay.

    Raises:
        EvaluationError: it is not data, or more than the budget has.
    """
    try:
        return _plain(value)
    except UndefinedError as error:
        raise EvaluationError("UndefinedName", message_of(error)) from None
    except (LimitExceeded, RecursionError) as error:
        raise EvaluationError("LimitExceeded", message_of(error)) from None
    except (TypeError, ValueError) as error:
        raise EvaluationError("TemplateError", message_of(error)) from None


def _plain(value: Any) -> Any:
    """Lists and objects are copied, as often as they stand in others, and charged for."""
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
        charge(MAPPING + 2 * LIST_ITEM * len(value))
        return {key if isinstance(key, str) else to_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, datetime | date):
        charge(TIME_UNITS)
        return value.isoformat()
    if isinstance(value, Mapping):
        return value
    if callable(value):
        raise TypeError("the value is a function: call it with `()`")
    if isinstance(value, list | tuple):
        charge(LIST + LIST_ITEM * len(value))
        return [_plain(item) for item in value]
    if isinstance(value, Iterable):
        return [_plain(item) for item in bounded(value)]
    raise TypeError(f"the value is {describe(value)}, which is not data")


def to_text(value: Any) -> str:
    """The value as the part of a text that it becomes."""
    value = plain_or_error(value)
    return value if type(value) is str else str(value)
