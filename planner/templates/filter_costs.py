"""The costs of the filters of Jinja2. Each filter is charged before it runs, and its result is limited.

Problem: the filters of Jinja2 know no budget. Some take more than linear time: `trim` with many characters,
`wordwrap` with long words, and `sort` of long texts that begin alike.

Algorithm: a wrapper around each filter charges before the call. Charges apply to the iteration of the value,
to converted arguments, and to the width that options ask for. `_CHARGES` holds the charges for the work of
single filters. Source: the implementation of the filters in Jinja2 3.1.

Cost: O(size of the arguments). Attributes by which a filter sorts are read once more, in a timed dry run.

Limits: those of `budget`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from jinja2 import Environment
from jinja2.filters import make_attrgetter, make_multi_attrgetter
from jinja2.utils import _PassArg

from noetl.planner.templates.budget import (
    LIST_ITEM_UNITS,
    charge,
    charge_as_text,
    charge_bits,
    charge_each,
    charge_items,
    charge_sort,
    charge_text,
    dry_run,
    to_charged_text,
)
from noetl.planner.templates.filters import join, replace

LINE_UNITS = 512
WORD_UNITS = 32
TITLE_CHARACTER_UNITS = 16
STRIPPED_CHARACTER_UNITS = 4
CHARACTER_PAIRS_PER_UNIT = 64
"""How many comparisons of two characters one unit pays for, where a filter may compare each with each."""


def charge_filter(environment: Environment, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the built-in filter with charges for its arguments, its work and its result."""
    marker = _PassArg.from_obj(function)
    first = 1 if marker is not None else 0

    def charged(*args: Any, **kwargs: Any) -> Any:
        value = args[first] if len(args) > first else None
        if isinstance(value, Iterator):
            value = list(charge_each(value)) if name in _ORDER_FILTERS else charge_each(value)
            args = (*args[:first], value, *args[first + 1 :])
        elif isinstance(value, str | list | tuple | Mapping | ValuesView | KeysView | ItemsView):
            charge(len(value))
        options = (*args[first + 1 :], *kwargs.values())
        _charge_conversion(name, value, options)
        if name in _CHARGES:
            _CHARGES[name](environment, *args[first:], **kwargs)
        if name == "replace":
            return replace(value, *options)
        if name == "join":
            return join(environment, *args[first:], **kwargs)
        return _charge_result(function(*args, **kwargs))

    if marker is not None:
        charged.jinja_pass_arg = marker  # type: ignore[attr-defined]
    return charged


def _charge_conversion(name: str, value: Any, options: tuple[Any, ...]) -> None:
    """Charge for the texts into which the filter converts its arguments, and for a wider result."""
    if name in _TEXT_FILTERS:
        for argument in (value, *options):
            charge_as_text(argument)
    if name in _WIDTH_BOUNDS:
        charge_text(_WIDTH_BOUNDS[name](value, options))


def _charge_result(result: Any) -> Any:
    """Charge for the result of a filter, and return it."""
    if isinstance(result, str):
        charge_text(len(result))
    elif isinstance(result, list | tuple):
        charge_items(len(result), LIST_ITEM_UNITS)
    elif isinstance(result, int):
        charge_bits(result.bit_length())
    return result


_TEXT_FILTERS = frozenset(
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
"""The filters that convert their arguments to text."""


def _largest_option(options: tuple[Any, ...]) -> int:
    return max((o if isinstance(o, int) else len(o) for o in options if isinstance(o, int | str)), default=4)


def _indent_bound(value: Any, options: tuple[Any, ...]) -> int:
    return (str(value).count("\n") + 1) * _largest_option(options)


def _wordwrap_bound(value: Any, options: tuple[Any, ...]) -> int:
    return len(str(value)) * max((len(o) for o in options if isinstance(o, str)), default=1)


_WIDTH_BOUNDS: dict[str, Callable[[Any, tuple[Any, ...]], int]] = {
    "center": lambda _, options: _largest_option(options),
    "indent": _indent_bound,
    "batch": lambda _, options: _largest_option(options),
    "slice": lambda _, options: _largest_option(options),
    "truncate": lambda _, options: _largest_option(options),
    "wordwrap": _wordwrap_bound,
}


_LINE_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_WORD_SEPARATORS = re.compile(r"[\s-]+")


def _charge_wordwrap(
    environment: Environment, text: Any, width: Any = 79, break_long_words: bool = True, *_: Any, **__: Any
) -> None:
    if not isinstance(text, str) or not isinstance(width, int):
        return
    charge(
        LINE_UNITS * (1 + len(text) - len(_LINE_BREAKS.sub("", text)))
        + WORD_UNITS * (len(text) - len(_WORD_SEPARATORS.sub("", text)))
    )
    width = max(width, 1)
    if break_long_words and width < len(text):
        for word in re.finditer(rf"\S{{{width + 1},}}", text):
            # For each line, the filter copies the rest of the word.
            length = len(word[0])
            charge(WORD_UNITS * length // width + length * length // (512 * width))


def _charge_characters(units: int) -> Callable[..., None]:
    return lambda _, text, *__, **___: charge(units * len(to_charged_text(text)))


def _charge_trim(environment: Environment, text: Any, chars: Any = None) -> None:
    if isinstance(chars, str):
        charge(len(to_charged_text(text)) * len(chars) // CHARACTER_PAIRS_PER_UNIT)


def _charge_round(environment: Environment, value: Any, precision: Any = 0, *_: Any, **__: Any) -> None:
    if isinstance(precision, int):
        charge_bits(4 * precision)


def _charge_list(environment: Environment, value: Any) -> None:
    if isinstance(value, str):
        charge_items(len(value), LIST_ITEM_UNITS)


def _sort_keys(value: Any, attribute: Any, getter: Callable[[Any], Any]) -> list[Any]:
    """Return the keys by which a filter orders the values."""
    if attribute is None and isinstance(value, list):
        return value
    with dry_run():
        return list(charge_each(value) if attribute is None else map(getter, charge_each(value)))


def _charge_sort_filter(
    environment: Environment,
    value: Any,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: Any = None,
) -> None:
    charge_sort(_sort_keys(value, attribute, make_multi_attrgetter(environment, attribute)), sorts=True)


def _charge_groupby(
    environment: Environment, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False
) -> None:
    charge_sort(
        _sort_keys(value, attribute, make_attrgetter(environment, attribute, default=default)), sorts=True
    )


def _charge_selection(
    environment: Environment, value: Any, case_sensitive: bool = False, attribute: Any = None
) -> None:
    charge_sort(_sort_keys(value, attribute, make_attrgetter(environment, attribute)), sorts=False)


def _charge_dictsort(
    environment: Environment, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> None:
    charge_sort(list(value.values() if by == "value" else value), sorts=True)


_ORDER_FILTERS = frozenset({"groupby", "max", "min", "sort", "unique"})

_CHARGES: dict[str, Callable[..., None]] = {
    "dictsort": _charge_dictsort,
    "groupby": _charge_groupby,
    "list": _charge_list,
    "max": _charge_selection,
    "min": _charge_selection,
    "round": _charge_round,
    "sort": _charge_sort_filter,
    "striptags": _charge_characters(STRIPPED_CHARACTER_UNITS),
    "title": _charge_characters(TITLE_CHARACTER_UNITS),
    "trim": _charge_trim,
    "unique": _charge_selection,
    "wordwrap": _charge_wordwrap,
}
"""The functions that charge for the work of a filter. Each takes the arguments of the filter."""
