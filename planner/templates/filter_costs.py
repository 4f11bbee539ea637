"""The costs of the filters of Jinja2. Each filter is charged before it runs, and its result is limited.

Problem: the filters of Jinja2 know no budget. Some take more than linear time: `trim` with many characters,
`wordwrap` with long words. And most filters are applied to short texts, where a charge would cost more than
the filter.

Algorithm: a wrapper around each filter. If all arguments are scalars and short texts, the filter has a
constant price, which the loop around it has paid (see `evaluator`). Otherwise the wrapper charges for the
iteration of the value, for converted arguments, and for the width that options ask for. `_CHARGES` holds the
charges for the work of single filters. Source: the implementation of the filters in Jinja2 3.1.

Cost: one call and a few type checks for short arguments, else O(size of the arguments).

Limits: those of `budget`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from sys import getsizeof
from typing import Any

from jinja2.utils import _PassArg
from markupsafe import Markup

from noetl.planner.templates.attributes import path_units
from noetl.planner.templates.budget import (
    LIST_ITEM_UNITS,
    MAX_TEXT,
    NUMBER_UNITS,
    SHORT,
    SORTED_TEXT_UNITS,
    charge,
    charge_as_text,
    charge_bits,
    charge_digits,
    charge_each,
    charge_items,
    charge_number_text,
    charge_sort,
    charge_text,
    to_charged_text,
)
from noetl.planner.templates.functions import describe, show_name

LINE_UNITS = 800
INDENTED_LINE_UNITS = 128
WORD_UNITS = 1024
"""The price of a word and of the blanks after it, where a filter wraps lines."""
COPIED_PAIRS_PER_UNIT = 16
"""How many pairs of characters one unit pays for, where a filter copies the rest of a word for each line."""
ENTITY_UNITS = 512
"""The price of an entity of markup, in addition to its characters."""
MATCHED_CHARACTER_UNITS = 48
"""The price of a character that a filter reads with a regular expression, or quotes."""
TITLE_CHARACTER_UNITS = 136
"""The price of a character of `title`, which is a match of its own if it is a word."""
WRAPPED_CHARACTER_UNITS = 16
ESCAPED_CHARACTER_UNITS = 8
CASE_CHARACTER_UNITS = 5
"""The price of a character of ASCII whose case a filter or a method may change."""
WIDE_CASE_CHARACTER_UNITS = 20
"""The price where the text has others. Python keeps three of 4 bytes for each, and copies the result.

A long text is converted in parts, where this memory does not count.
"""
_CASE_PART = 64 * 1024
"""How many characters of a text are converted together."""
_MEASURED_PART = 128
"""How long a part is at least, so that its memory shows how much each character takes."""
_TEXT_HEADER = 40
CASE_METHODS = frozenset({"capitalize", "casefold", "lower", "swapcase", "upper"})
"""The methods that convert each character by itself, except for a capital sigma."""
_IN_CONTEXT = CASE_METHODS - {"casefold", "upper"}
"""Those that write a sigma at the end of a word in another way."""
PARSED_CHARACTER_UNITS = 12
SIZE_DIGIT_UNITS = 32
"""The price of a digit of a long size."""
ROUNDED_BIT_PAIRS_PER_UNIT = 32
"""How many pairs of bits before the point of a decimal number one unit pays for, where it is rounded."""
REFUSED_VALUE_UNITS = 1536
"""The price of the errors that `int` and `float` catch where they return their default."""
CHARACTER_PAIRS_PER_UNIT = 64
"""How many comparisons of two characters one unit pays for, where a filter may compare each with each."""
MARKUP_COPIES = 4
"""How many copies of an escaped text a filter makes at a time."""
SLICE_UNITS = 192
"""The price of a list that `slice` creates, without its items."""
CALL_UNITS = 1024
"""The price of a filter or test that another filter calls for an item."""

LONG_CALL_UNITS = 1536
"""The price of a filter whose arguments are not all short, in addition to its work."""

_CONSTANT_FILTERS = frozenset({"abs", "count", "d", "default", "first", "items", "last", "length", "random"})
"""The filters that take constant time. What reads their result pays for it."""
SIMPLE_FILTERS = _CONSTANT_FILTERS | {
    "b64decode", "b64encode", "capitalize", "center", "e", "escape", "filesizeformat", "float",
    "forceescape", "identifier", "indent", "int", "lower", "raw", "replace", "round", "safe", "sha256",
    "strftime", "string", "trim", "truncate", "upper",
}  # fmt: skip
"""The filters that take at most about a microsecond for a short text, or charge for more themselves."""
_STEEP_FILTERS = frozenset({"title", "wordwrap"})
"""The filters that take long for each character, even of a short text: a line or a word may have one."""
_CREATING_FILTERS = frozenset({"batch", "slice"})
"""The filters that create as many items as an option says, even of a short text."""
SORTED_ENTRY_UNITS = CALL_UNITS + 15 * SHORT + SORTED_TEXT_UNITS + LIST_ITEM_UNITS + 512
"""The price of an entry of a short object that is sorted: its item, copies of its name, and comparisons."""
_FEW = 16
"""How many entries a short object has at most."""
_TEXTS = {str}
_CONSTANTS = frozenset({float, bool, type(None)})
_MAX_OPTION = 1024
_SHORT_NUMBER = 2**62


def charge_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the built-in filter with charges for its arguments, its work and its result."""
    if name in _CONSTANT_FILTERS:
        return function
    function = _CHARGED_RESULTS.get(name, _as_it_is)(function)
    marker = _PassArg.from_obj(function)
    first = 0 if marker is None else 1
    charge_arguments = _charge_arguments(name)
    is_steep = name in _STEEP_FILTERS
    charge_short = _CHARGES[name] if name in _CREATING_FILTERS else None

    def charge_and_call(*args: Any, **kwargs: Any) -> Any:
        value = args[first]
        is_short = type(value) is int and -_SHORT_NUMBER < value < _SHORT_NUMBER
        if not (is_steep or kwargs) and all(map(_is_short, args[first + is_short :])):
            if charge_short is not None:
                charge_short(*args)
            return _charge_result(function(*args))
        charge(LONG_CALL_UNITS)
        value = charge_arguments(value, *args[first + 1 :], **kwargs)
        args = (*args[:first], value, *args[first + 1 :])
        return _charge_result(function(*args, **kwargs))

    def charged(value: Any, *args: Any, **kwargs: Any) -> Any:
        if type(value) is not str or len(value) > SHORT or args or kwargs:
            return charge_and_call(value, *args, **kwargs)
        result = function(value)
        kind = type(result)
        is_short = kind is int or (kind is str and len(result) <= SHORT)
        return result if is_short else _charge_result(result)

    if name in CASE_METHODS:
        return _charge_long_texts(name, charged)
    if name == "dictsort":
        return _charge_short_objects(function, charge_and_call)
    if marker is None:
        return charge_and_call if is_steep else charged
    charge_and_call.jinja_pass_arg = marker  # type: ignore[attr-defined]
    return charge_and_call


def _charge_long_texts(name: str, charged: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter that changes the case of a text, with exact charges for a long one."""

    def convert(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and is_long_wide_text(args[0]) and not kwargs:
            return change_case(args[0], name)
        return charged(*args, **kwargs)

    return convert


def _charge_short_objects(sort: Callable[..., Any], charged: Callable[..., Any]) -> Callable[..., Any]:
    """Return `dictsort` with one charge for an object with few short names, else `charged`."""

    def sort_items(value: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or type(value) is not dict or len(value) > _FEW:
            return charged(value, *args, **kwargs)
        if set(map(type, value)) != _TEXTS or max(map(len, value)) > SHORT:
            return charged(value)
        charge(LONG_CALL_UNITS + SORTED_ENTRY_UNITS * len(value))
        return sort(value)

    return sort_items


def _charge_default(convert: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter with a charge where it may return its default. Then it has caught errors."""

    def convert_charged(value: Any, *args: Any, **kwargs: Any) -> Any:
        result = convert(value, *args, **kwargs)
        if not result or args or kwargs:
            charge(REFUSED_VALUE_UNITS)
        return result

    return convert_charged


def _charge_rounded_digits(convert: Callable[..., Any]) -> Callable[..., Any]:
    """Return `round` with a charge for the digits of a large decimal number. Python writes and reads them."""

    def convert_charged(value: Any, *args: Any, **kwargs: Any) -> Any:
        if (args or kwargs) and type(value) is float:
            bits = math.frexp(value)[1]
            if bits > SHORT:
                charge(bits * bits // ROUNDED_BIT_PAIRS_PER_UNIT)
        return convert(value, *args, **kwargs)

    return convert_charged


def _charge_long_size(convert: Callable[..., Any]) -> Callable[..., Any]:
    """Return `filesizeformat` with a charge for the digits of a size that no file has, such as 1e308."""

    def convert_charged(*args: Any, **kwargs: Any) -> Any:
        result = convert(*args, **kwargs)
        if len(result) > SHORT // 2:
            charge(SIZE_DIGIT_UNITS * len(result))
        return result

    return convert_charged


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


_CHARGED_RESULTS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "filesizeformat": _charge_long_size,
    "float": _charge_default,
    "int": _charge_default,
    "round": _charge_rounded_digits,
}
"""The functions that return a filter with charges which depend on a result, or on a number, of any length."""


def _is_short(value: Any) -> bool:
    """Return whether a filter of this argument has a constant price."""
    kind = type(value)
    if kind is str:
        return bool(len(value) <= SHORT)
    if kind is int:
        return bool(-_MAX_OPTION <= value <= _MAX_OPTION)
    return kind in _CONSTANTS


def _charge_arguments(name: str) -> Callable[..., Any]:
    """Return a function that charges for the arguments of a filter, and returns the value to filter."""
    item_units = _ITEM_UNITS.get(name, 1)
    converts = name in _TEXT_FILTERS
    width_bound = _WIDTH_BOUNDS.get(name)
    charge_work = _CHARGES.get(name)

    def charge_arguments(value: Any, *args: Any, **kwargs: Any) -> Any:
        units = item_units + (path_units(args[0]) if args and name in _PATH_FILTERS else 0)
        if hasattr(type(value), "__next__"):
            value = charge_each(value, units)
        elif type(value) is range:
            charge((units + NUMBER_UNITS) * len(value))
        elif isinstance(value, str | list | tuple | Mapping | ValuesView | KeysView | ItemsView):
            charge(units * len(value))
        options = (*args, *kwargs.values())
        if converts:
            for argument in (value, *options):
                charge_as_text(argument)
        if width_bound is not None:
            is_ascii = all(text.isascii() for text in (value, *options) if isinstance(text, str))
            for _ in range(MARKUP_COPIES if isinstance(value, Markup) else 1):
                charge_text(width_bound(value, options), is_ascii=is_ascii)
        if charge_work is not None:
            charge_work(value, *args, **kwargs)
        return value

    return charge_arguments


def _charge_result(result: Any) -> Any:
    """Charge for the result of a filter, and return it."""
    kind = type(result)
    if kind is str:
        if len(result) > SHORT:
            charge_text(len(result), is_ascii=result.isascii())
    elif kind is int:
        charge_bits(result.bit_length())
    elif isinstance(result, str):
        charge_text(len(result), is_ascii=result.isascii())
    elif isinstance(result, list | tuple):
        charge_items(len(result), LIST_ITEM_UNITS)
    return result


_ITEM_UNITS = {
    "batch": 320,
    "dictsort": CALL_UNITS,
    "map": CALL_UNITS,
    "reject": CALL_UNITS,
    "rejectattr": CALL_UNITS,
    "select": CALL_UNITS,
    "selectattr": CALL_UNITS,
    "slice": 96,
}
"""What a filter pays for each item of its value, if it does more than to copy it."""
_PATH_FILTERS = frozenset({"rejectattr", "selectattr"})
"""The filters of Jinja2 whose first argument is the path of an attribute."""

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
    return (str(value).count("\n") + 1) * (INDENTED_LINE_UNITS + _largest_option(options))


def _wordwrap_bound(value: Any, options: tuple[Any, ...]) -> int:
    return len(str(value)) * max((len(o) for o in options if isinstance(o, str)), default=1)


_WIDTH_BOUNDS: dict[str, Callable[[Any, tuple[Any, ...]], int]] = {
    "center": lambda _, options: _largest_option(options),
    "indent": _indent_bound,
    "truncate": lambda _, options: _largest_option(options),
    "wordwrap": _wordwrap_bound,
}


_LINE_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_WORD_SEPARATORS = re.compile(r"[\s-]+")


def _charge_wordwrap(text: Any, width: Any = 79, break_long_words: bool = True, *_: Any, **__: Any) -> None:
    if not isinstance(width, int | float) or not math.isfinite(width):
        raise TypeError(f"the width of `wordwrap` must be a finite number, not {describe(width)}")
    if not isinstance(text, str):
        return
    width = int(width)
    charge(WRAPPED_CHARACTER_UNITS * len(text))
    charge(
        LINE_UNITS * (1 + len(text) - len(_LINE_BREAKS.sub("", text)) + len(text) // max(width, 1))
        + WORD_UNITS * (len(text) - len(_WORD_SEPARATORS.sub("", text)))
    )
    width = max(width, 1)
    if break_long_words and width < len(text):
        for word in re.finditer(r"\S+", text):
            length = len(word[0])
            if length > width:
                # For each line, the filter copies the rest of the word.
                charge(length * length // (COPIED_PAIRS_PER_UNIT * width))


def _charge_batch(_: Any, linecount: Any = 0, *__: Any, **___: Any) -> None:
    if isinstance(linecount, int):
        charge_items(max(linecount, 0), LIST_ITEM_UNITS)


def _charge_slice(_: Any, slices: Any = 0, *__: Any, **___: Any) -> None:
    if isinstance(slices, int):
        charge_items(max(slices, 0), SLICE_UNITS)


def _require_filter(_: Any, name: Any = "", *__: Any, **___: Any) -> None:
    _require_name("filter", name)


def _require_test(_: Any, name: Any = "", *__: Any, **___: Any) -> None:
    _require_name("test", name)


def _require_attribute_test(_: Any, attribute: Any = "", name: Any = "", *__: Any, **___: Any) -> None:
    _require_name("test", name)


def _require_name(kind: str, name: Any) -> None:
    """Refuse the computed name of a filter or test that is no short text.

    The message of Jinja2 for an unknown one shows the whole value.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a {kind} must be a text, not {describe(name)}")
    if len(name) > SHORT:
        raise ValueError(f"unknown {kind} `{show_name(name)}`")


def _charge_characters(text: Any, *_: Any, **__: Any) -> None:
    charge(MATCHED_CHARACTER_UNITS * len(to_charged_text(text)))


def _charge_markup(text: Any) -> None:
    text = to_charged_text(text)
    charge(MATCHED_CHARACTER_UNITS * len(text) + ENTITY_UNITS * text.count("&"))


def _charge_title(text: Any) -> None:
    charge(TITLE_CHARACTER_UNITS * len(to_charged_text(text)))


def _charge_escape(text: Any) -> None:
    text = to_charged_text(text)
    length = len(text) + ESCAPED_CHARACTER_UNITS * sum(map(text.count, "&<>'\""))
    charge_text(length, is_ascii=text.isascii())


def _charge_trim(text: Any, chars: Any = None) -> None:
    if isinstance(chars, str):
        charge(len(to_charged_text(text)) * len(chars) // CHARACTER_PAIRS_PER_UNIT)


def _charge_round(value: Any, precision: Any = 0, method: Any = "common") -> None:
    if not isinstance(method, str):
        raise TypeError(f"the method of `round` must be a text, not {describe(method)}")
    if isinstance(precision, int):
        charge_bits(4 * abs(precision))
    if isinstance(value, int):
        charge_digits(value)


def case_units(text: str) -> int:
    """Return the price of another case for all characters of a text."""
    return (CASE_CHARACTER_UNITS if text.isascii() else WIDE_CASE_CHARACTER_UNITS) * len(text)


def is_long_wide_text(value: Any) -> bool:
    """Return whether `change_case` charges less for a text than `case_units`."""
    return type(value) is str and len(value) > _CASE_PART and not value.isascii()


def change_case(text: str, method: str) -> str:
    """Return the result of a method of CASE_METHODS for a long text, charged by the memory of its parts."""
    convert = getattr(str, method)
    if method in _IN_CONTEXT and "Σ" in text:
        charge(case_units(text))
        result: str = convert(text)
        charge_text(len(result), is_ascii=False)
        return result
    charge(CASE_CHARACTER_UNITS * len(text))
    count = -(-len(text) // _CASE_PART)
    size = -(-len(text) // count)
    parts: list[str] = []
    length = width = 0
    for start in range(0, len(text), size):
        parts.append(convert(text[start : start + size]))
        if method == "capitalize":
            convert = str.lower
        length += len(parts[-1])
        if length > MAX_TEXT:
            charge_text(length)
        memory = getsizeof(parts[-1])
        charge(memory)
        is_measured = len(parts[-1]) >= _MEASURED_PART
        width = max(width, (memory - _TEXT_HEADER) // len(parts[-1]) if is_measured else _MAX_WIDTH)
    charge(width * length)
    return "".join(parts)


_MAX_WIDTH = 4
"""How many bytes a character takes at most."""


def _charge_case(text: Any) -> None:
    charge(case_units(to_charged_text(text)))


def _charge_float(value: Any, *_: Any, **__: Any) -> None:
    if isinstance(value, str):
        charge((1 if value.isascii() else 4) * PARSED_CHARACTER_UNITS * len(value))


def _charge_int(value: Any, *_: Any, **__: Any) -> None:
    _charge_float(value)
    if isinstance(value, str):
        charge_number_text(value)


def _charge_dictsort(
    value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> None:
    charge_sort(list(value.values() if by == "value" else value), sorts=True)


_CHARGES: dict[str, Callable[..., None]] = {
    "batch": _charge_batch,
    "dictsort": _charge_dictsort,
    "capitalize": _charge_case,
    "filesizeformat": _charge_float,
    "float": _charge_float,
    "int": _charge_int,
    "lower": _charge_case,
    "map": _require_filter,
    "reject": _require_test,
    "rejectattr": _require_attribute_test,
    "round": _charge_round,
    "select": _require_test,
    "selectattr": _require_attribute_test,
    "slice": _charge_slice,
    "e": _charge_escape,
    "escape": _charge_escape,
    "forceescape": _charge_escape,
    "striptags": _charge_markup,
    "title": _charge_title,
    "trim": _charge_trim,
    "upper": _charge_case,
    "urlencode": _charge_characters,
    "wordcount": _charge_characters,
    "wordwrap": _charge_wordwrap,
}
"""The functions that charge for the work of a filter, or refuse it. Each takes its arguments."""
