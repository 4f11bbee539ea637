"""Texts that actions write in a format: long ones are written in parts, and have a limit."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from noetl.executor.actions import _formats
from noetl.executor.actions._formats import FormatError, decode, encode, encode_rows, read_csv
from noetl.executor.errors import ActionError

LONG = "a" * 100_000


def nest(depth: int) -> Any:
    """Return a list in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("content", "format", "message"),
    [
        ("\ud800", "text", "the content has an unpaired surrogate"),
        (["\ud800"], "jsonl", "the content has an unpaired surrogate"),
        ([{"a": "\ud800"}], "csv", "the content has an unpaired surrogate"),
        pytest.param(nest(100_000), "json", "it is nested too deep", id="nested"),
        ({"a": float("nan")}, "json", "Out of range float values are not JSON compliant"),
        ([1], "text", "the content is not text: set `format` to `json`, `jsonl` or `csv`"),
    ],
)
def test_content_that_a_format_cannot_represent(content: Any, format: str, message: str) -> None:
    with pytest.raises(FormatError) as error:
        encode(content, format)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "content",
    [
        [LONG] * 12,
        {"a": [LONG] * 6, "b": {"c": [LONG] * 6}},
        {f"{number}{LONG}": number for number in range(12)},
        [[0] * 20_000] * 10,
    ],
    ids=["texts", "objects", "names", "numbers"],
)
def test_a_document_that_is_short_enough_has_an_indentation(content: Any) -> None:
    assert encode(content, "json").decode() == json.dumps(content, indent=2) + "\n"


@pytest.mark.parametrize("content", [[LONG] * 100, [[[0] * 200_000]] * 10], ids=["long", "wide"])
def test_a_long_document_has_no_blanks(content: Any) -> None:
    assert encode(content, "json").decode() == json.dumps(content, separators=(",", ":")) + "\n"


def test_long_lines_are_written_in_parts() -> None:
    items = [{"n": number, "text": LONG} for number in range(20)]
    assert decode(encode(items, "jsonl").decode(), "jsonl") == items


def test_many_lines_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_formats, "_MAX_UNMEASURED", 1_000)
    items = list(range(5_000))
    assert decode(encode(items, "jsonl").decode(), "jsonl") == items


@pytest.mark.parametrize(
    ("items", "unmeasured"),
    [([LONG] * 20, 100_000), (["a" * 300] * 5_000, 100), (["a" * 300] * 5_000, 100_000)],
    ids=["long", "measured", "unmeasured"],
)
def test_lines_have_a_limit(items: list[Any], unmeasured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_formats, "MAX_WRITTEN", 1_000_000)
    monkeypatch.setattr(_formats, "_MAX_UNMEASURED", unmeasured)
    with pytest.raises(ActionError, match="the content or a row is too long") as error:
        encode(items, "jsonl")
    assert error.value.type == "LimitExceeded"


@pytest.mark.parametrize("cell", [LONG, [LONG], None], ids=["text", "list", "none"])
def test_long_rows_are_written_in_parts(cell: Any) -> None:
    rows = [{"n": number, "cell": cell} for number in range(10)]
    lines = list(csv.reader(io.StringIO(encode(rows, "csv").decode())))
    written = cell if isinstance(cell, str) else json.dumps(cell) if cell else ""
    assert lines == [["n", "cell"], *([str(number), written] for number in range(10))]
    assert encode_rows(rows, ["n", "cell"]).decode() == encode(rows, "csv").decode().split("\n", 1)[1]


@pytest.mark.parametrize(
    "rows",
    [[{"a": LONG, "b": LONG}], [{"a": [LONG], "b": [LONG]}], [{LONG: 1, f"{LONG}b": 2}]],
    ids=["texts", "lists", "names"],
)
def test_a_row_has_a_limit(rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_formats, "MAX_ROW", 150_000)
    with pytest.raises(ActionError, match="the content or a row is too long: it is longer than 150,000"):
        encode(rows, "csv")


@pytest.mark.parametrize("cell", ["a" * 300, 123_456], ids=["texts", "numbers"])
def test_the_text_of_all_rows_has_a_limit(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_formats, "MAX_WRITTEN", 100_000)
    with pytest.raises(ActionError, match="the content or a row is too long"):
        encode([{"a": cell}] * 20_000, "csv")


def test_the_memory_of_a_long_row_is_reserved_before_it_is_read() -> None:
    reserved: list[int] = []
    line = f"{','.join(f'c{number}' for number in range(200_000))}\n"
    assert read_csv([line], reserve=reserved.append) == []
    assert max(reserved) >= 199_999 * _formats.CELL_BYTES
