"""Compile the syntax tree of a template into a function of its names, and convert the result to JSON values.

Problem: Jinja2 has hooks for calls, filters and attributes, but none for loops, comparisons, slices and `~`.
These operations must be charged to the budget too.

Algorithm: instrumentation of the syntax tree. A node whose cost depends on the size of a value is replaced by
a call of an internal filter (see `filters`), which charges. The names of these filters contain a blank, so no
template can call them. Loops and outputs are charged in the generated code (see `code_generator`), by prices
of their nodes (see `prices`). Source: Jinja2 documentation, "Extensions", AST reference. The result is
converted to JSON values; each copied value is charged.

Cost: one filter call per operation on values of any size. Comparisons with short constants are not
instrumented.

Limits: those of `budget`. A text is limited to MAX_TEXT characters in all, an error message to MAX_MESSAGE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateRuntimeError, TemplateSyntaxError, UndefinedError
from jinja2.runtime import Undefined, new_context

from noetl.planner.templates.budget import (
    COMPARABLE,
    CONVERSION_UNITS,
    LIST_ITEM_UNITS,
    LIST_UNITS,
    MAPPING_UNITS,
    MAX_TEXT,
    SCALARS,
    SHORT,
    SHORT_BITS,
    LimitExceeded,
    charge,
    charge_written,
    read_items,
    to_charged_text,
    used_units,
)
from noetl.planner.templates.error_sentences import to_sentence
from noetl.planner.templates.filters import (
    COMPARISON_FILTER,
    CONCATENATION_FILTER,
    MEMBERSHIP_FILTER,
    OPERATOR_FILTERS,
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
    if isinstance(error, UnicodeEncodeError):
        return "a text has half of a surrogate pair, which UTF-8 cannot hold"
    if isinstance(error, UnicodeDecodeError):
        return "the bytes are not text in UTF-8"
    try:
        return to_sentence(str(error)[:MAX_MESSAGE])
    except (TemplateRuntimeError, TypeError, ValueError):
        return f"it fails with {type(error).__name__}"  # The error has a value without a text.


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
    replacement = _REPLACEMENTS.get(type(node))
    return node if replacement is None else replacement(node)


def _filtered(name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _charge_compare(node: nodes.Compare) -> nodes.Node:
    """Charge for one operand of each comparison: a comparison costs at most as much as the smaller one.

    A comparison with a short constant has a constant price. `in` needs both operands.
    """
    operand = node.ops[0]
    if len(node.ops) == 1 and operand.op in ("in", "notin"):
        found = _filtered(MEMBERSHIP_FILTER, node.expr, operand.expr)
        return found if operand.op == "in" else nodes.Not(found, lineno=node.lineno)
    is_short = _is_short(node.expr)
    left: nodes.Compare | nodes.Operand = node
    for operand in node.ops:
        was_short, is_short = is_short, _is_short(operand.expr)
        is_membership = operand.op in ("in", "notin")
        if is_membership and not was_short:
            left.expr = _filtered(COMPARISON_FILTER, left.expr)  # An object reads the hash of what is wanted.
        if is_membership or not (was_short or is_short):
            operand.expr = _filtered(COMPARISON_FILTER, operand.expr)
        left = operand
    return node


def _is_short(node: nodes.Expr) -> bool:
    """Return whether a node is a constant with which any comparison has a constant price."""
    if isinstance(node, nodes.Neg | nodes.Pos):
        return _is_short(node.node)
    return isinstance(node, nodes.Const) and (
        not isinstance(node.value, str) or len(node.value) <= COMPARABLE
    )


def _charge_operator(node: nodes.BinExpr) -> nodes.Node:
    # What can be added to a number, or subtracted from it, is a number.
    if isinstance(node, nodes.Add | nodes.Sub) and _is_number(node.left):
        return node
    if isinstance(node, nodes.Add) and _is_number(node.right):
        return node
    return _filtered(OPERATOR_FILTERS[node.operator], node.left, node.right)


def _is_number(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int | float)


def _charge_subscript(node: nodes.Getitem) -> nodes.Node:
    if not isinstance(node.arg, nodes.Slice):
        return node
    bounds = (node.arg.start, node.arg.stop, node.arg.step)
    none = nodes.Const(None, lineno=node.lineno)
    return _filtered(SLICE_FILTER, node.node, *(bound or none for bound in bounds))


def _charge_key(node: nodes.Pair) -> nodes.Node:
    """Charge for the hash of a key."""
    if not isinstance(node.key, nodes.Const):
        node.key = _filtered(COMPARISON_FILTER, node.key)
    return node


_REPLACEMENTS: Mapping[type[nodes.Node], Callable[[Any], nodes.Node]] = {
    nodes.Add: _charge_operator,
    nodes.Compare: _charge_compare,
    nodes.Concat: lambda node: _filtered(CONCATENATION_FILTER, nodes.List(node.nodes, lineno=node.lineno)),
    nodes.FloorDiv: _charge_operator,
    nodes.Getitem: _charge_subscript,
    nodes.Mod: _charge_operator,
    nodes.Mul: _charge_operator,
    nodes.Pair: _charge_key,
    nodes.Pow: _charge_operator,
    nodes.Sub: _charge_operator,
}
"""The functions that return the node that replaces a node."""


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
        # `shared` keeps Jinja2 from copying the names once more.
        context = new_context(SANDBOX, None, template.blocks, {**SANDBOX.globals, **names}, shared=True)
        chunks = list(template.root_render_func(context))
        # A character of a text costs a unit, except those of the template. So most texts need no count.
        if used_units() > MAX_TEXT // 2 and sum(map(len, chunks)) > MAX_TEXT:
            raise LimitExceeded(f"the text is longer than {MAX_TEXT:,} characters")
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
    kind = type(value)
    if kind is str:
        if len(value) > SHORT:
            charge(len(value))
        return value
    if kind in _EXACT:
        if kind is int and value.bit_length() > SHORT_BITS:
            charge_written((value,), {int})
        return value
    if kind is list or kind is tuple:
        return _convert_items(value)
    if isinstance(value, dict):
        charge(MAPPING_UNITS + CONVERSION_UNITS * len(value))
        return {key if isinstance(key, str) else to_text(key): _convert(item) for key, item in value.items()}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(_NOT_FINITE)
        return value
    return _convert_other(value)


def _convert_other(value: Any) -> Any:
    """Return the JSON value of what is neither list, object, number nor plain text."""
    if isinstance(value, str):
        charge(len(value))
        return str(value) if type(value).__name__ == "Markup" else value
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if isinstance(value, datetime | date):
        charge(TIME_UNITS)
        return value.isoformat()
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Function) or callable(value):
        raise TypeError("the value is a function: call it with `()`")
    if isinstance(value, Iterable):
        return _convert_items(read_items(value, LIST_ITEM_UNITS))
    raise TypeError(f"the value is {describe(value)}, which JSON cannot hold")


def _convert_items(items: Sequence[Any]) -> list[Any]:
    charge(LIST_UNITS + COPIED_ITEM_UNITS * len(items))
    kinds = set(map(type, items))
    charge_written(items, kinds)
    if kinds <= _PLAIN:
        if float in kinds and not all(
            map(math.isfinite, items if len(kinds) == 1 else [i for i in items if type(i) is float])
        ):
            raise ValueError(_NOT_FINITE)
        if str in kinds:
            charge(sum(map(len, items if len(kinds) == 1 else [i for i in items if type(i) is str])))
        return list(items)
    charge(CONVERSION_UNITS * len(items))
    return [_convert(item) for item in items]


_PLAIN = SCALARS | {str}
_EXACT = _PLAIN - {float}
"""The types whose values are values of JSON as they are. A float may be infinite."""
_NOT_FINITE = "the value is not a finite number"
COPIED_ITEM_UNITS = 24


def to_text(value: Any) -> str:
    """Return the value as a part of a text."""
    value = to_json_value(value)
    return to_charged_text(value)
