"""The operators of expressions that can make a value larger, each charged before it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noetl.planner.templates.budget import LIST_ITEM, charge_bits, charge_items, charge_text


def _multiply(left: Any, right: Any) -> Any:
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str) and isinstance(times, int):
            charge_text(len(sequence) * max(times, 0))
        elif isinstance(sequence, list | tuple) and isinstance(times, int):
            charge_items(len(sequence) * max(times, 0), LIST_ITEM)
    if isinstance(left, int) and isinstance(right, int):
        charge_bits(left.bit_length() + right.bit_length())
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        charge_bits(left.bit_length() * max(right, 0))
    return left**right


def add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        charge_text(len(left) + len(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        charge_items(len(left) + len(right), LIST_ITEM)
    return left + right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise TypeError("`%` takes numbers; put texts together with `~`")
    return left % right


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {"*": _multiply, "**": _power, "+": add, "%": _modulo}
