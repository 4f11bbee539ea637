"""The budget of an evaluation: a limit on the work of an expression, charged before the work is done.

Problem: expressions come from untrusted authors and run in the process of the service. `'x' * 10**9`, a
comparison of nested shared lists, or a regular expression can take all memory or block a thread. Python
cannot interrupt a single built-in operation, so a limit that is checked afterwards comes too late.

Algorithm: resource metering by prepaid units, as gas in the Ethereum virtual machine (Wood, "Ethereum: A
Secure Decentralised Generalised Transaction Ledger", 2014). Each operation computes an upper bound of its
cost from the sizes of its operands, and charges it before it runs. One unit is about one character created,
or a few nanoseconds. The thread's CPU clock is an additional limit. It is read only after about 1,000 units,
because reading it is slow. At the same time `charge` checks whether the evaluation must stop
because its step has ended (`stop_when`). `watchdog` interrupts work that never charges.

Cost: one addition and one comparison per charge; a size estimate is linear in the number of values, not
characters.

Limits: BUDGET units and CPU_SECONDS per evaluation. Evaluations in `shared_budget` share one budget and
SHARED_SECONDS. Single values are limited by MAX_TEXT, MAX_ITEMS and MAX_INTEGER_BITS. Past a limit, `charge`
raises LimitExceeded.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from typing import Any

from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Undefined

MAX_TEXT = 8 * 1024 * 1024
"""How many characters a text may have."""
MAX_ITEMS = 1_000_000
"""How many items a list may have."""
MAX_INTEGER_BITS = 4096
BUDGET = 64 * 1024 * 1024
"""How many units an evaluation may use."""
CPU_SECONDS = 3.0
"""How long an evaluation may take."""
SHARED_SECONDS = 10.0
"""How long all evaluations with a shared budget may take together."""

LOOP_ROUND_UNITS = 32
LIST_ITEM_UNITS = 8
LIST_UNITS = 32
MAPPING_UNITS = 64
COMPARED_CHARACTERS_PER_UNIT = 32
COMPARED_ITEMS_PER_UNIT = 4

_SCALARS = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str})


class LimitExceeded(TemplateRuntimeError):
    """An expression exceeds a limit of size or time."""


class EvaluationStopped(BaseException):
    """The end of an evaluation from outside. `reason` is the exception that the evaluation raises.

    It is no Exception, so that no filter of Jinja2 takes it for a failure of its own.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


FindStop = Callable[[], Exception | None]
"""A function that returns why an evaluation must stop, or None. Any thread may call it."""


def _never() -> None:
    return None


_CALL_UNITS = 16
"""The cost of a call of `charge` itself. Counts for the clock only."""
_UNITS_PER_CLOCK_CHECK = 1024


class _Usage(threading.local):
    """The units that evaluations on this thread have used. Deadlines are CPU seconds of the thread."""

    units = 0
    units_since_clock_check = 0
    deadline = math.inf
    is_shared = False
    shared_deadline = math.inf
    find_stop: FindStop = staticmethod(_never)


_usage = _Usage()


def start_budget() -> None:
    """Start the time of the next evaluation on this thread, and its budget unless it shares one."""
    if not _usage.is_shared:
        _usage.units = 0
    _usage.units_since_clock_check = _UNITS_PER_CLOCK_CHECK
    _usage.deadline = min(time.thread_time() + CPU_SECONDS, _usage.shared_deadline)


@contextmanager
def shared_budget() -> Iterator[None]:
    """Let all evaluations in this block share one budget, because their results are held together."""
    if _usage.is_shared:
        yield
        return
    _usage.units = 0
    _usage.is_shared = True
    _usage.shared_deadline = time.thread_time() + SHARED_SECONDS
    try:
        yield
    finally:
        _usage.is_shared = False
        _usage.shared_deadline = math.inf


@contextmanager
def stop_when(find_stop: FindStop) -> Iterator[None]:
    """Stop the evaluations in this block on this thread when `find_stop` returns an exception, and raise it.

    The conditions of enclosing blocks count as well.
    """
    outer = _usage.find_stop
    _usage.find_stop = find_stop if outer is _never else lambda: outer() or find_stop()
    try:
        yield
    finally:
        _usage.find_stop = outer


def current_limits() -> tuple[float, FindStop]:
    """Return the deadline of the evaluation on this thread, in its CPU seconds, and what may stop it."""
    return _usage.deadline, _usage.find_stop


def charge(units: int) -> None:
    """Subtract `units` from the budget of the evaluation.

    Raises:
        LimitExceeded: the budget or the time is used up.
        EvaluationStopped: the evaluation must stop.
    """
    _usage.units += units
    if _usage.units > BUDGET:
        raise LimitExceeded("the expression creates too much data")
    _usage.units_since_clock_check += _CALL_UNITS + units
    if _usage.units_since_clock_check > _UNITS_PER_CLOCK_CHECK:
        _usage.units_since_clock_check = 0
        reason = _usage.find_stop()
        if reason is not None:
            raise EvaluationStopped(reason)
        if time.thread_time() > _usage.deadline:
            if time.thread_time() > _usage.shared_deadline:
                raise LimitExceeded(f"the expressions together take more than {SHARED_SECONDS:g} s")
            raise LimitExceeded(f"the expression takes more than {CPU_SECONDS:g} s")


@contextmanager
def dry_run() -> Iterator[None]:
    """Time a dry run of work that Jinja2 will repeat without charging.

    Raises:
        LimitExceeded: a repetition that takes twice as long would pass the deadline.
    """
    started = time.thread_time()
    yield
    now = time.thread_time()
    if now + 2 * (now - started) > _usage.deadline:
        raise LimitExceeded(f"the expression takes more than {CPU_SECONDS:g} s")


def charge_text(length: int) -> None:
    """Charge for the creation of a text of `length` characters."""
    if length > MAX_TEXT:
        raise LimitExceeded(f"the expression creates a text of more than {MAX_TEXT:,} characters")
    charge(length)


def charge_items(length: int, units_per_item: int = 1) -> None:
    """Charge for the creation or the iteration of a list of `length` items."""
    if length > MAX_ITEMS:
        raise LimitExceeded(f"the expression creates a list of more than {MAX_ITEMS:,} items")
    charge(units_per_item * length)


def charge_bits(bits: int) -> None:
    """Refuse integers of more than MAX_INTEGER_BITS bits."""
    if bits > MAX_INTEGER_BITS:
        raise LimitExceeded("the expression creates a number that is too large")


def charge_each(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items, and charge for each."""
    for count, item in enumerate(items, 1):
        charge_items(1) if count <= MAX_ITEMS else charge_items(count)
        yield item


def charge_rounds(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of a loop, and charge for the work of each round."""
    for item in items:
        charge(LOOP_ROUND_UNITS)
        yield item


def charge_as_text(value: Any, indent: int = 0) -> None:
    """Charge for the text of a value before it is created. A shared list counts as often as it occurs.

    Raises:
        LimitExceeded: the text would be too long.
        TypeError: the value contains a function or an unread list, whose text would be an address.
    """
    size = 0
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, str):
            size += len(item)
            continue
        if type(item) in _SCALARS:
            continue
        inner: Iterable[Any] = ()
        if isinstance(item, Mapping):
            inner = (part for pair in item.items() for part in pair)
        elif isinstance(item, list | tuple | ValuesView | KeysView | ItemsView):
            inner = item
        else:
            _refuse_address(item)
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


def _refuse_address(value: Any) -> None:
    """Refuse a value whose text is its address in memory."""
    if isinstance(value, Undefined):
        return
    if callable(value):
        raise TypeError("the value is a function: call it with `()`")
    if isinstance(value, Iterator):
        raise TypeError("the list has not been read yet: add `| list`")


def comparison_cost(value: Any) -> int:
    """Return the units of one comparison with a value. Scalars inside it cost almost nothing.

    Raises:
        LimitExceeded: the cost exceeds the whole budget.
    """
    units = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            units += 1 + len(item) // COMPARED_CHARACTERS_PER_UNIT
        elif isinstance(item, Mapping):
            units += 1 + len(item)
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, list | tuple | ValuesView | KeysView | ItemsView):
            units += 1 + len(item) // COMPARED_ITEMS_PER_UNIT
            types = set(map(type, item))
            if types == _TEXTS:
                units += sum(map(len, item)) // COMPARED_CHARACTERS_PER_UNIT
            elif not types <= _SCALARS:
                stack += item
        if units > BUDGET:
            charge(units)
        charge(0)
    return units


def charge_comparison(value: Any) -> Any:
    """Charge for a comparison with the value, and return the value."""
    if isinstance(value, str | list | tuple | Mapping | ValuesView | KeysView | ItemsView):
        charge(comparison_cost(value))
    return value


def charge_search(wanted: Any, container: Any) -> None:
    """Charge for `wanted in container`: at most one comparison with each item."""
    if isinstance(container, list | tuple) and not isinstance(wanted, list | tuple | Mapping):
        units_per_item = 1 + (len(wanted) // COMPARED_CHARACTERS_PER_UNIT if isinstance(wanted, str) else 0)
        charge((1 + len(container) // COMPARED_ITEMS_PER_UNIT) * units_per_item)
    else:
        charge_comparison(wanted)
        charge_lookup(container)


def charge_lookup(container: Any) -> Any:
    """Charge for a search in the container, and return it. A mapping finds its keys without a search."""
    return container if isinstance(container, Mapping) else charge_comparison(container)


def charge_literal(value: Any) -> Any:
    """Charge for a list or mapping literal with all its content, and return it. Its parts may be shared."""
    charge_as_text(value)
    return value


def charge_slice(value: Any) -> Any:
    """Charge for a slice of a text or list, and return it."""
    if isinstance(value, list | tuple):
        charge_items(len(value), LIST_ITEM_UNITS)
    elif isinstance(value, str):
        charge_text(len(value))
    return value


def to_charged_text(value: Any) -> str:
    """Return the value as text, and charge for it before it is created."""
    if not isinstance(value, str):
        charge_as_text(value)
    return str(value)


def concatenate(parts: Iterable[Any], separator: str = "") -> str:
    """Return the parts as one text, and charge for it before it is created."""
    texts: list[str] = []
    length = 0
    for part in parts:
        texts.append(to_charged_text(part))
        length += len(texts[-1]) + len(separator)
        if length > MAX_TEXT + len(separator):
            break
    charge_text(max(length - len(separator), 0))
    return separator.join(texts)


def charge_sort(keys: list[Any], *, sorts: bool) -> None:
    """Charge for sorting values by these keys. Without `sorts`, charge for one pass over the keys.

    Text keys cost extra, because the filters create a lower-case copy of each.
    """
    types = set(map(type, keys))
    if types == _TEXTS:
        characters = sum(map(len, keys))
        units = len(keys) + characters // COMPARED_CHARACTERS_PER_UNIT
    elif types <= _SCALARS:
        characters, units = 0, len(keys)
    else:
        characters = sum(len(key) for key in keys if isinstance(key, str))
        units = sum(1 + comparison_cost(key) for key in keys)
    passes = math.ceil(math.log2(len(keys) + 1)) if sorts else 1
    charge(characters + units * passes // COMPARED_ITEMS_PER_UNIT)
