"""Previews of values: bounded, and without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from noetl.executor.engine import preview as previews
from noetl.executor.engine.preview import MAX_PREVIEW, cut, preview
from noetl.executor.security import redaction
from noetl.executor.security.redaction import MASK, RevealedSecrets
from noetl.executor.security.secret_sources import SecretReference

SECRET = "Tr0ub4dor3-horse"


@pytest.fixture(autouse=True)
def revealed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    secrets = RevealedSecrets()
    secrets.add(SECRET)
    monkeypatch.setattr(redaction, "REVEALED_SECRETS", secrets)
    yield


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (None, "null"),
        ("a", '"a"'),
        ({"a": [1, SECRET]}, '{"a": [1, "***"]}'),
        ({SECRET: 1}, '{"***": 1}'),
        (SecretReference("x"), '"***"'),
        (datetime(2026, 1, 1, tzinfo=UTC), '"a datetime"'),
    ],
)
def test_a_short_value_is_shown_as_json(value: Any, shown: str) -> None:
    assert preview(value) == shown


def test_a_large_value_is_cut_after_its_first_parts() -> None:
    class Items(list[int]):
        read = 0

        def __iter__(self) -> Iterator[int]:
            for item in super().__iter__():
                Items.read += 1
                yield item

    assert preview(Items(range(1_000_000))).startswith("[0, 1, 2")
    assert Items.read < 100
    assert preview({f"k{n}": n for n in range(100)}, 10_000).endswith('"…": "…"}')
    nested: Any = 0
    for _ in range(90):
        nested = [nested]
    assert len(preview(nested)) <= MAX_PREVIEW
    assert len(preview("x" * 500)) == MAX_PREVIEW


def test_a_secret_is_masked_before_a_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert preview("x" * (MAX_PREVIEW - 8) + SECRET).endswith("***…") is False
    assert SECRET[:4] not in preview("x" * (MAX_PREVIEW - 8) + SECRET)
    monkeypatch.setattr(previews, "_MAX_SEARCHED", 40)
    assert cut(SECRET + "-" + SECRET + "-" + SECRET, 100) == MASK
    assert preview(["x" * 30, SECRET]) == '["' + "x" * 30 + '", "…"]'
    assert preview("y" * 50) == '"' + "y" * 40 + '"'
