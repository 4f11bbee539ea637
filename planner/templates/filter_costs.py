"""What the filters of Jinja2 cost: each is charged before it works, and held to the limits of what it gives."""

from __future__ import annotations

import re
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from jinja2 import Environment
from jinja2.filters import make_attrgetter, make_multi_attrgetter
from jinja2.utils import _PassArg
from noetl.planner.templates.budget import (
    LIST_ITEM,
    bounded,
    charge,
    charge_bits,
    charge_items,
    charge_order,
    charge_text,
    measure,
    measured_text,
    rehearsed,
)
from noetl.planner.templates.filters import join, replace

LINE = 512
WORD = 32
TITLE_LETTER = 16
STRIPPED_LETTER = 4
PAIRS_AT_ONCE = 64
"""How many letters are compared with how many others for a unit, where each may have to be compared with each."""


def charged_filter(environment: Environment, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
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
            return replace(value, *options)
        if name == "join":
            return join(environment, *args[skip:], **kwargs)
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
    environment: Environment, text: Any, width: Any = 79, break_long_words: bool = True, *_: Any, **__: Any
) -> None:
    if not isinstance(text, str) or not isinstance(width, int):
        return
    charge(
        LINE * (1 + len(text) - len(_LINE_ENDS.sub("", text)))
        + WORD * (len(text) - len(_SEPARATORS.sub("", text)))
    )
    width = max(width, 1)
    if break_long_words and width < len(text):
        for word in re.finditer(rf"\S{{{width + 1},}}", text):
            # Of what is left of a word a copy is made for each line.
            length = len(word[0])
            charge(WORD * length // width + length * length // (512 * width))


def _letters(each: int) -> Callable[..., None]:
    return lambda _, text, *__, **___: charge(each * len(measured_text(text)))


def _trimming(environment: Environment, text: Any, chars: Any = None) -> None:
    if isinstance(chars, str):
        charge(len(measured_text(text)) * len(chars) // PAIRS_AT_ONCE)


def _rounding(environment: Environment, value: Any, precision: Any = 0, *_: Any, **__: Any) -> None:
    if isinstance(precision, int):
        charge_bits(4 * precision)


def _listing(environment: Environment, value: Any) -> None:
    if isinstance(value, str):
        charge_items(len(value), LIST_ITEM)


def _keys(value: Any, attribute: Any, getter: Callable[[Any], Any]) -> list[Any]:
    """What values are put in order by, as given."""
    if attribute is None and isinstance(value, list):
        return value
    with rehearsed():
        return list(bounded(value) if attribute is None else map(getter, bounded(value)))


def _sorting(
    environment: Environment,
    value: Any,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: Any = None,
) -> None:
    charge_order(_keys(value, attribute, make_multi_attrgetter(environment, attribute)), sorted=True)


def _grouping(
    environment: Environment, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False
) -> None:
    charge_order(
        _keys(value, attribute, make_attrgetter(environment, attribute, default=default)), sorted=True
    )


def _choosing(
    environment: Environment, value: Any, case_sensitive: bool = False, attribute: Any = None
) -> None:
    charge_order(_keys(value, attribute, make_attrgetter(environment, attribute)), sorted=False)


def _sorting_keys(
    environment: Environment, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
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
