"""Items as the low-level client of DynamoDB writes them, and as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Item = dict[str, Any]
"""An item as plain values: text, numbers, bytes, booleans, and lists of these."""


def encode_value(value: Any) -> dict[str, Any]:
    """A value as the client wants it."""
    match value:
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": str(value)}
        case int() | float():
            # As DynamoDB gives them back, so that the same write says the same.
            return {"N": repr(int(value) if value == int(value) else value)}
        case bytes():
            return {"B": value}
        case list() | tuple():
            return {"L": [encode_value(part) for part in value]}
    raise TypeError(f"{type(value).__name__} is no attribute of an item")


def decode_value(found: Mapping[str, Any]) -> Any:
    """The value that `attribute` was given. RunSnapshot numbers come back as integers."""
    ((kind, value),) = found.items()
    match kind:
        case "N":
            return int(value) if value.lstrip("-").isdigit() else float(value)
        case "L":
            return [decode_value(part) for part in value]
        case "B":
            return bytes(value)
    return value


def encode_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as the client wants it; what is None is left out."""
    return {name: encode_value(value) for name, value in item.items() if value is not None}


def decode_item(found: Mapping[str, Any]) -> Item:
    return {name: decode_value(value) for name, value in found.items()}


def size_of(item: Mapping[str, Any]) -> int:
    """How many bytes DynamoDB counts for an item, rounded up."""
    return sum(len(name.encode()) + _size(value) for name, value in item.items() if value is not None)


def _size(value: Any) -> int:
    match value:
        case bool():
            return 1
        case str():
            return len(value.encode())
        case bytes():
            return len(value)
        case int() | float():
            return 21
        case list() | tuple():
            return 3 + sum(1 + _size(part) for part in value)
    raise TypeError(f"{type(value).__name__} is no attribute of an item")
