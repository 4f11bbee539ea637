"""Which plain values are of which kind. Standard library only: the executor asks as well."""

from __future__ import annotations

from typing import Any

from noetl.planner.catalogue import Kind

WORDS = {
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
"""What each kind is called in messages."""


def is_of_kind(value: Any, kind: Kind) -> bool:
    """Whether a value is of a kind. Of a duration's text this says no more than that it is text."""
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


def described(value: Any) -> str:
    """What a value is called in messages."""
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


def either(kinds: tuple[Kind, ...]) -> str:
    """The kinds in words, as alternatives."""
    return " or ".join(WORDS[kind] for kind in kinds)
