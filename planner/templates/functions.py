"""The functions and methods that an expression may call, and how a value of any kind is described."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from itertools import islice
from typing import Any

from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Undefined

MAX_SHOWN_NAME = 100
MAX_SHOWN_BITS = 64
MAX_SHOWN_KEYS = 8


class Function:
    """A function or method that an expression may call. The sandbox calls nothing else.

    It has no attributes for expressions, and no text: its address would be one of the process.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __str__(self) -> str:
        raise TemplateRuntimeError("the value is a function: call it with `()`")

    __repr__ = __str__


def show_name(name: object) -> str:
    """Return the name of a value as text: the beginning of a text, a number, or what else it is.

    No other value is written as text, since that could take all memory.

    >>> show_name("total"), show_name(2), show_name(["total"])
    ('total', '2', 'a list')
    """
    if isinstance(name, str):
        return name[:MAX_SHOWN_NAME]
    is_short = isinstance(name, float) or (isinstance(name, int) and name.bit_length() <= MAX_SHOWN_BITS)
    return str(name) if is_short else describe(name)


def describe(value: object) -> str:
    """Return the type of a value in the words of the language, with the keys of an object.

    >>> describe({"a": 1}), describe([]), describe(None)
    ('an object with `a`', 'a list', 'none')

    Raises:
        UndefinedError: it is undefined.
    """
    if isinstance(value, Undefined):
        str(value)
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        keys = [f"`{show_name(key)}`" for key in islice(value, MAX_SHOWN_KEYS)]
        return f"an object with {', '.join(keys)}" if keys else "an empty object"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, KeysView | ValuesView | ItemsView):
        return "a part of an object"
    if callable(value):
        return "a function"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
