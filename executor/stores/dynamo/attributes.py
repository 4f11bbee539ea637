"""Conversion between items as plain values and the format of DynamoDB's low-level client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Item = dict[str, Any]
"""An item as plain values: text, numbers, bytes, booleans, lists of these, and sets of whole numbers."""


def encode_value(value: Any) -> dict[str, Any]:
    """Return a value in the format of the client.

    >>> encode_value(["a", 1.0])
    {'L': [{'S': 'a'}, {'N': '1'}]}
    """
    match value:
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": str(value)}
        case int() | float():
            # DynamoDB returns 1.0 as 1. A repeated transaction must send the same text for the same number.
            return {"N": repr(int(value) if value == int(value) else value)}
        case bytes():
            return {"B": value}
        case list() | tuple():
            return {"L": [encode_value(part) for part in value]}
        case frozenset():
            return {"NS": [repr(number) for number in sorted(value)]}
    raise TypeError(f"{type(value).__name__} cannot be an attribute of an item")


def decode_value(encoded: Mapping[str, Any]) -> Any:
    """Return the argument of `encode_value`. Whole numbers become integers."""
    ((kind, value),) = encoded.items()
    match kind:
        case "N":
            return int(value) if value.lstrip("-").isdigit() else float(value)
        case "L":
            return [decode_value(part) for part in value]
        case "B":
            return bytes(value)
        case "NS":
            return frozenset(map(int, value))
    return value


def encode_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item in the format of the client, without the attributes that are None."""
    return {name: encode_value(value) for name, value in item.items() if value is not None}


def decode_item(encoded: Mapping[str, Any]) -> Item:
    """Return an item as plain values."""
    return {name: decode_value(value) for name, value in encoded.items()}


def size_of(item: Mapping[str, Any]) -> int:
    """Return the number of bytes that DynamoDB counts for an item, rounded up."""
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
        case frozenset():
            return 21 * len(value)
        case list() | tuple():
            return 3 + sum(1 + _size(part) for part in value)
    raise TypeError(f"{type(value).__name__} cannot be an attribute of an item")
