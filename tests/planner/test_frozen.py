from __future__ import annotations

from dataclasses import field, fields, replace

import pytest
from noetl.planner.frozen import frozen


@frozen
class Place:
    """Where something stands."""

    line: int
    column: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def is_first(self) -> bool:
        return self.line == 1


@frozen
class Size:
    line: int
    column: int = 1


def test_records_of_one_class_are_equal_when_their_fields_are() -> None:
    assert Place(1) == Place(1, 1, [])
    assert Place(1) != Place(2)
    assert Place(1, 1, ["a"]) != Place(1)


def test_records_of_two_classes_are_never_equal() -> None:
    assert Place(1) != Size(1)
    assert Size(1) != (1, 1)


def test_equal_records_are_one_key() -> None:
    assert {Size(1), Size(1, 1), Size(2)} == {Size(1), Size(2)}
    with pytest.raises(TypeError, match="unhashable"):
        hash(Place(1))


def test_a_record_shows_its_fields() -> None:
    assert repr(Place(3, 4, ["a"])) == "Place(line=3, column=4, notes=['a'])"


def test_a_record_is_replaced_by_one_that_differs() -> None:
    first = Size(1, 2)
    assert replace(first, line=5) == Size(5, 2)
    assert first == Size(1, 2)
    assert [found.name for found in fields(Size)] == ["line", "column"]


def test_a_record_has_its_fields_and_nothing_else() -> None:
    place = Place(1)
    assert place.is_first
    assert place.notes is not Place(1).notes
    with pytest.raises(AttributeError):
        place.colour = "red"  # type: ignore[attr-defined]
