"""The one Jinja2 environment: an allow-list of what expressions can reach, and a budget for what they may cost.

Jinja2's own sandbox stops escapes and not bombs (`'x' * 10**9`), so here every operation that can make a value larger
is charged before it is done, against a budget that each evaluation gets anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import TemplateRuntimeError, TemplateSyntaxError
from jinja2.filters import make_attrgetter
from jinja2.lexer import Lexer
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing, pass_environment

MAX_TEXT = 8 * 1024 * 1024
MAX_ITEMS = 1_000_000
BUDGET = 64 * 1024 * 1024
LOOP_ROUND = 32
LIST_ITEM = 8
CPU_SECONDS = 3.0
MAX_PATTERN = 1_000
MAX_REPETITIONS = 10_000
MAX_INTEGER_BITS = 4096
REGEX_SECONDS = 1.0

LOOP_ITEMS = "noetl bounded"
CONCATENATE = "noetl concatenate"
WEIGHED = "noetl weighed"
BUILT = "noetl built"


class LimitExceeded(TemplateRuntimeError):
    """An expression would make a value larger, or take longer, than it may."""


class Raw(str):
    """Text that a sink takes as it is."""

    __slots__ = ()


class Identifier(str):
    """The name of a table or column, which an SQL sink quotes as such."""

    __slots__ = ()


_spent = threading.local()


def start_budget() -> None:
    """Give the evaluation that follows on this thread its full budget."""
    _spent.units = 0
    _spent.until = time.thread_time() + CPU_SECONDS


def charge(units: int) -> None:
    """Take `units` (characters or items) from the evaluation's budget.

    Raises:
        LimitExceeded: the evaluation has used it up.
    """
    _spent.units = getattr(_spent, "units", 0) + units
    if _spent.units > BUDGET:
        raise LimitExceeded("the expression makes too much data")
    if time.thread_time() > getattr(_spent, "until", math.inf):
        raise LimitExceeded(f"the expression takes more than {CPU_SECONDS:g} s")


def _text(length: int) -> None:
    if length > MAX_TEXT:
        raise LimitExceeded(f"the expression makes a text of more than {MAX_TEXT:,} characters")
    charge(length)


def _items(length: int) -> None:
    if length > MAX_ITEMS:
        raise LimitExceeded(f"the expression makes a list of more than {MAX_ITEMS:,} items")
    charge(length)


def bounded(items: Iterable[Any]) -> Iterator[Any]:
    """The items, each charged as it is taken."""
    for count, item in enumerate(items, 1):
        _items(1) if count <= MAX_ITEMS else _items(count)
        yield item


def loop_items(items: Iterable[Any]) -> Iterator[Any]:
    """The items of a loop, each charged for the work its round does."""
    for item in items:
        charge(LOOP_ROUND)
        yield item


def concatenate(parts: Iterable[Any]) -> str:
    """The parts as one text, its size checked before it is made."""
    texts = [measured_text(part) for part in parts]
    _text(sum(map(len, texts)))
    return "".join(texts)


def measure(value: Any, indent: int = 0) -> None:
    """Check the size that a value has as text before the text is made. One list may stand in another many times.

    Raises:
        LimitExceeded: the text would be too long.
    """
    size = 0
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, str):
            size += len(item)
            continue
        inner: Iterable[Any] = ()
        if isinstance(item, Mapping):
            inner = (part for pair in item.items() for part in pair)
        elif isinstance(item, list | tuple):
            inner = item
        for part in inner:
            size += 1 + indent * (depth + 1)
            if size % 4096 == 0:
                charge(0)
            if size > MAX_TEXT:
                break
            stack.append((part, depth + 1))
        if size > MAX_TEXT:
            break
    _text(size)


def weighed(value: Any) -> Any:
    """A value that is about to be compared, charged for its length."""
    if isinstance(value, str | list | tuple | Mapping):
        charge(len(value))
    return value


def built(value: Any) -> Any:
    """A list or object that an expression has made, with all that is in it charged for: parts may be shared many times."""
    measure(value)
    return value


def measured_text(value: Any) -> str:
    """The value as text, its size checked before it is made."""
    if not isinstance(value, str):
        measure(value)
    return str(value)


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
    _text(len(text) + times * max(len(new) - len(old), 0))
    replaced: str = text.replace(old, new, -1 if count is None else count)
    return replaced


def _join_method(separator: str, items: Iterable[str]) -> str:
    texts = [measured_text(item) for item in bounded(items)]
    _text(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


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
            _text(len(sequence) * max(times, 0))
        elif isinstance(sequence, list | tuple) and isinstance(times, int):
            _items(len(sequence) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int):
        _bits(left.bit_length() + right.bit_length())
    return left * right


def _bits(bits: int) -> None:
    if bits > MAX_INTEGER_BITS:
        raise LimitExceeded("the expression makes a number that is too large")


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _bits(left.bit_length() * max(right, 0))
    return left**right


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        _text(len(left) + len(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        _items(len(left) + len(right))
    return left + right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise TypeError("`%` takes numbers; put texts together with `~`")
    return left % right


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {"*": _multiply, "**": _power, "+": _add, "%": _modulo}


def _measured(value: Any) -> Any:
    if isinstance(value, list | tuple | Mapping):
        measure(value)
    return value


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that planner and executor share."""

    intercepted_binops = frozenset(_OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            undefined=Missing, optimized=False, keep_trailing_newline=True, cache_size=0, finalize=_measured
        )
        self.globals = {"range": _range, "dict": dict}
        for name in ("attr", "format", "pprint", "urlize", "xmlattr"):
            del self.filters[name]
        for name, function in list(self.filters.items()):
            self.filters[name] = _charged(name, function)
        self.filters.update(_FILTERS)
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
                    return _charged_method(obj, found) if isinstance(obj, str | list | tuple) else found
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


def _charged_method(obj: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method of a text or list, which reads all of it and may make as much again."""

    def charged(*args: Any) -> Any:
        charge(len(obj))
        result = method(*args)
        if isinstance(result, list | tuple):
            charge(LIST_ITEM * len(result))
        elif isinstance(result, str):
            charge(len(result))
        return result

    return charged


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    _items(len(numbers))
    return numbers


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The built-in filter, its arguments and result held to the limits."""
    from jinja2.utils import _PassArg

    skip = 1 if _PassArg.from_obj(function) is not None else 0

    def charged(*args: Any, **kwargs: Any) -> Any:
        value = args[skip] if len(args) > skip else None
        options = (*args[skip + 1 :], *kwargs.values())
        if isinstance(value, Iterator):
            args = (*args[:skip], bounded(value), *args[skip + 1 :])
        elif isinstance(value, str | list | tuple | Mapping):
            charge(len(value))
        if name in _TEXTUAL:
            for part in (value, *options):
                measure(part)
        if name in _WIDENING:
            _text(_WIDENING[name](value, options))
        if name == "round":
            _bits(4 * max((o for o in options if isinstance(o, int)), default=0))
        if name == "replace":
            return _replace(value, *options)
        if name == "join":
            _join_size(value, options)
        result = function(*args, **kwargs)
        if isinstance(result, str):
            _text(len(result))
        elif isinstance(result, list | tuple):
            _items(len(result))
        elif isinstance(result, int):
            _bits(result.bit_length())
        return result

    marker = _PassArg.from_obj(function)
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


def _join_size(value: Any, options: tuple[Any, ...]) -> None:
    separator = next((o for o in options if isinstance(o, str)), "")
    if isinstance(value, list | tuple):
        measure(value)
        _text(sum(len(v) for v in value if isinstance(v, str)) + len(separator) * len(value))


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
            _items(len(whole))
    return whole


def _to_json(value: Any, indent: int | None = None) -> str:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if indent is not None and not 0 <= indent <= 16:
        raise ValueError("`tojson` indents by 0 to 16")
    measure(value, indent or 0)
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False, default=_json_default)
    _text(len(text))
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
    charge(len(text))
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _b64encode(value: str) -> str:
    return base64.b64encode(measured_text(value).encode()).decode()


def _b64decode(value: str) -> str:
    return base64.b64decode(value, validate=True).decode()


def _sha256(value: str) -> str:
    return hashlib.sha256(measured_text(value).encode()).hexdigest()


def _regex_search(text: str, pattern: str) -> Any:
    """The first match: its groups as a list, or the whole match when the pattern has no groups, or none."""
    _check_pattern(pattern)
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
        _text(len(text) + matches * (len(replacement) + len(text) * replacement.count("\\")))
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
    moment = datetime.strptime(value, pattern) if pattern else datetime.fromisoformat(value)  # noqa: DTZ007 - below
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _strftime(value: str | float | datetime, pattern: str) -> str:
    if len(pattern) > 200:
        raise LimitExceeded("the pattern of `strftime` is too long")
    return _to_datetime(value).strftime(pattern)


_FILTERS: dict[str, Callable[..., Any]] = {
    "identifier": lambda value: Identifier(measured_text(value)),
    "raw": lambda value: Raw(measured_text(value)),
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
    BUILT: built,
    CONCATENATE: concatenate,
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
