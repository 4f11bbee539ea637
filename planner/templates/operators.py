"""The operators that can create a larger value than their operands. Each charges before it runs."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView
from typing import Any

from markupsafe import Markup

from noetl.planner.templates.budget import (
    LIST_ITEM_UNITS,
    SHORT,
    charge_bits,
    charge_items,
    charge_product,
    charge_text,
)


def multiply(left: Any, right: Any) -> Any:
    """Return `left * right`, charged for the text, list or number that it creates."""
    kind, other = type(left), type(right)
    if kind is float or other is float:
        return left * right
    if kind is int and other is int:
        charge_bits(left.bit_length() + right.bit_length())
        charge_product(left, right)
        return left * right
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, str) and isinstance(count, int):
            charge_text(len(sequence) * max(count, 0), is_ascii=sequence.isascii())
        elif isinstance(sequence, list | tuple) and isinstance(count, int):
            charge_items(len(sequence) * max(count, 0), LIST_ITEM_UNITS)
    return left * right


def power(left: Any, right: Any) -> Any:
    """Return `left ** right` if the number is not too large."""
    if isinstance(left, int) and isinstance(right, int) and right > 1:
        bits = left.bit_length() * right
        charge_bits(bits)
        charge_product(1 << bits, 1 << bits)
    return left**right


def divide(left: Any, right: Any) -> Any:
    """Return the quotient of a division of numbers, as a whole number."""
    if isinstance(left, int) and isinstance(right, int):
        charge_product(left, right)
    return left // right


def add(left: Any, right: Any) -> Any:
    """Return `left + right`, charged for the text or list that it creates."""
    kind = type(left)
    if kind is int or kind is float:
        return left + right
    if isinstance(left, str) and isinstance(right, str):
        is_markup = type(left) is Markup or type(right) is Markup
        length = escaped_bound(left) + escaped_bound(right) if is_markup else len(left) + len(right)
        if length > SHORT:
            charge_text(length, is_ascii=left.isascii() and right.isascii())
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        charge_items(len(left) + len(right), LIST_ITEM_UNITS)
    return left + right


def subtract(left: Any, right: Any) -> Any:
    """Return `left - right` of numbers or times.

    Python would make sets of the keys or items of an object, and no charge covers their hashes.
    """
    for operand in (left, right):
        if isinstance(operand, KeysView | ItemsView):
            raise TypeError(
                "`-` needs numbers or times, not the keys or items of an object; use `reject('in', …)`"
            )
    return left - right


def escaped_bound(text: str) -> int:
    """Return how many characters a text has at most after Markup has escaped it."""
    return len(text) + 4 * sum(map(text.count, "&<>'\""))


def modulo(left: Any, right: Any) -> Any:
    """Return the remainder of a division of numbers."""
    if isinstance(left, str):
        raise TypeError("`%` needs numbers; join texts with `~`")
    if isinstance(left, int) and isinstance(right, int):
        charge_product(left, right)
    return left % right
