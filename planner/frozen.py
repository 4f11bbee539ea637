"""Plain data that costs little to import: what a function of Lambda starts with are some fifty classes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """The class as `dataclass(frozen=True, slots=True)` makes it, in a third of the time: but for `__init__`, which is
    compiled for each, its methods are the same for all. That nothing is assigned to is checked where types are, and not
    when it runs.
    """
    cls.__eq__ = _equals  # type: ignore[method-assign]
    cls.__hash__ = _hashed  # type: ignore[method-assign]
    cls.__repr__ = _shown  # type: ignore[method-assign]
    return dataclass(slots=True, eq=False, repr=False)(cls)


def _values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__match_args__])


def _equals(self: object, other: object) -> bool:
    if self is other:
        return True
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def _hashed(self: object) -> int:
    return hash(_values(self))


def _shown(self: Any) -> str:
    fields = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({', '.join(fields)})"
