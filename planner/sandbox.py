"""The one Jinja2 environment: an allow-list of what expressions can reach, each part of it charged to the budget.

Jinja2's own sandbox stops escapes and not bombs (`'x' * 10**9`), so here every operation that can make a value larger,
or take long in one go, is charged before it is done.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.filters import make_attrgetter, make_multi_attrgetter
from jinja2.lexer import Lexer
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import _PassArg, missing, pass_environment

from planner.budget import (
    LIST,
    LIST_ITEM,
    MAPPING,
    MAX_ITEMS,
    LimitExceeded,
    bounded,
    built,
    charge,
    charge_bits,
    charge_items,
    charge_order,
    charge_search,
    charge_text,
    concatenated,
    copied,
    loop_items,
    measure,
    measured_text,
    reading,
    rehearsed,
    searched,
    weighed,
)

MAX_PATTERN = 1_000
MAX_REPETITIONS = 10_000
MAX_TIME_TEXT = 200
REGEX_SECONDS = 1.0

JSON_VALUE = 32
"""What a value costs that is read from JSON, on top of its letters; a list or object costs twice that."""
LINE = 512
WORD = 32
TITLE_LETTER = 16
STRIPPED_LETTER = 4
PAIRS_AT_ONCE = 64
"""How many letters are compared with how many others for a unit, where each may have to be compared with each."""

LOOP_ITEMS = "noetl bounded"
CONCATENATE = "noetl concatenate"
WEIGHED = "noetl weighed"
SEARCHED = "noetl searched"
BUILT = "noetl built"
COPIED = "noetl copied"


class Raw(str):
    """Text that a sink takes as it is."""

    __slots__ = ()


class Identifier(str):
    """The name of a table or column, which an SQL sink quotes as such."""

    __slots__ = ()


def describe(value: object) -> str:
    """What a value is, in the words of a playbook's author."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        keys = [str(key) for key in list(value)[:8]]
        return f"an object with {', '.join(f'`{key}`' for key in keys)}" if keys else "an empty object"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


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


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text, old, new = measured_text(text), measured_text(old), measured_text(new)
    times = text.count(old) if count is None or count < 0 else min(text.count(old), count)
    charge_text(len(text) + times * max(len(new) - len(old), 0))
    replaced: str = text.replace(old, new, -1 if count is None else count)
    return replaced


def _join_method(separator: str, items: Iterable[str]) -> str:
    return concatenated(bounded(items), separator)


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
    ["index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem", "depth", "cycle"]
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


def _multiply(left: Any, right: Any) -> Any:
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str) and isinstance(times, int):
            charge_text(len(sequence) * max(times, 0))
        elif isinstance(sequence, list | tuple) and isinstance(times, int):
            charge_items(len(sequence) * max(times, 0), LIST_ITEM)
    if isinstance(left, int) and isinstance(right, int):
        charge_bits(left.bit_length() + right.bit_length())
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        charge_bits(left.bit_length() * max(right, 0))
    return left**right


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        charge_text(len(left) + len(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        charge_items(len(left) + len(right), LIST_ITEM)
    return left + right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise TypeError("`%` takes numbers; put texts together with `~`")
    return left % right


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {"*": _multiply, "**": _power, "+": _add, "%": _modulo}


def _measured(value: Any) -> Any:
    if isinstance(value, list | tuple | Mapping | ValuesView | KeysView | ItemsView):
        measure(value)
    return value


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that planner and executor share."""

    intercepted_binops = frozenset(_OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            undefined=Missing, optimized=False, keep_trailing_newline=True, cache_size=0, finalize=_measured
        )
        self.globals = {"range": _range, "dict": _dict}
        for name in ("attr", "format", "pprint", "urlize", "xmlattr"):
            del self.filters[name]
        for name, function in list(self.filters.items()):
            self.filters[name] = _charged(self, name, function)
        self.filters.update(_FILTERS)
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
            function = _replace if attribute == "replace" else _join_method
            return lambda *args: function(obj, *args)
        for type_, names in _METHODS:
            if isinstance(obj, type_):
                if attribute in names:
                    found = getattr(obj, attribute)
                    return _charged_method(obj, attribute, found) if isinstance(obj, str | list | tuple) else found
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
        return _OPERATORS[operator](left, right)


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
    ["==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", "ge", ">=", "<", "lt", "lessthan", "<=", "le"]
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


def _charged(environment: Sandbox, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The built-in filter, its arguments and result held to the limits."""
    marker = _PassArg.from_obj(function)
    skip = 1 if marker is not None else 0

    def charged(*args: Any, **kwargs: Any) -> Any:
        value = args[skip] if len(args) > skip else None
        options = (*args[skip + 1 :], *kwargs.values())
        if isinstance(value, Iterator):
            value = list(bounded(value)) if name in _ORDERING else bounded(value)
            args = (*args[:skip], value, *args[skip + 1 :])
        elif isinstance(value, str | list | tuple | Mapping | ValuesView | KeysView | ItemsView):
            charge(len(value))
        if name in _TEXTUAL:
            for part in (value, *options):
                measure(part)
        if name in _WIDENING:
            charge_text(_WIDENING[name](value, options))
        if name in _PRICES:
            _PRICES[name](environment, *args[skip:], **kwargs)
        if name == "replace":
            return _replace(value, *options)
        if name == "join":
            return _join(environment, *args[skip:], **kwargs)
        result = function(*args, **kwargs)
        if isinstance(result, str):
            charge_text(len(result))
        elif isinstance(result, list | tuple):
            charge_items(len(result), LIST_ITEM)
        elif isinstance(result, int):
            charge_bits(result.bit_length())
        return result

    if marker is not None:
        charged.jinja_pass_arg = marker  # type: ignore[attr-defined]
    return charged


_TEXTUAL = frozenset(
    [
        "capitalize",
        "center",
        "e",
        "escape",
        "forceescape",
        "indent",
        "lower",
        "safe",
        "string",
        "striptags",
        "title",
        "trim",
        "truncate",
        "upper",
        "urlencode",
        "wordcount",
        "wordwrap",
    ]
)
"""The filters that make a text of whatever they are given."""


def _widest(options: tuple[Any, ...]) -> int:
    return max((o if isinstance(o, int) else len(o) for o in options if isinstance(o, int | str)), default=4)


def _indented(value: Any, options: tuple[Any, ...]) -> int:
    return (str(value).count("\n") + 1) * _widest(options)


def _wrapped(value: Any, options: tuple[Any, ...]) -> int:
    return len(str(value)) * max((len(o) for o in options if isinstance(o, str)), default=1)


_WIDENING: dict[str, Callable[[Any, tuple[Any, ...]], int]] = {
    "center": lambda _, options: _widest(options),
    "indent": _indented,
    "batch": lambda _, options: _widest(options),
    "slice": lambda _, options: _widest(options),
    "truncate": lambda _, options: _widest(options),
    "wordwrap": _wrapped,
}


_LINE_ENDS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_SEPARATORS = re.compile(r"[\s-]+")


def _wrapping(
    environment: Sandbox, text: Any, width: Any = 79, break_long_words: bool = True, *_: Any, **__: Any
) -> None:
    if not isinstance(text, str) or not isinstance(width, int):
        return
    charge(LINE * (1 + len(text) - len(_LINE_ENDS.sub("", text))) + WORD * (len(text) - len(_SEPARATORS.sub("", text))))
    width = max(width, 1)
    if break_long_words and width < len(text):
        for word in re.finditer(rf"\S{{{width + 1},}}", text):
            # Of what is left of a word a copy is made for each line.
            length = len(word[0])
            charge(WORD * length // width + length * length // (512 * width))


def _letters(each: int) -> Callable[..., None]:
    return lambda _, text, *__, **___: charge(each * len(measured_text(text)))


def _trimming(environment: Sandbox, text: Any, chars: Any = None) -> None:
    if isinstance(chars, str):
        charge(len(measured_text(text)) * len(chars) // PAIRS_AT_ONCE)


def _rounding(environment: Sandbox, value: Any, precision: Any = 0, *_: Any, **__: Any) -> None:
    if isinstance(precision, int):
        charge_bits(4 * precision)


def _listing(environment: Sandbox, value: Any) -> None:
    if isinstance(value, str):
        charge_items(len(value), LIST_ITEM)


def _keys(value: Any, attribute: Any, getter: Callable[[Any], Any]) -> list[Any]:
    """What values are put in order by, as given."""
    if attribute is None and isinstance(value, list):
        return value
    with rehearsed():
        return list(bounded(value) if attribute is None else map(getter, bounded(value)))


def _sorting(
    environment: Sandbox, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None
) -> None:
    charge_order(_keys(value, attribute, make_multi_attrgetter(environment, attribute)), sorted=True)


def _grouping(
    environment: Sandbox, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False
) -> None:
    charge_order(_keys(value, attribute, make_attrgetter(environment, attribute, default=default)), sorted=True)


def _choosing(environment: Sandbox, value: Any, case_sensitive: bool = False, attribute: Any = None) -> None:
    charge_order(_keys(value, attribute, make_attrgetter(environment, attribute)), sorted=False)


def _sorting_keys(
    environment: Sandbox, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> None:
    charge_order(list(value.values() if by == "value" else value), sorted=True)


_ORDERING = frozenset({"groupby", "max", "min", "sort", "unique"})

_PRICES: dict[str, Callable[..., None]] = {
    "dictsort": _sorting_keys,
    "groupby": _grouping,
    "list": _listing,
    "max": _choosing,
    "min": _choosing,
    "round": _rounding,
    "sort": _sorting,
    "striptags": _letters(STRIPPED_LETTER),
    "title": _letters(TITLE_LETTER),
    "trim": _trimming,
    "unique": _choosing,
    "wordwrap": _wrapping,
}
"""What charges for a filter before it works, given what the filter is given."""


def _join(environment: Sandbox, value: Any, d: Any = "", attribute: Any = None) -> str:
    parts = bounded(value)
    return concatenated(
        parts if attribute is None else map(make_attrgetter(environment, attribute), parts), measured_text(d)
    )


@pass_environment
def _sum(environment: Sandbox, items: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """The sum of numbers, or one list of many."""
    found = bounded(items)
    parts = found if attribute is None else map(make_attrgetter(environment, attribute), found)
    if not isinstance(start, list):
        for part in parts:
            start = _add(start, part)
        return start
    whole = list(start)
    for part in parts:
        whole += bounded(part)
        if len(whole) > MAX_ITEMS:
            charge_items(len(whole))
    return whole


def _to_json(value: Any, indent: int | None = None) -> str:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if indent is not None and not 0 <= indent <= 16:
        raise ValueError("`tojson` indents by 0 to 16")
    measure(value, indent or 0)
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False, default=_json_default)
    charge_text(len(text))
    return text


def _json_default(value: object) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(bounded(value))
    raise TypeError(f"{describe(value)} cannot be written as JSON")


def _from_json(text: str) -> Any:
    # Counted in the text, because what it says is made in one go.
    values = text.count(",") + 2 * (text.count("[") + text.count("{"))
    charge(len(text) + JSON_VALUE * values)
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _b64encode(value: str) -> str:
    raw = measured_text(value).encode()
    charge_text(4 * len(raw) // 3)
    return base64.b64encode(raw).decode()


def _b64decode(value: str) -> str:
    charge_text(len(value))
    return base64.b64decode(value, validate=True).decode()


def _sha256(value: str) -> str:
    raw = measured_text(value).encode()
    charge(len(raw))
    return hashlib.sha256(raw).hexdigest()


def _regex_search(text: str, pattern: str) -> Any:
    """The first match: its groups as a list, or the whole match when the pattern has no groups, or none."""
    _check_pattern(pattern)
    charge(len(text))
    import regex

    try:
        match = regex.search(pattern, text, timeout=REGEX_SECONDS)
    except (regex.error, TimeoutError) as problem:
        raise _regex_problem(pattern, problem) from None
    if match is None:
        return None
    return list(match.groups()) if match.re.groups else match.group()


def _regex_replace(text: str, pattern: str, replacement: str = "") -> str:
    _check_pattern(pattern)
    import regex

    try:
        matches = sum(1 for _ in regex.finditer(pattern, text, timeout=REGEX_SECONDS))
        charge_text(len(text) + matches * (len(replacement) + len(text) * replacement.count("\\")))
        return regex.sub(pattern, replacement, text, timeout=REGEX_SECONDS)
    except (regex.error, TimeoutError) as problem:
        raise _regex_problem(pattern, problem) from None


def _check_pattern(pattern: str) -> None:
    """Compiling a pattern is not under its time limit, so its size is bounded, with bounded repetitions written out."""
    repetitions = math.prod(max(int(number), 1) for number in re.findall(r"(\d+)\s*\}", pattern)[:100])
    if len(pattern) > MAX_PATTERN or repetitions > MAX_REPETITIONS:
        raise LimitExceeded("the pattern is too large")


def _regex_problem(pattern: str, problem: Exception) -> Exception:
    if isinstance(problem, TimeoutError):
        return LimitExceeded(f"the pattern {pattern!r} takes longer than {REGEX_SECONDS:g} s")
    return ValueError(f"{pattern!r} is not a pattern: {problem}")


def _to_datetime(value: str | float | datetime, pattern: str | None = None) -> datetime:
    """A time from ISO 8601 text, from text in the `strptime` pattern given, or from seconds since the epoch; UTC unless it says."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value
    if len(value) > MAX_TIME_TEXT or len(pattern or "") > MAX_TIME_TEXT:
        raise LimitExceeded("the text or the pattern of `to_datetime` is too long")
    moment = datetime.strptime(value, pattern) if pattern else datetime.fromisoformat(value)  # noqa: DTZ007 - below
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _strftime(value: str | float | datetime, pattern: str) -> str:
    if len(pattern) > MAX_TIME_TEXT:
        raise LimitExceeded("the pattern of `strftime` is too long")
    return _to_datetime(value).strftime(pattern)


_FILTERS: dict[str, Callable[..., Any]] = {
    "identifier": lambda value: Identifier(copied(measured_text(value))),
    "raw": lambda value: Raw(copied(measured_text(value))),
    "tojson": _to_json,
    "fromjson": _from_json,
    "b64encode": _b64encode,
    "b64decode": _b64decode,
    "sha256": _sha256,
    "regex_search": _regex_search,
    "regex_replace": _regex_replace,
    "to_datetime": _to_datetime,
    "strftime": _strftime,
    "sum": _sum,
    LOOP_ITEMS: loop_items,
    WEIGHED: weighed,
    SEARCHED: searched,
    BUILT: built,
    COPIED: copied,
    CONCATENATE: concatenated,
}

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
