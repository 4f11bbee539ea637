"""Type checks of JSON values against kinds. Standard library only: the executor uses them too."""

from __future__ import annotations

from typing import Any, assert_never

from noetl.planner.catalogue import Kind

KIND_NAMES = {
    Kind.STRING: "text",
    Kind.INTEGER: "a whole number",
    Kind.NUMBER: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.OBJECT: "an object",
    Kind.ARRAY: "a list",
    Kind.DURATION: "a duration such as `30s`",
    Kind.ACTION: "an action",
    Kind.ANY: "anything",
}
"""The names of the kinds in messages."""


def is_of_kind(value: Any, kind: Kind) -> bool:
    """Return whether a value is of a kind. The text of a duration is not parsed.

    >>> is_of_kind(True, Kind.INTEGER), is_of_kind(5, Kind.NUMBER), is_of_kind("soon", Kind.DURATION)
    (False, True, True)
    """
    match kind:
        case Kind.ANY:
            return True
        case Kind.STRING:
            return isinstance(value, str)
        case Kind.BOOLEAN:
            return isinstance(value, bool)
        case Kind.INTEGER:
            return isinstance(value, int) and not isinstance(value, bool)
        case Kind.NUMBER:
            return isinstance(value, int | float) and not isinstance(value, bool)
        case Kind.DURATION:
            return isinstance(value, int | float | str) and not isinstance(value, bool)
        case Kind.ARRAY:
            return isinstance(value, list)
        case Kind.OBJECT:
            return isinstance(value, dict)
        case Kind.ACTION:
            return isinstance(value, dict) and isinstance(value.get("action"), str)
        case _:
            assert_never(kind)


def describe_kind_of(value: Any) -> str:
    """Return the kind of a value in the words of messages.

    >>> describe_kind_of([1]), describe_kind_of(None), describe_kind_of(False)
    ('a list', 'none', 'false')
    """
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case list():
            return "a list"
    return "an object"


def describe_kinds(kinds: tuple[Kind, ...]) -> str:
    """Return alternative kinds in the words of messages.

    >>> describe_kinds((Kind.ARRAY, Kind.STRING))
    'a list or text'
    """
    return " or ".join(KIND_NAMES[kind] for kind in kinds)
