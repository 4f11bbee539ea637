"""The attributes of items: the functions that read them, and the filter `map`.

Problem: the functions of Jinja2 read each attribute through the environment, and look up the filter of `map`
again for each item. A list is often read by several of them.

Algorithm: the usual cases in place. A key of a plain object is read without the environment. A filter that
needs no context is applied by the `map` of Python. All other cases are those of Jinja2.

Cost: ATTRIBUTE_UNITS for each name of a path; `filter_costs` charges for the items of `map`.

Limits: those of `budget`. A path has at most MAX_PATH names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import Environment
from jinja2.filters import make_attrgetter, sync_do_map
from jinja2.runtime import Context
from jinja2.utils import _PassArg, pass_context

from noetl.planner.templates.budget import LimitExceeded, charge

ATTRIBUTE_UNITS = 768
"""The price of the attribute of one value."""
OTHER_ATTRIBUTE_UNITS = 2048
"""The price of an attribute that is missing, or of a value that is no plain object, in addition."""
MAX_PATH = 100
"""How many names a path has at most, as data has no more levels. So many paths may be sorted by, too."""


def path_units(path: object) -> int:
    """Return the price of reading a path with dots, in addition to that of one attribute.

    >>> path_units("a"), path_units("a.b.c") == 2 * ATTRIBUTE_UNITS
    (0, True)

    Raises:
        LimitExceeded: the path is too long.
    """
    dots = path.count(".") if isinstance(path, str) else 0
    if dots >= MAX_PATH:
        raise LimitExceeded(f"an attribute has more than {MAX_PATH} names")
    return dots * ATTRIBUTE_UNITS


def attribute_getter(
    environment: Environment, attribute: str | int | None, default: Any = None
) -> Callable[[Any], Any]:
    """Return the function that reads an attribute, or a path with dots, of an item.

    A `default` that is not None replaces what is undefined.

    Raises:
        LimitExceeded: the path is too long.
    """
    units = path_units(attribute)
    getter = make_attrgetter(environment, attribute, default=default)
    if units:

        def read_path(item: Any) -> Any:
            charge(units)
            return getter(item)

        return read_path
    if not isinstance(attribute, str) or attribute.isdigit() or default is not None:
        return getter

    def read(item: Any) -> Any:
        if type(item) is dict and attribute in item:
            return item[attribute]
        charge(OTHER_ATTRIBUTE_UNITS)
        return getter(item)

    return read


@pass_context
def map_items(context: Context, value: Iterable[Any], *args: Any, **kwargs: Any) -> Iterable[Any]:
    """Return an attribute of each item, or the result of a filter for it."""
    function: Callable[[Any], Any] | None = None
    if not args and "attribute" in kwargs and kwargs.keys() <= {"attribute", "default"}:
        function = attribute_getter(context.environment, kwargs["attribute"], kwargs.get("default"))
    elif len(args) == 1 and not kwargs and isinstance(args[0], str):
        function = context.environment.filters.get(args[0])
    if function is None or _PassArg.from_obj(function) is not None or not value:
        return sync_do_map(context, value, *args, **kwargs)
    return map(function, value)
