"""The Jinja2 environment of all expressions, with allow-lists of what they may use.

Problem: playbooks come from untrusted authors. An expression must not reach Python objects such as
`__class__`, must not modify its inputs, and must not exhaust the machine. The sandbox of Jinja2 prevents the
first two, not the third.

Algorithm: fail-safe defaults (Saltzer and Schroeder 1975): allow-lists on top of
`ImmutableSandboxedEnvironment`. `getattr` returns keys of mappings, the attributes in `_METHODS`, and
replacements for `replace` and `join` of texts, nothing else. `ALLOWED_NODES` excludes macros, imports and
inheritance. All operations that can create a large value or run long charge the budget first (see `budget`,
and `evaluator` for operators).

Cost: one allow-list lookup per attribute, and the charges.

Limits: those of `budget`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import cached_property, partial
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.lexer import Lexer
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import _PassArg, missing

from noetl.planner.templates.attributes import map_items
from noetl.planner.templates.budget import (
    HASH_BOUND,
    MAPPING_UNITS,
    MAX_ITEMS,
    SCALARS,
    SHORT,
    LimitExceeded,
    charge,
    charge_comparison,
    charge_items,
    charge_search,
    charge_text,
    contains,
    read_items,
    to_charged_text,
)
from noetl.planner.templates.code_generator import ChargingGenerator
from noetl.planner.templates.filter_costs import (
    CASE_CHARACTER_UNITS,
    CASE_METHODS,
    CHARACTER_PAIRS_PER_UNIT,
    case_units,
    change_case,
    charge_filter,
    is_long_wide_text,
)
from noetl.planner.templates.filters import FILTERS, REPLACED_FILTERS, join_texts, replace
from noetl.planner.templates.functions import Function, describe, show_name
from noetl.planner.templates.operators import modulo


class SandboxUndefined(StrictUndefined):
    """The value of an undefined name. Every use fails, except `is defined` and `default`."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        shown = show_name(self._undefined_name)
        if self._undefined_obj is missing:
            return f"`{shown}` is undefined"
        return f"`{shown}` is undefined in {describe(self._undefined_obj)}"


class OffsetLexer(Lexer):
    """A lexer that numbers tokens by their offset in the text, not by their line.

    So `lineno` of a node is its offset.
    """

    def tokeniter(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> Iterator[tuple[int, str, str]]:
        offset = 0
        try:
            for _, token, value in super().tokeniter(source, name, filename, state):
                start = source.find(value, offset)
                offset = start if start >= 0 else offset
                yield offset, token, value
                offset += len(value)
        except TemplateSyntaxError as error:
            message = error.message or ""
            suffix = re.search(r" at ([0-9]+)$", message)
            error_offset = int(suffix[1]) if suffix else offset
            raise TemplateSyntaxError(message[: suffix.start() if suffix else None], error_offset) from None


_TEXT_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "count",
        "endswith",
        "find",
        "index",
        "isalnum",
        "isalpha",
        "isascii",
        "isdecimal",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
    ]
)
_TIME_ATTRIBUTES = frozenset(
    [
        "year",
        "month",
        "day",
        "hour",
        "minute",
        "second",
        "microsecond",
        "isoformat",
        "timestamp",
        "weekday",
        "isoweekday",
        "date",
    ]
)
_LOOP_ATTRIBUTES = frozenset(
    [
        "index",
        "index0",
        "revindex",
        "revindex0",
        "first",
        "last",
        "length",
        "previtem",
        "nextitem",
        "depth",
        "cycle",
    ]
)
_METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (Mapping, frozenset({"get", "items", "keys", "values"})),
    (str, _TEXT_METHODS),
    (list, frozenset({"count", "index"})),
    (tuple, frozenset({"count", "index"})),
    (datetime, _TIME_ATTRIBUTES),
    (date, frozenset({"year", "month", "day", "isoformat", "weekday", "isoweekday"})),
    (LoopContext, _LOOP_ATTRIBUTES),
)
CALLABLE_ATTRIBUTES = _TEXT_METHODS.union(
    ("cycle", "date", "get", "isoformat", "isoweekday", "items", "join", "keys", "replace", "timestamp"),
    ("values", "weekday"),
)
"""The attributes that may be called: the methods in `_METHODS`, and those that the sandbox replaces."""


JINJA_FILTERS = (
    "abs", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape",
    "filesizeformat", "first", "float", "forceescape", "groupby", "indent", "int", "items", "join", "last",
    "length", "list", "lower", "map", "max", "min", "random", "reject", "rejectattr", "replace", "reverse",
    "round", "safe", "select", "selectattr", "slice", "sort", "string", "striptags", "title", "trim",
    "truncate", "unique", "upper", "urlencode", "wordcount", "wordwrap",
)  # fmt: skip
"""The filters of Jinja2 that expressions may use. Filters of later versions need a charge first."""

JINJA_TESTS = (
    "!=", "<", "<=", "==", ">", ">=", "boolean", "callable", "defined", "divisibleby", "eq", "equalto",
    "escaped", "even", "false", "filter", "float", "ge", "greaterthan", "gt", "in", "integer", "iterable",
    "le", "lessthan", "lower", "lt", "mapping", "ne", "none", "number", "odd", "sameas", "sequence", "string",
    "test", "true", "undefined", "upper",
)  # fmt: skip
"""The tests of Jinja2 that expressions may use."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that planner and executor share. `SANDBOX` is its only instance."""

    code_generator_class = ChargingGenerator

    def __init__(self) -> None:
        super().__init__(
            undefined=SandboxUndefined,
            optimized=False,
            keep_trailing_newline=True,
            cache_size=0,
        )
        self.globals = {"range": Function(_range), "dict": Function(_dict)}
        functions = self.filters | {"map": map_items}
        self.filters = {name: charge_filter(name, functions[name]) for name in JINJA_FILTERS}
        self.filters |= REPLACED_FILTERS | FILTERS
        self.tests = {name: self.tests[name] for name in JINJA_TESTS}
        self.tests |= {name: _charge_text_test(self.tests[name]) for name in ("lower", "upper")}
        self.tests |= {
            "in": contains,
            "divisibleby": lambda value, divisor: modulo(value, divisor) == 0,
            "even": lambda value: _remainder_of_two("even", value) == 0,
            "odd": lambda value: _remainder_of_two("odd", value) == 1,
            "filter": lambda value: isinstance(value, str) and value in self.filters,
            "test": lambda value: isinstance(value, str) and value in self.tests,
        }
        compared = {name: _charge_operand(self.tests[name]) for name in _COMPARISON_TESTS}
        accept_undefined = {"defined", "undefined"}
        self.tests |= {
            name: _require_defined(test) for name, test in self.tests.items() if name not in accept_undefined
        }
        self.tests |= compared
        self.tests |= {word.capitalize(): self.tests[word] for word in ("none", "true", "false")}

    @cached_property
    def lexer(self) -> Lexer:
        return OffsetLexer(self)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict or isinstance(obj, Mapping):
            try:
                return obj[attribute]
            except KeyError:
                pass
        elif isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        if isinstance(obj, str) and attribute in ("replace", "join"):
            function = replace if attribute == "replace" else join_texts
            return Function(partial(function, obj))
        for type_, names in _METHODS:
            if isinstance(obj, type_):
                if attribute in names:
                    value = getattr(obj, attribute)
                    if isinstance(obj, str | list | tuple):
                        value = _charge_method(obj, attribute, value)
                    elif attribute == "get":
                        value = _charge_key(value)
                    return Function(value) if callable(value) else value
                break
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        kind = type(argument)
        if kind is not str and kind is not int:
            charge_comparison(argument)
        try:
            return obj[argument]  # fails if `obj` is undefined
        except (LookupError, TypeError):
            if kind is str:
                return self.getattr(obj, argument)
            return self.undefined(obj=obj, name=argument)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if type(function) is Function:
            return function.function(*args, **kwargs)
        if isinstance(function, Undefined):
            function._fail_with_undefined_error()
        raise TypeError(f"{describe(function)} cannot be called")


def _charge_key(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method of a mapping with charges for the hash of its key."""
    return lambda key, *args: method(charge_comparison(key), *args)


def _charge_method(obj: Any, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method of a text or list with charges: it reads the whole value and may create a copy."""

    def charged(*args: Any) -> Any:
        if not isinstance(obj, str):
            charge_comparison(obj)
        elif name in CASE_METHODS and not args and is_long_wide_text(obj):
            return change_case(obj, name)
        elif len(obj) > SHORT:
            charge(_method_units(obj, name))
        for arg in args:
            charge_comparison(arg)
        if isinstance(obj, str) and args and isinstance(args[0], str):
            _charge_argument(obj, name, *args)
        if name in ("split", "rsplit") and len(args) < 3:
            max_splits = args[1] if len(args) == 2 else -1
            args = (args[0] if args else None, min(max_splits, MAX_ITEMS) if max_splits >= 0 else MAX_ITEMS)
            charge_items(min(_count_parts(obj, args[0]), args[1] + 1), PART_UNITS)
        elif name == "splitlines":
            charge(len(_LINE_BREAKS) // 2 * len(obj))
            charge_items(1 + _count(obj, _LINE_BREAKS), PART_UNITS)
        result = method(*args) if name != "index" or isinstance(obj, str) else _find_item(obj, *args)
        if isinstance(result, str) and len(result) > SHORT:
            charge_text(len(result), is_ascii=result.isascii())
        elif isinstance(result, tuple):
            charge(len(obj))
        return result

    return charged


def _charge_argument(text: str, name: str, wanted: str, *bounds: Any) -> None:
    """Charge for a method that searches a text for another one, or strips its characters."""
    if name in _STRIPPING_METHODS:
        charge(len(text) * len(wanted) // CHARACTER_PAIRS_PER_UNIT)
    elif name in _FINDING_METHODS and len(text) > SHORT:
        is_split = name in ("split", "rsplit")
        length = None
        if bounds and not is_split:
            start, end = (*bounds, None)[:2]
            length = len(range(*slice(start, end).indices(len(text))))
        searches = 2 if is_split else 1
        charge_search(text, wanted, length=length, from_end=name.startswith("r"), searches=searches)


def _method_units(text: str, name: str) -> int:
    """Return the price of a method of a text for its characters."""
    if name in _SEARCHING_METHODS:
        return len(text)
    return CASE_CHARACTER_UNITS * len(text) if name.startswith("is") else case_units(text)


def _find_item(items: Sequence[Any], *args: Any) -> int:
    """Return the index of an item, as the method `index` of a list does.

    The message of a list for a missing item shows the whole item, which may be anything. That of a tuple does
    not.

    Raises:
        ValueError: it is missing.
    """
    try:
        return tuple(items).index(*args)
    except ValueError:
        raise ValueError(f"the list does not contain `{show_name(args[0])}`") from None


PART_UNITS = 64
"""The price of a part of a text that was split: the part, and its place in the list."""
_SPACES = " \t\n\r\v\f\x1c\x1d\x1e\x1f"
_LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _count(text: str, characters: str) -> int:
    return sum(map(text.count, characters))


def _count_parts(text: str, separator: object) -> int:
    """Return an upper bound for the number of parts of a text."""
    if isinstance(separator, str) and separator:
        return 1 + text.count(separator)
    return 1 + (_count(text, _SPACES) if text.isascii() else len(text) // 2)


_STRIPPING_METHODS = frozenset({"lstrip", "rstrip", "strip"})
"""The methods that may compare each character of the text with each character of their argument."""

_FINDING_METHODS = frozenset(
    ["count", "find", "index", "partition", "rfind", "rindex", "rpartition", "rsplit", "split"]
)
"""The methods that search the text for their argument."""

_SEARCHING_METHODS = frozenset(
    [
        "endswith",
        "find",
        "index",
        "isascii",
        "partition",
        "removeprefix",
        "removesuffix",
        "rfind",
        "rindex",
        "rpartition",
        "startswith",
    ]
)
"""The methods that compare or copy many characters at once. All others convert or check each character."""

ENTRY_UNITS = 64


COLLISION_UNITS = 8
"""The price of the comparison of two keys of an object that may have the same hash."""

MAX_RANGE_BITS = 64
"""How many bits a number of `range` may have, so that each number has a constant price."""


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if max(bound.bit_length() for bound in bounds) > MAX_RANGE_BITS:
        raise LimitExceeded("a number of `range` is too large")
    charge_items(len(numbers))
    return numbers


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    parts = [arg if isinstance(arg, Mapping) else charge_comparison(read_items(arg)) for arg in args]
    charge(MAPPING_UNITS + ENTRY_UNITS * (len(kwargs) + sum(map(len, parts))))
    for part in parts:
        if not isinstance(part, Mapping):
            unusual = sum(map(_may_collide, part))
            charge(COLLISION_UNITS * unusual * unusual)
    return dict(*parts, **kwargs)


def _may_collide(pair: Any) -> bool:
    """Return whether the key of a pair may be one of many that have the same hash."""
    key = pair[0] if isinstance(pair, list | tuple) and pair else None
    return not (key is None or type(key) in _SAFE_KEYS or (type(key) is int and abs(key) < HASH_BOUND))


_SAFE_KEYS = frozenset({str, float, bool})
"""The types of keys of which few may have one hash, whatever an author chooses."""


_COMPARISON_TESTS = frozenset(
    [
        "==",
        "eq",
        "equalto",
        "!=",
        "ne",
        ">",
        "gt",
        "greaterthan",
        "ge",
        ">=",
        "<",
        "lt",
        "lessthan",
        "<=",
        "le",
    ]
)


def _charge_operand(test: Any) -> Any:
    """Return the built-in comparison with a charge for one operand, unless either is a scalar.

    A comparison with an undefined value fails without help.
    """

    def compare(left: Any, right: Any) -> Any:
        if type(right) not in SCALARS and type(left) not in SCALARS:
            charge_comparison(right)
        return test(left, right)

    return compare


def _remainder_of_two(name: str, value: Any) -> Any:
    if isinstance(value, str):
        raise TypeError(f"`is {name}` needs a number, not a text")
    return modulo(value, 2)


def _charge_text_test(test: Any) -> Any:
    """Return the built-in test of a text with charges for the conversion to text."""

    def check(value: Any) -> Any:
        text = value if type(value) is str else to_charged_text(value)
        if len(text) > SHORT:
            charge(CASE_CHARACTER_UNITS * len(text))
        return test(text)

    return check


def _require_defined(test: Any) -> Any:
    """Return the test so that undefined operands fail.

    Jinja2 lets `x is none` be false for an undefined `x`.
    """

    def checked(*args: Any) -> Any:
        for value in args:
            if isinstance(value, Undefined):
                value._fail_with_undefined_error()
        return test(*args)

    marker = _PassArg.from_obj(test)
    if marker is not None:
        checked.jinja_pass_arg = marker  # type: ignore[attr-defined]
    return checked


FUNCTIONS = frozenset({"range", "dict", "now", "uuid"})
"""The names that may be called. The caller of the evaluation provides `now` and `uuid`."""

ALLOWED_NODES: frozenset[type[nodes.Node]] = frozenset(
    {
        nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr,
        nodes.Getitem, nodes.Slice, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword,
        nodes.Filter, nodes.Test, nodes.Call, nodes.CondExpr, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div,
        nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos,
        nodes.Compare, nodes.Operand, nodes.Concat, nodes.For, nodes.If, nodes.Assign, nodes.With,
    }
)  # fmt: skip

SANDBOX = Sandbox()
"""The environment of all templates."""
