"""Compile the syntax tree of a template into a function of its names, and convert the result to JSON values.

Problem: Jinja2 has hooks for calls, filters and attributes, but none for loops, comparisons, slices and `~`.
These operations must be charged to the budget too. A charge for each operation would cost more than the
operation.

Algorithm: instrumentation of the syntax tree, with prices for basic blocks (Ball and Larus, "Optimally
Profiling and Tracing Programs", 1994). The price of a round of a loop is computed when the template is
compiled. It is the sum of its nodes; where only one of several branches is taken, the dearest counts. The
loop charges it for all rounds before the first. So only what depends on the size of a value is charged when
it runs. Such a node is replaced by a call of an internal filter (see `filters`). The names of these filters
contain a blank, so no template can call them. Source: Jinja2 documentation, "Extensions", AST reference. The
result is converted to JSON values; each copied value is charged.

Cost: one charge per loop, and one filter call per operation on values of any size. Comparisons with short
constants are not instrumented.

Limits: those of `budget`. A text is limited to MAX_TEXT characters in all, an error message to MAX_MESSAGE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from itertools import islice
from typing import Any, cast

from jinja2 import nodes
from jinja2.exceptions import TemplateRuntimeError, TemplateSyntaxError, UndefinedError
from jinja2.runtime import Undefined

from noetl.planner.templates.access_paths import child_nodes
from noetl.planner.templates.budget import (
    COMPARABLE,
    CONVERSION_UNITS,
    LIST_ITEM_UNITS,
    LIST_UNITS,
    MAPPING_UNITS,
    MAX_TEXT,
    SCALARS,
    SHORT,
    LimitExceeded,
    charge,
    read_items,
)
from noetl.planner.templates.filter_costs import SIMPLE_FILTERS
from noetl.planner.templates.filters import (
    COMPARISON_FILTER,
    CONCATENATION_FILTER,
    LOOP_FILTER,
    MEMBERSHIP_FILTER,
    OPERATOR_FILTERS,
    OUTPUT_FILTER,
    SLICE_FILTER,
)
from noetl.planner.templates.functions import Function, describe
from noetl.planner.templates.sandbox import SANDBOX

MAX_MESSAGE = 1_000
"""How many characters the message of an error keeps. Some messages quote a whole value."""
TIME_UNITS = 32
CHUNKS_PER_CHECK = 1024
"""How many parts of a text are created before its length is checked."""
ROUND_UNITS = 128
"""The price of a round of a loop, without its body."""
NODE_UNITS = 64
"""The price of a node of the syntax tree in a loop, if it calls nothing."""
CALL_UNITS = 448
"""The price of a node that calls a simple function, on short values."""
METHOD_UNITS = 896
"""The price of a node that calls a method or a function of the language, on short values."""
FILTER_UNITS = 2560
"""The price of a filter that is not in SIMPLE_FILTERS, on short values."""


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
    replacement = _REPLACEMENTS.get(type(node))
    return node if replacement is None else replacement(node)


def _filtered(name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _charge_loop(node: nodes.For) -> nodes.Node:
    units = nodes.Const(round_units(node), lineno=node.lineno)
    node.iter = _filtered(LOOP_FILTER, cast("nodes.Expr", node.iter), units)
    return node


def round_units(loop: nodes.For) -> int:
    """Return the price of a round of a loop, without the rounds of loops in its body."""
    return ROUND_UNITS + _block_units(loop.body) + (_units(loop.test) if loop.test is not None else 0)


def _block_units(block: Sequence[nodes.Node]) -> int:
    return sum(map(_units, block))


def _units(node: nodes.Node) -> int:
    """Return the price of a node with its descendants, for short values, without the rounds of loops."""
    if isinstance(node, nodes.For):
        return CALL_UNITS + _units(node.iter) + _block_units(node.else_)
    if isinstance(node, nodes.If):
        tests = _units(node.test) + sum(_units(branch.test) for branch in node.elif_)
        blocks = (node.body, *(branch.body for branch in node.elif_), node.else_)
        return tests + max(map(_block_units, blocks))
    return _own_units(node) + _block_units(child_nodes(node))


def _own_units(node: nodes.Node) -> int:
    if isinstance(node, nodes.Filter):
        is_simple = " " in node.name or node.name in SIMPLE_FILTERS
        return CALL_UNITS if is_simple else FILTER_UNITS
    return _UNITS.get(type(node), NODE_UNITS)


_UNITS: Mapping[type[nodes.Node], int] = {
    nodes.Call: METHOD_UNITS,
    nodes.Getattr: CALL_UNITS,
    nodes.Getitem: CALL_UNITS,
    nodes.Test: CALL_UNITS,
}
"""The prices of the nodes that call a function of Python."""


def _charge_compare(node: nodes.Compare) -> nodes.Node:
    """Charge for one operand of each comparison: a comparison costs at most as much as the smaller one.

    A comparison with a short constant has a constant price.
    """
    operand = node.ops[0]
    if len(node.ops) == 1 and operand.op in ("in", "notin"):
        found = _filtered(MEMBERSHIP_FILTER, node.expr, operand.expr)
        return found if operand.op == "in" else nodes.Not(found, lineno=node.lineno)
    is_short = _is_short(node.expr)
    for operand in node.ops:
        was_short, is_short = is_short, _is_short(operand.expr)
        if operand.op in ("in", "notin") or not (was_short or is_short):
            operand.expr = _filtered(COMPARISON_FILTER, operand.expr)
    return node


def _is_short(node: nodes.Expr) -> bool:
    """Return whether a node is a constant with which any comparison has a constant price."""
    if isinstance(node, nodes.Neg | nodes.Pos):
        return _is_short(node.node)
    return isinstance(node, nodes.Const) and (
        not isinstance(node.value, str) or len(node.value) <= COMPARABLE
    )


def _charge_operator(node: nodes.BinExpr) -> nodes.Node:
    # What can be added to a number is a number.
    if isinstance(node, nodes.Add) and (_is_number(node.left) or _is_number(node.right)):
        return node
    return _filtered(OPERATOR_FILTERS[node.operator], node.left, node.right)


def _is_number(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int | float)


def _charge_output(node: nodes.Output) -> nodes.Node:
    """Charge for the conversion of the values to text."""
    node.nodes = [
        child if isinstance(child, nodes.TemplateData | nodes.Const) else _filtered(OUTPUT_FILTER, child)
        for child in node.nodes
    ]
    return node


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
    nodes.For: _charge_loop,
    nodes.Getitem: _charge_subscript,
    nodes.Mod: _charge_operator,
    nodes.Mul: _charge_operator,
    nodes.Output: _charge_output,
    nodes.Pair: _charge_key,
    nodes.Pow: _charge_operator,
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
        context = template.new_context(names)
        chunks: list[str] = []
        size = 0
        output = template.root_render_func(context)
        while added := list(islice(output, CHUNKS_PER_CHECK)):
            size += sum(map(len, added))
            if size > MAX_TEXT:
                raise LimitExceeded(f"the text is longer than {MAX_TEXT:,} characters")
            chunks += added
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
        return value
    if kind is list or kind is tuple:
        return _convert_items(value)
    if isinstance(value, dict):
        charge(MAPPING_UNITS + CONVERSION_UNITS * len(value))
        return {key if isinstance(key, str) else to_text(key): _convert(item) for key, item in value.items()}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("the value is not a finite number")
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
    if kinds <= _EXACT:
        if str in kinds:
            charge(sum(map(len, items if len(kinds) == 1 else [i for i in items if type(i) is str])))
        return list(items)
    charge(CONVERSION_UNITS * len(items))
    return [_convert(item) for item in items]


_EXACT = (SCALARS - {float}) | {str}
"""The types whose values are values of JSON as they are. A float may be infinite."""
COPIED_ITEM_UNITS = 24


def to_text(value: Any) -> str:
    """Return the value as a part of a text."""
    value = to_json_value(value)
    return value if type(value) is str else str(value)
