"""The filters that order values or compare them with each other: `sort`, `groupby`, `unique`, `min`, `max`.

Problem: the filters of Jinja2 read the keys of the values while they sort, so nothing can be charged before.

Algorithm: decorate, sort, undecorate. The keys are read once and charged, then the numbers of the values are
ordered by their keys. Texts are compared without case unless `case_sensitive` is true, as in Jinja2.

Cost: ATTRIBUTE_UNITS for each value, and the comparisons.

Limits: those of `budget`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from jinja2 import Environment
from jinja2.filters import _GroupTuple, ignore_case
from jinja2.utils import pass_environment

from noetl.planner.templates.attributes import ATTRIBUTE_UNITS, MAX_PATH, attribute_getter
from noetl.planner.templates.budget import (
    HASH_BOUND,
    LIST_ITEM_UNITS,
    LimitExceeded,
    charge,
    charge_sort,
    read_items,
)

GROUPED_ITEM_UNITS = 256
"""The price of the place of one value in a group."""
ENTRY_UNITS = 128
"""The price of the entry of one value in the table of `unique`."""


TUPLE_UNITS = 64
"""The price of a part of a tuple in the table of `unique`."""
HASHED_BITS_PER_UNIT = 16
"""How many bits of an integer one unit pays for, where bytes in that table stand for it."""

_LARGE_INTEGER = object()
"""What begins the key of a table that stands for a large integer. Nothing else begins with it."""
_TUPLE = object()
"""What begins the key of a table that stands for a tuple."""


class _Keyed(NamedTuple):
    """Values with the keys by which they are ordered. `shown` are the keys before case was ignored."""

    values: Sequence[Any]
    keys: Sequence[Any]
    shown: Sequence[Any]


def _read(
    values: Iterable[Any],
    get_key: Callable[[Any], Any] | None,
    *,
    case_sensitive: bool = False,
    sorts: bool = True,
    attributes: int = 1,
) -> _Keyed:
    """Return the values with their keys, and charge for them. Without `get_key`, a value is its own key.

    `attributes` is the number of attributes that `get_key` reads.
    """
    items = read_items(values, LIST_ITEM_UNITS if get_key is None else attributes * ATTRIBUTE_UNITS)
    shown = items if get_key is None else list(map(get_key, items))
    are_scalars = charge_sort(shown, sorts=sorts)
    keys = shown if case_sensitive or are_scalars else list(map(_ignore_case, shown))
    return _Keyed(items, keys, shown)


def _ignore_case(key: Any) -> Any:
    """Return a key in lower case. The attributes of a sort are a list of keys."""
    return list(map(ignore_case, key)) if type(key) is _Keys else ignore_case(key)


class _Keys(list[Any]):
    """The values of several attributes, which are one key."""

    __slots__ = ()


@pass_environment
def _sort(
    environment: Environment,
    value: Iterable[Any],
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: str | int | None = None,
) -> list[Any]:
    get_key: Callable[[Any], Any] | None = None
    attributes = 1
    if isinstance(attribute, str) and "," in attribute:
        if attribute.count(",") >= MAX_PATH:
            raise LimitExceeded(f"`sort` has more than {MAX_PATH} attributes")
        getters = [attribute_getter(environment, part) for part in attribute.split(",")]
        attributes = len(getters)
        get_key = lambda item: _Keys([get(item) for get in getters])  # noqa: E731
    elif attribute is not None:
        get_key = attribute_getter(environment, attribute)
    keyed = _read(value, get_key, case_sensitive=case_sensitive, attributes=attributes)
    if keyed.keys is keyed.values:
        return sorted(keyed.values, reverse=reverse)
    return [keyed.values[n] for n in _order(keyed.keys, reverse=reverse)]


def _order(keys: Sequence[Any], *, reverse: bool = False) -> list[int]:
    """Return the numbers of the keys in their order."""
    return sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)


@pass_environment
def _group(
    environment: Environment,
    value: Iterable[Any],
    attribute: str | int,
    default: Any = None,
    case_sensitive: bool = False,
) -> list[Any]:
    get_key = attribute_getter(environment, attribute, default)
    values, keys, shown = _read(value, get_key, case_sensitive=case_sensitive)
    charge(GROUPED_ITEM_UNITS * len(keys))
    groups = (list(numbers) for _, numbers in groupby(_order(keys), keys.__getitem__))
    return [_GroupTuple(shown[numbers[0]], [values[n] for n in numbers]) for numbers in groups]


@pass_environment
def _unique(
    environment: Environment,
    value: Iterable[Any],
    case_sensitive: bool = False,
    attribute: str | int | None = None,
) -> Iterator[Any]:
    get_key = None if attribute is None else attribute_getter(environment, attribute)
    values, keys, _ = _read(value, get_key, case_sensitive=case_sensitive, sorts=False)
    charge(ENTRY_UNITS * len(keys))
    first: dict[Any, Any] = {}
    for key, item in zip(keys, values, strict=True):
        first.setdefault(key if type(key) in (str, bool) else _table_key(key), item)
    return iter(first.values())


def _table_key(key: Any) -> Any:
    """Return a key of a table that stands for a key. Python gives many large integers or tuples one hash.

    >>> _table_key(2**64) == _table_key(2.0**64), _table_key(1)
    (True, 1)
    >>> _table_key((1, "1")) == _table_key((1.0, "1")), _table_key((1, "1")) == _table_key(("1", 1))
    (True, False)
    """
    if isinstance(key, int | float) and not -HASH_BOUND < key < HASH_BOUND and key % 1 == 0:
        return _LARGE_INTEGER, _to_bytes(int(key))
    return _tuple_key(key) if isinstance(key, tuple) else key


def _to_bytes(number: int) -> bytes:
    """Return an integer as bytes. Their hash is one that an author cannot choose."""
    charge(number.bit_length() // HASHED_BITS_PER_UNIT)
    return number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)


def _tuple_key(key: tuple[Any, ...]) -> Any:
    """Return a key that stands for a tuple, with bytes in the place of its integers."""
    charge(TUPLE_UNITS * len(key))
    return _TUPLE, *map(_part_key, key)


def _part_key(part: Any) -> Any:
    if isinstance(part, int | float) and part % 1 == 0:
        return _LARGE_INTEGER, _to_bytes(int(part))
    return _tuple_key(part) if isinstance(part, tuple) else part


def _select(select: Callable[..., int]) -> Callable[..., Any]:
    """Return the filter that selects the value whose key is the smallest or the largest."""

    @pass_environment
    def select_value(
        environment: Environment,
        value: Iterable[Any],
        case_sensitive: bool = False,
        attribute: str | int | None = None,
    ) -> Any:
        get_key = None if attribute is None else attribute_getter(environment, attribute)
        values, keys, _ = _read(value, get_key, case_sensitive=case_sensitive, sorts=False)
        if not values:
            return environment.undefined("No aggregated item, sequence was empty.")
        return values[select(range(len(keys)), key=keys.__getitem__)]

    return select_value


ORDER_FILTERS: dict[str, Callable[..., Any]] = {
    "groupby": _group,
    "max": _select(max),
    "min": _select(min),
    "sort": _sort,
    "unique": _unique,
}
"""The filters by their names."""
