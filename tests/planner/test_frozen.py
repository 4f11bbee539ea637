from __future__ import annotations

from dataclasses import field, fields, replace

import pytest

from noetl.planner.frozen import frozen


@frozen
class FrozenPosition:
    """A position in a text."""

    line: int
    column: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def is_first(self) -> bool:
        return self.line == 1


@frozen
class FrozenSize:
    line: int
    column: int = 1


def test_instances_of_one_class_are_equal_if_their_fields_are() -> None:
    assert FrozenPosition(1) == FrozenPosition(1, 1, [])
    assert FrozenPosition(1) != FrozenPosition(2)
    assert FrozenPosition(1, 1, ["a"]) != FrozenPosition(1)


def test_instances_of_two_classes_are_never_equal() -> None:
    position: object = FrozenPosition(1)
    size: object = FrozenSize(1)
    assert position != size
    assert size != (1, 1)


def test_equal_instances_are_one_key() -> None:
    assert {FrozenSize(1), FrozenSize(1, 1), FrozenSize(2)} == {FrozenSize(1), FrozenSize(2)}
    with pytest.raises(TypeError, match="unhashable"):
        hash(FrozenPosition(1))


def test_representation_shows_the_fields() -> None:
    assert repr(FrozenPosition(3, 4, ["a"])) == "FrozenPosition(line=3, column=4, notes=['a'])"


def test_replace_returns_a_changed_copy() -> None:
    first = FrozenSize(1, 2)
    assert replace(first, line=5) == FrozenSize(5, 2)
    assert first == FrozenSize(1, 2)
    assert [data_field.name for data_field in fields(FrozenSize)] == ["line", "column"]


def test_an_instance_has_no_other_attributes() -> None:
    place = FrozenPosition(1)
    assert place.is_first
    assert place.notes is not FrozenPosition(1).notes
    with pytest.raises(AttributeError):
        place.colour = "red"  # type: ignore[attr-defined]
