"""Formulas: what the truth of a guard says about the values of its terms.

Problem: The solver (`noetl.planner.guards.solver`) needs the logical structure of the guards of a rule, so
that it can relate guards that test the same value.

Algorithm: Boolean abstraction, as in lazy SMT solving (Sebastiani 2007). The Jinja2 syntax tree is translated
to a propositional formula, whose atoms are tests of one term. A *term* is a part of an expression that is not
analysed further: a name with its attributes, a filter, a sum. Two terms are equal if their syntax is equal.
All guards of a rule read the same values, so equal terms have equal values there.

Cost: Linear in the size of the expression.

Limits: A term that may have a new value at every evaluation (`uuid`, `random`) is different from all others.
Terms that depend on each other, such as `a` and `a + 1`, count as independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

from jinja2 import nodes

from noetl.planner.guards.value_classes import TYPE_TESTS, Scalar, compare_constants
from noetl.planner.templates.access_paths import AccessPath, find_access_path

Term = tuple[Any, ...]
"""An access path, or the flattened syntax of another expression after a word that begins with `?`.

The length of the value at an access path is `?length` with that path.
"""


@dataclass(frozen=True, slots=True)
class Atom:
    """A test of one term.

    `test` is `truth`, `type` (with the type in `operator`), `order` (with `operator` and one constant),
    `among` (with constants) or `pair`. The term of a `pair` stands for how two others compare. `default`
    holds the value that replaces an absent term (the filter `default`); with `replaces_false` it also
    replaces a false value.
    """

    term: Term
    test: str
    operator: str = ""
    constants: tuple[Any, ...] = ()
    default: tuple[Any, ...] = ()
    replaces_false: bool = False


@dataclass(frozen=True, slots=True)
class Not:
    """A negation."""

    formula: Formula


@dataclass(frozen=True, slots=True)
class And:
    """A conjunction. Parts after the first false one are not evaluated."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Conditional:
    """`if_true if condition else if_false`."""

    condition: Formula
    if_true: Formula
    if_false: Formula


@dataclass(frozen=True, slots=True)
class Constant:
    """A formula that is always true, always false, or always raises an error (`None`)."""

    value: bool | None


Formula = Atom | Not | And | Conditional | Constant

ALWAYS = Constant(True)
NEVER = Constant(False)
ERROR = Atom(("error",), "truth")
"""The guard `error`."""

_TESTS = {
    **dict.fromkeys(("eq", "==", "equalto"), "eq"),
    **dict.fromkeys(("ne", "!="), "ne"),
    **dict.fromkeys(("lt", "<", "lessthan"), "lt"),
    **dict.fromkeys(("le", "<="), "lteq"),
    **dict.fromkeys(("gt", ">", "greaterthan"), "gt"),
    **dict.fromkeys(("ge", ">="), "gteq"),
    "in": "in",
}
_MIRRORED = {"eq": "eq", "lt": "gt", "lteq": "gteq", "gt": "lt", "gteq": "lteq"}
_fresh_numbers = count()


def to_formula(node: nodes.Node) -> Formula:
    """Return the formula that is true where an expression is true."""
    match node:
        case nodes.Not():
            return Not(to_formula(node.node))
        case nodes.And():
            return And(tuple(map(to_formula, _operands(node))))
        case nodes.Or():
            return Not(And(tuple(Not(to_formula(operand)) for operand in _operands(node))))
        case nodes.CondExpr():
            if_false = NEVER if node.expr2 is None else to_formula(node.expr2)
            return Conditional(to_formula(node.test), to_formula(node.expr1), if_false)
        case nodes.Compare():
            return _comparison(node)
        case nodes.Test():
            return _test(node)
    return _truth(_operand(node))


def _operands(node: nodes.And | nodes.Or) -> Iterator[nodes.Expr]:
    """Yield the operands of a chain of one operator, which the parser nests to the left."""
    rest: list[nodes.Expr] = []
    inner: nodes.Expr = node
    while isinstance(inner, type(node)):
        rest.append(inner.right)
        inner = inner.left
    yield inner
    yield from reversed(rest)


@dataclass(frozen=True, slots=True)
class ConstantOperand:
    """An operand that is written as a literal: a scalar, or a list of scalars as a tuple."""

    value: Scalar | tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _TermOperand:
    term: Term
    default: tuple[Any, ...] = ()
    replaces_false: bool = False


_Operand = ConstantOperand | _TermOperand


def _operand(node: nodes.Node) -> _Operand:
    constant = find_constant(node)
    if constant is not None:
        return constant
    if isinstance(node, nodes.Filter) and node.name in ("default", "d") and node.node is not None:
        operand = _with_default(node)
        if operand is not None:
            return operand
    return _TermOperand(term_of(node))


def find_constant(node: nodes.Node) -> ConstantOperand | None:
    """Return the literal that a node is; `None` for any other expression."""
    if isinstance(node, nodes.Const) and (node.value is None or isinstance(node.value, str | int | float)):
        return ConstantOperand(node.value)
    if isinstance(node, nodes.Neg | nodes.Pos):
        inner = find_constant(node.node)
        if inner is None or not isinstance(inner.value, int | float):
            return None
        return ConstantOperand(-inner.value if isinstance(node, nodes.Neg) else +inner.value)
    if isinstance(node, nodes.List | nodes.Tuple):
        items = [find_constant(item) for item in node.items]
        if all(item is not None and not isinstance(item.value, tuple) for item in items):
            return ConstantOperand(tuple(item.value for item in items if item is not None))
    return None


def _with_default(node: nodes.Filter) -> _TermOperand | None:
    """Return the operand `x | default(constant)`; `None` for other uses of the filter."""
    options = [*node.args, *(pair.value for pair in node.kwargs)]
    names = [None] * len(node.args) + [pair.key for pair in node.kwargs]
    arguments = {
        name or ("default_value", "boolean")[index]: option
        for index, (name, option) in enumerate(zip(names, options, strict=True))
    }
    constants = {name: find_constant(option) for name, option in arguments.items()}
    default = constants.get("default_value", ConstantOperand(""))
    boolean = constants.get("boolean", ConstantOperand(False))
    assert node.node is not None
    inner = _operand(node.node)
    if default is None or boolean is None or isinstance(default.value, tuple):
        return None
    if isinstance(inner, ConstantOperand) or inner.default:
        return None
    return _TermOperand(inner.term, (default.value,), bool(boolean.value))


def _truth(operand: _Operand) -> Formula:
    if isinstance(operand, ConstantOperand):
        return Constant(bool(operand.value))
    return Atom(operand.term, "truth", default=operand.default, replaces_false=operand.replaces_false)


def _comparison(node: nodes.Compare) -> Formula:
    """Return the formula of a comparison. `a < b < c` is `a < b and b < c`."""
    sides = [node.expr, *(operand.expr for operand in node.ops)]
    parts = [
        _compare(operand.op, left, right)
        for operand, (left, right) in zip(node.ops, pairwise(sides), strict=True)
    ]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _compare(operator: str, left: nodes.Node, right: nodes.Node) -> Formula:
    if operator in ("ne", "notin"):
        return Not(_compare("eq" if operator == "ne" else "in", left, right))
    left_operand, right_operand = _operand(left), _operand(right)
    if operator == "in":
        return _membership(left_operand, right_operand, left, right)
    if isinstance(left_operand, ConstantOperand) and not isinstance(right_operand, ConstantOperand):
        return _compare(_MIRRORED[operator], right, left)
    if isinstance(right_operand, ConstantOperand) and not isinstance(right_operand.value, tuple):
        if isinstance(left_operand, _TermOperand):
            return _atom(left_operand, "order", operator, (right_operand.value,))
        if not isinstance(left_operand.value, tuple):
            return Constant(compare_constants(operator, left_operand.value, right_operand.value))
    first, second = term_of(left), term_of(right)
    if repr(second) < repr(first):
        first, second, operator = second, first, _MIRRORED[operator]
    return Atom(("?pair", first, second), "pair", operator)


def _membership(
    left_operand: _Operand, right_operand: _Operand, left: nodes.Node, right: nodes.Node
) -> Formula:
    if isinstance(right_operand, ConstantOperand) and isinstance(right_operand.value, tuple):
        if isinstance(left_operand, _TermOperand):
            return _atom(left_operand, "among", "in", right_operand.value)
        if not isinstance(left_operand.value, tuple):
            return Constant(left_operand.value in right_operand.value)
    return Atom(("?bool", "in", term_of(left), term_of(right)), "truth")


def _atom(operand: _TermOperand, test: str, operator: str, constants: tuple[Any, ...]) -> Formula:
    return Atom(operand.term, test, operator, constants, operand.default, operand.replaces_false)


def _test(node: nodes.Test) -> Formula:
    name = node.name.lower() if node.name in ("None", "True", "False") else node.name
    if not node.args and not node.kwargs and name in TYPE_TESTS:
        operand = _operand(node.node)
        if isinstance(operand, _TermOperand):
            return _atom(operand, "type", name, ())
    elif len(node.args) == 1 and not node.kwargs and name in _TESTS:
        return _compare(_TESTS[name], node.node, node.args[0])
    return Atom(("?bool", term_of(node)), "truth")


def term_of(node: nodes.Node) -> Term:
    """Return a term that is equal for two expressions only if they always have the same value."""
    access = find_access_path(node)
    if access is not None:
        return access
    if not isinstance(node, nodes.Filter) or node.name not in ("length", "count"):
        return "?", *_flatten(node)
    measured = find_access_path(node.node) if node.node is not None else None
    return ("?length", measured) if measured is not None else ("?length", *_flatten(node))


def _flatten(node: nodes.Node) -> Iterator[Any]:
    """Yield the syntax of an expression as a flat sequence."""
    stack = [node]
    while stack:
        part = stack.pop()
        access = find_access_path(part)
        if _varies(part, access):
            yield next(_fresh_numbers)
        if access is not None:
            yield access
            continue
        yield type(part).__name__
        for field in part.fields:
            value = getattr(part, field, None)
            if isinstance(value, list):
                yield len(value)
                stack += value
            elif isinstance(value, nodes.Node):
                stack.append(value)
            else:
                yield field, type(value).__name__, value


def _varies(node: nodes.Node, access: AccessPath | None) -> bool:
    """Return whether a node may have a new value at each evaluation."""
    if access is not None:
        return access[0] == "uuid"
    return (isinstance(node, nodes.Filter) and node.name == "random") or (
        isinstance(node, nodes.Const) and node.value == "random"
    )


def find_leaves(formula: Formula) -> Iterator[Atom | Constant]:
    """Yield every atom and every constant of a formula."""
    stack: list[Formula] = [formula]
    while stack:
        match stack.pop():
            case Not(inner):
                stack.append(inner)
            case And(parts):
                stack += parts
            case Conditional(condition, if_true, if_false):
                stack += (condition, if_true, if_false)
            case leaf:
                yield leaf


def is_access(term: Term) -> bool:
    """Return whether a term is a name with its attributes."""
    return not str(term[0]).startswith("?")
