"""JSON values: reading, writing and conversion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from noetl.executor.model.json_values import read_json, round_trip_json, to_json_value, write_json
from noetl.executor.model.run import VisitStatus


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "1e999", "-1e999", '"\\ud800"', "[" * 100_000, "1" * 5_000, "{", ""]
)
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_json(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1.5, None]}, {"a": [1.5, None]}),
        ({1}, "{1}"),
        (1e999, "inf"),
    ],
)
def test_a_value_that_is_not_json_becomes_its_repr(value: Any, expected: Any) -> None:
    assert to_json_value(value) == expected


def test_a_value_that_is_nested_too_deep_is_not_json() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="it is nested too deep"):
        write_json(value)


@pytest.mark.parametrize(
    "value",
    [
        "text",
        -0.0,
        {"a": {"b": None, "c": [1, (2, {3: True})]}},
        {1: "a", None: 2.5, False: ()},
        [{"a": (1, 2)}, "\ud800"],
        {"kind": VisitStatus.READY},
    ],
)
def test_a_json_round_trip_matches_the_json_module(value: object) -> None:
    read = round_trip_json(value)
    expected = json.loads(json.dumps(value))
    assert (read, repr(read)) == (expected, repr(expected))
