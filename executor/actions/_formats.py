"""The formats of `file`: text, JSON, JSON lines, and CSV whose header may say types."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import read_json, text_of, write_json

FORMATS = ("text", "json", "jsonl", "csv")
MAX_VALUES = 5_000_000
"""How many values a text may hold: cells of CSV, and what commas and brackets of JSON can stand between."""

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")


class FormatError(Exception):
    """The text is not of its format, or the content has no place in it. The message is for the playbook's author."""


def decode(text: str, format: str) -> Any:
    """The content of a text.

    Raises:
        FormatError: it is not of the format.
        ActionError: `LimitExceeded`.
    """
    match format:
        case "json":
            check_size(text)
            return _value(text, "it")
        case "jsonl":
            check_size(text, lines=True)
            return [_value(line, f"line {at}") for at, line in enumerate(text.split("\n"), 1) if line.strip()]
        case "csv":
            return read_csv(_lines(text))
    return text


def check_size(text: str, *, lines: bool = False) -> None:
    """See to it that a text of JSON has no more values than may be, without reading it.

    Raises:
        ActionError: `LimitExceeded`.
    """
    _check_count(text.count(",") + text.count("[") + text.count("{") + (text.count("\n") if lines else 0))


def encode(content: Any, format: str) -> str:
    """The text of a content, with a line break at the end where the format is made of lines.

    Raises:
        FormatError: the format cannot say it.
    """
    try:
        match format:
            case "json":
                return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
            case "jsonl":
                return "".join(
                    write_json(item) + "\n" for item in (content if isinstance(content, list) else [content])
                )
            case "csv":
                return write_csv(content, columns(content))
    except (ValueError, TypeError) as error:
        raise FormatError(str(error)) from None
    if isinstance(content, dict | list):
        raise FormatError("it is not text: say `format: json`, `jsonl` or `csv`")
    return text_of(content)


def columns(rows: Any) -> list[str]:
    """The names of all columns of a list of objects, in the order they first appear.

    Raises:
        FormatError: it is not a list of objects.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FormatError("CSV takes a list of objects")
    return list(dict.fromkeys(name for row in rows for name in row))


def write_csv(rows: Iterable[dict[str, Any]], names: list[str], *, header: bool = True) -> str:
    """Objects as CSV, in the columns `names`: objects and lists as JSON, none as an empty cell."""
    import csv

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header and names:
        writer.writerow(names)
    writer.writerows([text_of(row.get(name)) for name in names] for row in rows)
    return out.getvalue()


def header_names(text: str) -> list[str]:
    """The names of the columns of a CSV text, without their types; empty when it has no header."""
    return [name for name, _ in _header(next(iter(_cells(_lines(text))), (1, []))[1])]


def read_csv(lines: Iterable[str], check: Callable[[], object] = lambda: None) -> list[dict[str, Any]]:
    """The rows of CSV as objects; `check` is called for every line.

    Raises:
        FormatError: it is not CSV, or a cell is not of its type.
        ActionError: `LimitExceeded`.
    """
    rows = iter(_cells(lines, check))
    names = _header(next(rows, (1, []))[1])
    found: list[dict[str, Any]] = []
    for line, row in rows:
        if len(row) != len(names):
            raise FormatError(f"line {line} has {len(row)} cells, and the header {len(names)}")
        _check_count(len(names) * (len(found) + 1))
        found.append(
            {name: _cell(cell, type_, name, line) for cell, (name, type_) in zip(row, names, strict=True)}
        )
    return found


def _value(text: str, what: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise FormatError(f"{what} is not JSON: {error}") from None


def _check_count(count: int) -> None:
    if count > MAX_VALUES:
        raise ActionError("LimitExceeded", f"it holds more than {MAX_VALUES:,} values", retryable=False)


def _lines(text: str) -> Iterable[str]:
    return (found[0] for found in _LINE.finditer(text))


def _cells(
    lines: Iterable[str], check: Callable[[], object] = lambda: None
) -> Iterable[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its last line."""
    import csv

    commas = 0

    def counted() -> Iterable[str]:
        # Before the row is made: one line may hold them all.
        nonlocal commas
        for line in lines:
            check()
            commas += line.count(",")
            _check_count(commas)
            yield line

    reader = csv.reader(counted(), strict=True)
    try:
        for row in reader:
            commas = 0
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise FormatError(f"line {reader.line_num} is not CSV: {error}") from None


def _header(cells: list[str]) -> list[tuple[str, str | None]]:
    names: list[tuple[str, str | None]] = []
    for cell in cells:
        name, colon, type_ = cell.rpartition(":")
        is_typed = bool(colon) and type_.strip() in _READERS
        names.append((name.strip(), type_.strip()) if is_typed else (cell.strip(), None))
    seen: set[str] = set()
    for name, _ in names:
        if name in seen:
            raise FormatError(f"the header has the column {name!r} twice")
        seen.add(name)
    return names


def _cell(cell: str, type_: str | None, name: str, line: int) -> Any:
    if type_ is None:
        return cell
    if cell.strip() == "" and type_ != "string":
        return None
    try:
        return _READERS[type_](cell)
    except ValueError:
        raise FormatError(f"line {line}: {name!r} is {cell[:100]!r}, which is no {type_}") from None


def _integer(cell: str) -> int:
    if "_" in cell:
        raise ValueError(cell)
    return int(cell)


def _number(cell: str) -> int | float:
    try:
        return _integer(cell)
    except ValueError:
        value = float(cell)
        if "_" in cell or not math.isfinite(value):
            raise
        return value


def _boolean(cell: str) -> bool:
    return (
        {"true": True, "false": False}[word]
        if (word := cell.strip().lower()) in ("true", "false")
        else _refuse(cell)
    )


def _refuse(cell: str) -> Any:
    raise ValueError(cell)


_READERS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}
