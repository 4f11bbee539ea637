"""The one Jinja2 environment: an allow-list of what expressions can reach, each part of it charged to the budget.

Jinja2's own sandbox stops escapes and not bombs (`'x' * 10**9`), so here every operation that can make a value larger,
or take long in one go, is charged before it is done.
"""

from __future__ import annotations

import re
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from datetime import date, datetime
from functools import cached_property
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.lexer import Lexer
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import _PassArg, missing
from noetl.planner.templates.budget import (
    LIST,
    LIST_ITEM,
    MAPPING,
    MAX_ITEMS,
    charge,
    charge_items,
    charge_search,
    charge_text,
    measure,
    measured_text,
    reading,
    weighed,
)
from noetl.planner.templates.filter_costs import PAIRS_AT_ONCE, charged_filter
from noetl.planner.templates.filters import FILTERS, describe, join_texts, replace
from noetl.planner.templates.operators import OPERATORS


class Missing(StrictUndefined):
    """A name without a value: any use but `is defined` and `default` fails."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_obj is missing:
            return f"`{self._undefined_name}` has no value here"
        return f"there is no `{self._undefined_name}` in {describe(self._undefined_obj)}"


class OffsetLexer(Lexer):
    """Numbers tokens by the offset at which they start instead of their line, so that nodes know their place exactly."""

    def tokeniter(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> Iterator[tuple[int, str, str]]:
        offset = 0
        try:
            for _, token, value in super().tokeniter(source, name, filename, state):
                found = source.find(value, offset)
                offset = found if found >= 0 else offset
                yield offset, token, value
                offset += len(value)
        except TemplateSyntaxError as error:
            message = error.message or ""
            place = re.search(r" at ([0-9]+)$", message)
            at = int(place[1]) if place else offset
            raise TemplateSyntaxError(message[: place.start() if place else None], at) from None


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


def _measured(value: Any) -> Any:
    if isinstance(value, list | tuple | Mapping | ValuesView | KeysView | ItemsView):
        measure(value)
    return value


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that planner and executor share."""

    intercepted_binops = frozenset(OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            undefined=Missing, optimized=False, keep_trailing_newline=True, cache_size=0, finalize=_measured
        )
        self.globals = {"range": _range, "dict": _dict}
        for name in ("attr", "format", "pprint", "urlize", "xmlattr"):
            del self.filters[name]
        for name, function in list(self.filters.items()):
            self.filters[name] = charged_filter(self, name, function)
        self.filters.update(FILTERS)
        self.tests |= {name: _comparing(self.tests[name]) for name in _COMPARING}
        self.tests |= {name: _of_text(self.tests[name]) for name in ("lower", "upper")}
        self.tests["in"] = _is_in
        asking = {"defined", "undefined"}
        self.tests |= {name: _of_value(test) for name, test in self.tests.items() if name not in asking}
        self.tests |= {word.capitalize(): self.tests[word] for word in ("none", "true", "false")}

    @cached_property
    def lexer(self) -> Lexer:
        return OffsetLexer(self)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        if isinstance(obj, Mapping):
            try:
                return obj[attribute]
            except KeyError:
                pass
        if isinstance(obj, str) and attribute in ("replace", "join"):
            function = replace if attribute == "replace" else join_texts
            return lambda *args: function(obj, *args)
        for type_, names in _METHODS:
            if isinstance(obj, type_):
                if attribute in names:
                    found = getattr(obj, attribute)
                    return (
                        _charged_method(obj, attribute, found)
                        if isinstance(obj, str | list | tuple)
                        else found
                    )
                break
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        try:
            return obj[argument]
        except (LookupError, TypeError):
            if isinstance(argument, str):
                return self.getattr(obj, argument)
            return self.undefined(obj=obj, name=argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return OPERATORS[operator](left, right)


def _charged_method(obj: Any, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method of a text or list, which reads all of it and may make as much again."""

    def charged(*args: Any) -> Any:
        charge(len(obj) if isinstance(obj, str) else reading(obj))
        for arg in args:
            weighed(arg)
        if name in _SLOW_METHODS and args and isinstance(args[0], str):
            charge(len(obj) * len(args[0]) // PAIRS_AT_ONCE)
        if name in ("split", "rsplit") and len(args) < 3:
            most = args[1] if len(args) == 2 else -1
            args = (args[0] if args else None, min(most, MAX_ITEMS) if most >= 0 else MAX_ITEMS)
        if name == "splitlines":
            charge_items(obj.count("\n") + obj.count("\r"), LIST)
        result = method(*args)
        if isinstance(result, list | tuple):
            charge_items(len(result), LIST)
        elif isinstance(result, str):
            charge_text(len(result))
        return result

    return charged


_SLOW_METHODS = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})
"""The methods of texts that may compare each letter with each of their argument."""


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    charge_items(len(numbers))
    return numbers


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = dict(*args, **kwargs)
    charge(MAPPING + 2 * LIST_ITEM * len(made))
    return made


_COMPARING = frozenset(
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


def _comparing(test: Any) -> Any:
    """The built-in test, its operands charged for."""
    return lambda left, right: test(weighed(left), weighed(right))


def _of_text(test: Any) -> Any:
    """The built-in test of a text, which may be made for it."""
    return lambda value: test(measured_text(value))


def _of_value(test: Any) -> Any:
    """The test, which fails where there is no value. Jinja2 has it that what is not there is, say, not none."""

    def asked(*args: Any) -> Any:
        for value in args:
            if isinstance(value, Undefined):
                value._fail_with_undefined_error()
        return test(*args)

    marker = _PassArg.from_obj(test)
    if marker is not None:
        asked.jinja_pass_arg = marker  # type: ignore[attr-defined]
    return asked


def _is_in(value: Any, where: Any) -> bool:
    charge_search(value, where)
    return value in where


FUNCTIONS = frozenset({"range", "dict", "now", "uuid"})
"""The names that may be called. `now` and `uuid` are given by whoever evaluates."""

ALLOWED_NODES: frozenset[type[nodes.Node]] = frozenset(
    {
        nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.NSRef, nodes.Const, nodes.Getattr,
        nodes.Getitem, nodes.Slice, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.Filter,
        nodes.Test, nodes.Call, nodes.CondExpr, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod,
        nodes.Pow, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Compare, nodes.Operand, nodes.Concat,
        nodes.For, nodes.If, nodes.Assign, nodes.With,
    }
)  # fmt: skip

SANDBOX = Sandbox()
"""The one environment of all templates."""
