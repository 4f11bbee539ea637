"""What an expression may cost: the units that its evaluation has, and how many of them a value takes.

A unit is about a character made, and some nanoseconds. Whatever is done in one go, so that nobody can stop it, is charged
before it is done.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from typing import Any

from jinja2.exceptions import TemplateRuntimeError

MAX_TEXT = 8 * 1024 * 1024
MAX_ITEMS = 1_000_000
MAX_INTEGER_BITS = 4096
BUDGET = 64 * 1024 * 1024
CPU_SECONDS = 3.0
SHARED_SECONDS = 10.0
"""How long all evaluations may take that share a budget."""

LOOP_ROUND = 32
LIST_ITEM = 8
LIST = 32
MAPPING = 64
READ_TEXT = 32
"""How many characters of a text are compared for a unit."""
READ_ITEMS = 4
"""How many items of a list are."""

_SCALARS = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str})


class LimitExceeded(TemplateRuntimeError):
    """An expression would make a value larger, or take longer, than it may."""


_CALL = 16
"""What charging itself costs: the clock is looked at when some of it has come together."""
_UNSEEN = 1024


class _Spent(threading.local):
    """What the evaluations on this thread have used."""

    units = 0
    unseen = 0
    until = math.inf
    is_shared = False
    shared_until = math.inf


_spent = _Spent()


def start_budget() -> None:
    """Give the evaluation that follows on this thread its time, and its budget unless it shares one."""
    if not _spent.is_shared:
        _spent.units = 0
    _spent.unseen = _UNSEEN
    _spent.until = min(time.thread_time() + CPU_SECONDS, _spent.shared_until)


@contextmanager
def shared_budget() -> Iterator[None]:
    """Within it, all evaluations on this thread share one budget: what each of them makes is held beside the others'."""
    if _spent.is_shared:
        yield
        return
    _spent.units = 0
    _spent.is_shared = True
    _spent.shared_until = time.thread_time() + SHARED_SECONDS
    try:
        yield
    finally:
        _spent.is_shared = False
        _spent.shared_until = math.inf


def charge(units: int) -> None:
    """Take `units` from the evaluation's budget.

    Raises:
        LimitExceeded: the evaluation has used it up.
    """
    _spent.units += units
    if _spent.units > BUDGET:
        raise LimitExceeded("the expression makes too much data")
    _spent.unseen += _CALL + units
    if _spent.unseen > _UNSEEN:
        _spent.unseen = 0
        if time.thread_time() > _spent.until:
            is_shared = time.thread_time() > _spent.shared_until
            what, seconds = (
                ("expressions together take", SHARED_SECONDS)
                if is_shared
                else ("expression takes", CPU_SECONDS)
            )
            raise LimitExceeded(f"the {what} more than {seconds:g} s")


@contextmanager
def rehearsed() -> Iterator[None]:
    """Around what is about to be done once more in one go, by somebody who does not charge for it."""
    started = time.thread_time()
    yield
    now = time.thread_time()
    if now + 2 * (now - started) > _spent.until:
        raise LimitExceeded(f"the expression takes more than {CPU_SECONDS:g} s")


def charge_text(length: int) -> None:
    """Take what a text costs that is to be made."""
    if length > MAX_TEXT:
        raise LimitExceeded(f"the expression makes a text of more than {MAX_TEXT:,} characters")
    charge(length)


def charge_items(length: int, each: int = 1) -> None:
    """Take what a list costs that is to be made, or gone through."""
    if length > MAX_ITEMS:
        raise LimitExceeded(f"the expression makes a list of more than {MAX_ITEMS:,} items")
    charge(each * length)


def charge_bits(bits: int) -> None:
    """Refuse numbers that are too large."""
    if bits > MAX_INTEGER_BITS:
        raise LimitExceeded("the expression makes a number that is too large")


def bounded(items: Iterable[Any]) -> Iterator[Any]:
    """The items, each charged as it is taken."""
    for count, item in enumerate(items, 1):
        charge_items(1) if count <= MAX_ITEMS else charge_items(count)
        yield item


def loop_items(items: Iterable[Any]) -> Iterator[Any]:
    """The items of a loop, each charged for the work its round does."""
    for item in items:
        charge(LOOP_ROUND)
        yield item


def measure(value: Any, indent: int = 0) -> None:
    """Check the size that a value has as text before the text is made. One list may stand in another many times.

    Raises:
        LimitExceeded: the text would be too long.
    """
    size = 0
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, str):
            size += len(item)
            continue
        inner: Iterable[Any] = ()
        if isinstance(item, Mapping):
            inner = (part for pair in item.items() for part in pair)
        elif isinstance(item, list | tuple | ValuesView | KeysView | ItemsView):
            inner = item
        for part in inner:
            size += 1 + indent * (depth + 1)
            if size % 4096 == 0:
                charge(0)
            if size > MAX_TEXT:
                break
            stack.append((part, depth + 1))
        if size > MAX_TEXT:
            break
    charge_text(size)


def reading(value: Any) -> int:
    """The units it costs to go through all of a value at once, as comparing does. Scalars among them cost next to nothing.

    Raises:
        LimitExceeded: more than there can be.
    """
    units = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            units += 1 + len(item) // READ_TEXT
        elif isinstance(item, Mapping):
            units += 1 + len(item)
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, list | tuple | ValuesView | KeysView | ItemsView):
            units += 1 + len(item) // READ_ITEMS
            kinds = set(map(type, item))
            if kinds == _TEXTS:
                units += sum(map(len, item)) // READ_TEXT
            elif not kinds <= _SCALARS:
                stack += item
        if units > BUDGET:
            charge(units)
        charge(0)
    return units


def weighed(value: Any) -> Any:
    """A value that is about to be compared, charged for."""
    if isinstance(value, str | list | tuple | Mapping | ValuesView | KeysView | ItemsView):
        charge(reading(value))
    return value


def charge_search(wanted: Any, where: Any) -> None:
    """Take what it costs to look for a value in another, which is no more than comparing it with each item."""
    if isinstance(where, list | tuple) and not isinstance(wanted, list | tuple | Mapping):
        charge(
            (1 + len(where) // READ_ITEMS)
            * (1 + (len(wanted) // READ_TEXT if isinstance(wanted, str) else 0))
        )
    else:
        weighed(wanted)
        searched(where)


def searched(value: Any) -> Any:
    """A value in which something is about to be looked for, charged for: an object finds its keys without a search."""
    return value if isinstance(value, Mapping) else weighed(value)


def built(value: Any) -> Any:
    """A list or object that an expression has made, with all that is in it charged for: parts may be shared many times."""
    measure(value)
    return value


def copied(value: Any) -> Any:
    """A part of a text or list that an expression has cut out, charged for."""
    if isinstance(value, list | tuple):
        charge_items(len(value), LIST_ITEM)
    elif isinstance(value, str):
        charge_text(len(value))
    return value


def measured_text(value: Any) -> str:
    """The value as text, its size checked before it is made."""
    if not isinstance(value, str):
        measure(value)
    return str(value)


def concatenated(parts: Iterable[Any], separator: str = "") -> str:
    """The parts as one text, its size checked before it is made."""
    texts: list[str] = []
    length = 0
    for part in parts:
        texts.append(measured_text(part))
        length += len(texts[-1]) + len(separator)
        if length > MAX_TEXT + len(separator):
            break
    charge_text(max(length - len(separator), 0))
    return separator.join(texts)


def charge_order(keys: list[Any], *, sorted: bool) -> None:
    """Take what it costs to put values in order by these keys, or without that to find the least or the different ones.

    Texts among the keys are made anew without their case.
    """
    kinds = set(map(type, keys))
    if kinds == _TEXTS:
        letters = sum(map(len, keys))
        units = len(keys) + letters // READ_TEXT
    elif kinds <= _SCALARS:
        letters, units = 0, len(keys)
    else:
        letters = sum(len(key) for key in keys if isinstance(key, str))
        units = sum(1 + reading(key) for key in keys)
    charge(letters + units * (math.ceil(math.log2(len(keys) + 1)) if sorted else 1) // READ_ITEMS)
