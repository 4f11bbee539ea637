"""The operators that can create a larger value than their operands. Each charges before it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noetl.planner.templates.budget import LIST_ITEM_UNITS, charge_bits, charge_items, charge_text


def _multiply(left: Any, right: Any) -> Any:
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, str) and isinstance(count, int):
            charge_text(len(sequence) * max(count, 0))
        elif isinstance(sequence, list | tuple) and isinstance(count, int):
            charge_items(len(sequence) * max(count, 0), LIST_ITEM_UNITS)
    if isinstance(left, int) and isinstance(right, int):
        charge_bits(left.bit_length() + right.bit_length())
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        charge_bits(left.bit_length() * max(right, 0))
    return left**right


def add(left: Any, right: Any) -> Any:
    """Return `left + right`, charged for the text or list that it creates."""
    if isinstance(left, str) and isinstance(right, str):
        charge_text(len(left) + len(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        charge_items(len(left) + len(right), LIST_ITEM_UNITS)
    return left + right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise TypeError("`%` needs numbers; join texts with `~`")
    return left % right


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {"*": _multiply, "**": _power, "+": add, "%": _modulo}
