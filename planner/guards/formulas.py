"""Guards as formulas: what the truth of an expression says about the values of its terms.

A term is whatever is not looked into: a name with its attributes, a filter, a sum. The same term has the same value
wherever it stands in the guards of a rule, all of which are read at once; what may give another value every time is a term
of its own wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

from jinja2 import nodes
from noetl.planner.guards.value_classes import TYPE_TESTS, Scalar, compared
from noetl.planner.templates.access_paths import AccessPath, find_access_path

Term = tuple[Any, ...]
"""The access of a name with its attributes; of anything else its syntax, behind a word that begins with `?`."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A test of one term. `test` is `truth`, `order` or `type`, with `operator` and the constants, or `pair`, for which the
    term stands for how two others compare. `instead` is what a term without a value has (`default`), `or_false` what
    a false one has too.
    """

    term: Term
    test: str
    operator: str = ""
    constants: tuple[Any, ...] = ()
    instead: tuple[Any, ...] = ()
    or_false: bool = False


@dataclass(frozen=True, slots=True)
class Not:
    """What is true where the other formula is false."""

    formula: Formula


@dataclass(frozen=True, slots=True)
class All:
    """`and`, of which nothing behind the first false one is looked at."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class If:
    """`a if condition else b`."""

    condition: Formula
    then: Formula
    otherwise: Formula


@dataclass(frozen=True, slots=True)
class Known:
    """What is always true, always false, or always raises (`None`)."""

    value: bool | None


Formula = Literal | Not | All | If | Known

ALWAYS = Known(True)
NEVER = Known(False)
ERROR = Literal(("error",), "truth")
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
_fresh = count()


def formula_of(node: nodes.Node) -> Formula:
    """The formula that is true where the expression is."""
    match node:
        case nodes.Not():
            return Not(formula_of(node.node))
        case nodes.And():
            return All(tuple(map(formula_of, _operands(node))))
        case nodes.Or():
            return Not(All(tuple(Not(formula_of(operand)) for operand in _operands(node))))
        case nodes.CondExpr():
            otherwise = NEVER if node.expr2 is None else formula_of(node.expr2)
            return If(formula_of(node.test), formula_of(node.expr1), otherwise)
        case nodes.Compare():
            return _comparison(node)
        case nodes.Test():
            return _test(node)
    return _truth(_value(node))


def _operands(node: nodes.And | nodes.Or) -> Iterator[nodes.Expr]:
    """The operands of a row of one operator, which the parser nests from the left."""
    rest: list[nodes.Expr] = []
    inner: nodes.Expr = node
    while isinstance(inner, type(node)):
        rest.append(inner.right)
        inner = inner.left
    yield inner
    yield from reversed(rest)


@dataclass(frozen=True, slots=True)
class _Constant:
    value: Scalar | tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Unknown:
    term: Term
    instead: tuple[Any, ...] = ()
    or_false: bool = False


_Value = _Constant | _Unknown


def _value(node: nodes.Node) -> _Value:
    constant = _constant(node)
    if constant is not None:
        return constant
    if isinstance(node, nodes.Filter) and node.name in ("default", "d") and node.node is not None:
        found = _defaulted(node)
        if found is not None:
            return found
    return _Unknown(term_of(node))


def _constant(node: nodes.Node) -> _Constant | None:
    if isinstance(node, nodes.Const) and (node.value is None or isinstance(node.value, str | int | float)):
        return _Constant(node.value)
    if isinstance(node, nodes.Neg | nodes.Pos):
        inner = _constant(node.node)
        if inner is None or not isinstance(inner.value, int | float):
            return None
        return _Constant(-inner.value if isinstance(node, nodes.Neg) else +inner.value)
    if isinstance(node, nodes.List | nodes.Tuple):
        items = [_constant(item) for item in node.items]
        if all(item is not None and not isinstance(item.value, tuple) for item in items):
            return _Constant(tuple(item.value for item in items if item is not None))
    return None


def _defaulted(node: nodes.Filter) -> _Unknown | None:
    """`x | default(constant)`; None where it is more than that."""
    options = [*node.args, *(pair.value for pair in node.kwargs)]
    names = [None] * len(node.args) + [pair.key for pair in node.kwargs]
    given = {
        name or ("default_value", "boolean")[at]: option
        for at, (name, option) in enumerate(zip(names, options, strict=True))
    }
    values = {name: _constant(option) for name, option in given.items()}
    instead, boolean = values.get("default_value", _Constant("")), values.get("boolean", _Constant(False))
    assert node.node is not None
    inner = _value(node.node)
    if instead is None or boolean is None or isinstance(instead.value, tuple) or isinstance(inner, _Constant):
        return None
    return None if inner.instead else _Unknown(inner.term, (instead.value,), bool(boolean.value))


def _truth(value: _Value) -> Formula:
    if isinstance(value, _Constant):
        return Known(bool(value.value))
    return Literal(value.term, "truth", instead=value.instead, or_false=value.or_false)


def _comparison(node: nodes.Compare) -> Formula:
    """`a < b < c` is `a < b and b < c`."""
    sides = [node.expr, *(operand.expr for operand in node.ops)]
    parts = [
        _compared(operand.op, left, right)
        for operand, (left, right) in zip(node.ops, pairwise(sides), strict=True)
    ]
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _compared(operator: str, left: nodes.Node, right: nodes.Node) -> Formula:
    if operator in ("ne", "notin"):
        return Not(_compared("eq" if operator == "ne" else "in", left, right))
    one, other = _value(left), _value(right)
    if operator == "in":
        return _search(one, other, left, right)
    if isinstance(one, _Constant) and not isinstance(other, _Constant):
        return _compared(_MIRRORED[operator], right, left)
    if isinstance(other, _Constant) and not isinstance(other.value, tuple):
        if isinstance(one, _Unknown):
            return _literal(one, "order", operator, (other.value,))
        if not isinstance(one.value, tuple):
            return Known(compared(operator, one.value, other.value))
    first, second = term_of(left), term_of(right)
    if repr(second) < repr(first):
        first, second, operator = second, first, _MIRRORED[operator]
    return Literal(("?pair", first, second), "pair", operator)


def _search(one: _Value, other: _Value, left: nodes.Node, right: nodes.Node) -> Formula:
    if isinstance(other, _Constant) and isinstance(other.value, tuple):
        if isinstance(one, _Unknown):
            return _literal(one, "among", "in", other.value)
        if not isinstance(one.value, tuple):
            return Known(one.value in other.value)
    return Literal(("?bool", "in", term_of(left), term_of(right)), "truth")


def _literal(value: _Value, test: str, operator: str, constants: tuple[Any, ...]) -> Formula:
    assert isinstance(value, _Unknown)
    return Literal(value.term, test, operator, constants, value.instead, value.or_false)


def _test(node: nodes.Test) -> Formula:
    name = node.name.lower() if node.name in ("None", "True", "False") else node.name
    if not node.args and not node.kwargs and name in TYPE_TESTS:
        value = _value(node.node)
        if isinstance(value, _Unknown):
            return _literal(value, "type", name, ())
    elif len(node.args) == 1 and not node.kwargs and name in _TESTS:
        return _compared(_TESTS[name], node.node, node.args[0])
    return Literal(("?bool", term_of(node)), "truth")


def term_of(node: nodes.Node) -> Term:
    """What is the same for two expressions that always have the same value."""
    access = find_access_path(node)
    if access is not None:
        return access
    kind = "?length" if isinstance(node, nodes.Filter) and node.name in ("length", "count") else "?"
    return kind, *_written(node)


def _written(node: nodes.Node) -> Iterator[Any]:
    """The syntax of an expression, flat."""
    stack: list[Any] = [node]
    while stack:
        part = stack.pop()
        if not isinstance(part, nodes.Node):
            yield part
            continue
        access = find_access_path(part)
        if _varies(part, access):
            yield next(_fresh)
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
    """Whether the node gives another value every time, or names what does."""
    if access is not None:
        return access[0] == "uuid"
    return (isinstance(node, nodes.Filter) and node.name == "random") or (
        isinstance(node, nodes.Const) and node.value == "random"
    )


def leaves_of(formula: Formula) -> Iterator[Literal | Known]:
    """Every test and every known part of a formula."""
    stack: list[Formula] = [formula]
    while stack:
        match stack.pop():
            case Not(inner):
                stack.append(inner)
            case All(parts):
                stack += parts
            case If(condition, then, otherwise):
                stack += (condition, then, otherwise)
            case leaf:
                yield leaf


def is_plain(term: Term) -> bool:
    """Whether the term is a name with its attributes."""
    return not str(term[0]).startswith("?")
