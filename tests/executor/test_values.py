"""Plain values, as JSON says them."""

from __future__ import annotations

from typing import Any

import pytest

from executor.values import plain, read_json


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "1e999", "-1e999", '"\\ud800"', "[" * 100_000, "1" * 5_000, "{", ""]
)
def test_what_no_plain_value_can_be(text: str) -> None:
    with pytest.raises(ValueError):
        read_json(text)


@pytest.mark.parametrize(
    ("value", "expected"), [({"a": [1.5, None]}, {"a": [1.5, None]}), ({1}, "{1}"), (1e999, "inf")]
)
def test_what_is_not_plain_is_shown(value: Any, expected: Any) -> None:
    assert plain(value) == expected
