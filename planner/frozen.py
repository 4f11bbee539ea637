"""Frozen data classes that are fast to create.

Standard library only: the executor imports this module at start-up, and a Lambda function creates about fifty
such classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

__all__ = ["frozen", "replace"]
T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Return the class as a data class, like `dataclass(frozen=True, slots=True)` but created three times as
    fast.

    Only `__init__` is generated; `__eq__`, `__hash__` and `__repr__` are shared by all classes. The type
    checker enforces immutability. At run time, nothing does.

    >>> @frozen
    ... class Point:
    ...     x: int
    ...     y: int = 0
    >>> Point(1), Point(1) == Point(1, 0)
    (Point(x=1, y=0), True)
    """
    cls.__eq__ = _equals  # type: ignore[method-assign]
    cls.__hash__ = _hash_of_fields  # type: ignore[method-assign]
    cls.__repr__ = _representation  # type: ignore[method-assign]
    return dataclass(slots=True, eq=False, repr=False)(cls)


if TYPE_CHECKING:
    # The type checker knows which fields a record has only for the function of the standard library.
    from dataclasses import replace
else:

    def replace(record: T, /, **changes: Any) -> T:
        """Return a frozen record with other values of some fields, three times as fast as
        `dataclasses.replace`.

        >>> @frozen
        ... class Point:
        ...     x: int
        ...     y: int = 0
        >>> replace(Point(1, 2), y=3)
        Point(x=1, y=3)
        """
        read, positions = _fields_of(type(record))
        values = list(read(record))
        for name, value in changes.items():
            values[positions[name]] = value
        return type(record)(*values)


@cache
def _fields_of(cls: Any) -> tuple[attrgetter[Any], dict[str, int]]:
    """Return a reader of all fields of a class with several fields, and the position of each field."""
    return attrgetter(*cls.__match_args__), {name: index for index, name in enumerate(cls.__match_args__)}


def _field_values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__match_args__])


def _equals(self: object, other: object) -> bool:
    if self is other:
        return True
    return _field_values(self) == _field_values(other) if type(self) is type(other) else NotImplemented


def _hash_of_fields(self: object) -> int:
    return hash(_field_values(self))


def _representation(self: Any) -> str:
    fields = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({', '.join(fields)})"
