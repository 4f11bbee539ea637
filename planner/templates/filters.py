"""The filters that NoETL adds to those of Jinja2, and the internal filters that charge the budget."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

from jinja2 import Environment
from jinja2.runtime import Undefined
from jinja2.utils import pass_environment
from markupsafe import Markup

from noetl.planner.templates.attributes import ATTRIBUTE_UNITS, attribute_getter
from noetl.planner.templates.budget import (
    COMPARABLE,
    CONVERSION_UNITS,
    LIST_ITEM_UNITS,
    MAX_ITEMS,
    MAX_TEXT,
    SCALARS,
    SHORT,
    LimitExceeded,
    charge,
    charge_as_json,
    charge_comparison,
    charge_each,
    charge_items,
    charge_large_numbers,
    charge_number_text,
    charge_search,
    charge_slice,
    charge_text,
    concatenate,
    contains,
    read_items,
    to_charged_text,
)
from noetl.planner.templates.functions import describe
from noetl.planner.templates.operators import add, divide, escaped_bound, modulo, multiply, power, subtract
from noetl.planner.templates.ordering import ORDER_FILTERS
from noetl.planner.templates.patterns import replace_matches, search

MAX_TIME_TEXT = 200
NEW_PATTERN_UNITS = 400_000
"""The price of a pattern of `to_datetime` that Python has to compile, of any length."""
CALL_UNITS = 1024
"""The price of a filter of NoETL that calls a parser or an encoder."""
DIRECTIVE_UNITS = 416
"""The price of a directive in a pattern of a time. One may create a text of thirty characters."""
SUMMED_ITEM_UNITS = 24
ADDED_LIST_UNITS = 416
"""The price of a list that `sum` appends to another one, without its items."""
JOINED_ITEM_UNITS = 48
QUOTED_CHARACTER_UNITS = 2
"""The price of a character of a text that `tojson` reads for characters to escape."""
SEARCHES_OF_REPLACE = 3
"""How often a text is searched: Python counts the occurrences, too, and then finds them."""
REPLACED_PART_UNITS = 8
"""The price of an occurrence that `replace` finds and replaces."""
DECODED_CHARACTER_UNITS = 3
"""The price of a character that `b64decode` checks and decodes."""

JSON_VALUE_UNITS = 72
"""The units for a value that `fromjson` creates, in addition to its characters.

A list or object costs twice as much.
"""
JSON_ENTRY_UNITS = 64
"""The units for an entry of an object that `fromjson` creates, in addition to its value."""
CONCATENATION_FILTER = "noetl concatenation"
COMPARISON_FILTER = "noetl comparison"
MEMBERSHIP_FILTER = "noetl membership"
SLICE_FILTER = "noetl slice"
OPERATOR_FILTERS = {
    "+": "noetl add",
    "-": "noetl subtract",
    "*": "noetl multiply",
    "**": "noetl power",
    "%": "noetl modulo",
    "//": "noetl divide",
}


class Raw(str):
    """Text that a sink inserts without escaping."""

    __slots__ = ()


class Identifier(str):
    """The name of a table or column, which an SQL sink quotes as an identifier."""

    __slots__ = ()


def replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Return the text with `old` replaced by `new`, charged before it is created."""
    source, old, new = to_charged_text(text), to_charged_text(old), to_charged_text(new)
    limit = -1 if count is None else count
    if len(source) > SHORT or len(new) > SHORT:
        charge_search(source, old, searches=SEARCHES_OF_REPLACE)
        occurrences = source.count(old) if limit < 0 else min(source.count(old), limit)
        is_ascii = source.isascii() and new.isascii()
        charge_text(len(source) + occurrences * max(len(new) - len(old), 0), is_ascii=is_ascii)
        charge(REPLACED_PART_UNITS * occurrences)
        return source.replace(old, new, limit)
    replaced = source.replace(old, new, limit)
    if len(replaced) > SHORT:
        charge_text(len(replaced), is_ascii=replaced.isascii())
    return replaced


def join_texts(separator: str, items: Iterable[str]) -> str:
    """Return `separator.join(items)`, charged before it is created."""
    parts = read_items(items, LIST_ITEM_UNITS)
    if type(separator) is Markup:
        texts = [part for part in parts if isinstance(part, str)]
        charge_text(sum(map(escaped_bound, texts)), is_ascii=all(map(str.isascii, texts)))
    return concatenate(parts, separator)


@pass_environment
def _join(environment: Environment, value: Any, d: Any = "", attribute: Any = None) -> str:
    """Return the items, or an attribute of each, as one text. Jinja2 names the separator `d`."""
    if attribute is None:
        parts = read_items(value, JOINED_ITEM_UNITS)
    else:
        parts = list(map(attribute_getter(environment, attribute), read_items(value, ATTRIBUTE_UNITS)))
    return concatenate(parts, to_charged_text(d))


@pass_environment
def _sum(
    environment: Environment, items: Iterable[Any], attribute: str | int | None = None, start: Any = 0
) -> Any:
    """Return the sum of numbers, or the concatenation of lists if `start` is a list."""
    if attribute is not None:
        items = list(map(attribute_getter(environment, attribute), read_items(items, ATTRIBUTE_UNITS)))
    elif type(items) is range:
        charge_items(len(items), SUMMED_ITEM_UNITS)
    else:
        items = read_items(items, SUMMED_ITEM_UNITS)
    if isinstance(start, list):
        return _sum_lists(items, start)
    kinds = set(map(type, items))
    if kinds <= SCALARS:
        if int in kinds and type(items) is not range:  # Other scalars, and the items of a range, are short.
            charge_large_numbers(items)
        return sum(items, start)
    for item in items:
        charge(CONVERSION_UNITS)
        start = add(start, item)
    return start


def _sum_lists(items: Iterable[Any], start: list[Any]) -> list[Any]:
    result = list(start)
    for item in items:
        charge(ADDED_LIST_UNITS)
        result += read_items(item, LIST_ITEM_UNITS)
        if len(result) > MAX_ITEMS:
            charge_items(len(result))
    return result


def _list(value: Any) -> list[Any]:
    """Return the items in a new list."""
    items = read_items(value, LIST_ITEM_UNITS)
    return items if type(items) is list and items is not value else list(items)


def _to_json(value: Any, indent: int | None = None) -> str:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if indent is not None and not 0 <= indent <= 16:
        raise ValueError("the indent of `tojson` must be 0 to 16")
    charge(CALL_UNITS)
    charge(QUOTED_CHARACTER_UNITS * charge_as_json(value, indent or 0))
    text = _encode(value) if indent is None else json.dumps(value, indent=indent, **_JSON_OPTIONS)
    charge_text(len(text))
    return text


def _json_default(value: object) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(charge_each(value))
    raise TypeError(f"{describe(value)} has no JSON form")


_JSON_OPTIONS: dict[str, Any] = {
    "ensure_ascii": False,
    "allow_nan": False,
    "default": _json_default,
    # The measure of a value that contains itself would have exceeded the budget.
    "check_circular": False,
}
_encode = json.JSONEncoder(**_JSON_OPTIONS).encode


def _from_json(text: str) -> Any:
    if not isinstance(text, str):
        raise TypeError(f"`fromjson` needs a text, not {describe(text)}")
    charge(CALL_UNITS)
    # The parser creates all values in one call, so they are counted in the text before.
    values = text.count(",") + 2 * (text.count("[") + text.count("{"))
    charge(3 * len(text) + JSON_VALUE_UNITS * values + JSON_ENTRY_UNITS * text.count(":"))
    parse_int = _parse_int if len(text) > COMPARABLE // 4 else None
    return json.loads(text, parse_constant=_refuse_constant, parse_int=parse_int)


def _parse_int(digits: str) -> int:
    charge_number_text(digits)
    return int(digits)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _b64encode(value: str) -> str:
    raw = to_charged_text(value).encode()
    charge_text(4 * len(raw) // 3)
    return base64.b64encode(raw).decode()


def _b64decode(value: str) -> str:
    charge_text(len(value))
    charge(DECODED_CHARACTER_UNITS * len(value))
    return base64.b64decode(value, validate=True).decode()


def _sha256(value: str) -> str:
    raw = to_charged_text(value).encode()
    charge(len(raw))
    return hashlib.sha256(raw).hexdigest()


def _to_datetime(value: str | float | datetime, pattern: str | None = None) -> datetime:
    """Return a time from ISO 8601 text, from text in a `strptime` pattern, or from seconds since the epoch.

    A time without an offset is in UTC.
    """
    charge(CALL_UNITS if pattern is None else 4 * CALL_UNITS)
    if type(value) is str and pattern is None and len(value) <= MAX_TIME_TEXT:
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value
    if len(value) > MAX_TIME_TEXT or (isinstance(pattern, str) and len(pattern) > MAX_TIME_TEXT):
        raise LimitExceeded("the text or the pattern of `to_datetime` is too long")
    if pattern:
        _require_pattern("to_datetime", pattern)
        _charge_new_pattern(pattern)
    moment = datetime.strptime(value, pattern) if pattern else datetime.fromisoformat(value)  # noqa: DTZ007
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _require_pattern(name: str, pattern: object) -> None:
    if not isinstance(pattern, str):
        raise TypeError(f"the pattern of `{name}` must be a text, not {describe(pattern)}")


@lru_cache(maxsize=4)
def _charge_new_pattern(pattern: str) -> None:
    """Charge for a pattern that was not used lately. Python keeps the last five that it has compiled."""
    charge(NEW_PATTERN_UNITS)


_WIDTH = re.compile(r"%[^a-zA-Z%]*?([0-9]+)")
"""The width of a directive, to which the C library of Linux pads its value."""


def _strftime(value: str | float | datetime, pattern: str) -> str:
    if type(pattern) is not str:
        _require_pattern("strftime", pattern)
    if len(pattern) > MAX_TIME_TEXT:
        raise LimitExceeded("the pattern of `strftime` is too long")
    charge(_pattern_units(pattern))
    moment = value if type(value) is datetime else _to_datetime(value)
    return moment.strftime(pattern)


@lru_cache(maxsize=256)
def _pattern_units(pattern: str) -> int:
    """Return the price of a time as text in a pattern.

    Raises:
        LimitExceeded: the text would be too long.
    """
    width = sum(map(int, _WIDTH.findall(pattern)))
    if width > MAX_TEXT:
        charge_text(width)
    return CALL_UNITS + len(pattern) + DIRECTIVE_UNITS * pattern.count("%") + width


FILTERS: dict[str, Callable[..., Any]] = {
    "identifier": lambda value: Identifier(to_charged_text(value)),
    "raw": lambda value: Raw(to_charged_text(value)),
    "tojson": _to_json,
    "fromjson": _from_json,
    "b64encode": _b64encode,
    "b64decode": _b64decode,
    "sha256": _sha256,
    "regex_search": search,
    "regex_replace": replace_matches,
    "to_datetime": _to_datetime,
    "strftime": _strftime,
    "sum": _sum,
    COMPARISON_FILTER: charge_comparison,
    MEMBERSHIP_FILTER: contains,
    SLICE_FILTER: charge_slice,
    CONCATENATION_FILTER: concatenate,
    OPERATOR_FILTERS["+"]: add,
    OPERATOR_FILTERS["-"]: subtract,
    OPERATOR_FILTERS["*"]: multiply,
    OPERATOR_FILTERS["**"]: power,
    OPERATOR_FILTERS["%"]: modulo,
    OPERATOR_FILTERS["//"]: divide,
}
"""The filters of NoETL by their names, and the internal ones."""

REPLACED_FILTERS: dict[str, Callable[..., Any]] = {
    "join": _join,
    "list": _list,
    "replace": replace,
    **ORDER_FILTERS,
}
"""The filters of Jinja2 that have another implementation, which charges for its work."""
