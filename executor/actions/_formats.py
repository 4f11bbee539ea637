"""File formats of `file` and `s3`: text, JSON, JSON lines, and CSV with optional types in the header."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from noetl.executor.errors import ActionError
from noetl.executor.model.arriving_data import STEP_BYTES, VALUE_BYTES, json_weight, row_weight
from noetl.executor.model.json_length import TooLongError
from noetl.executor.model.json_values import (
    MAX_WRITTEN,
    encode_json,
    is_longer_json,
    read_json,
    to_text,
    write_short_json,
)
from noetl.executor.model.large_json import is_large
from noetl.planner.catalogue import Kind, Parameter
from noetl.planner.diagnostics.wording import quote_text

FORMATS = ("text", "json", "jsonl", "csv")
MAX_VALUES = 5_000_000
"""Limit of the values in a text: cells of CSV; commas and opening brackets of JSON."""

MAX_ROW = 8 * 1024 * 1024
"""Limit of the characters of a row of CSV that is written."""

MAX_INDENTED = 8 * 1024 * 1024
"""Limit of the bytes of a JSON document without blanks, and of the blanks of its indentation."""

_BATCH = 512
"""How many lines are added together."""

_MAX_UNMEASURED = 100_000
"""How many lines are written before it is known whether all are short enough."""

_PART = 64 * 1024
"""How many characters of rows are encoded together."""

CELL_BYTES = 4 * VALUE_BYTES
"""The memory of a cell of the header, or of a row before it is an object: text, pair, and entry of a set."""

ESCAPE_FORMULAS = Parameter(
    (Kind.BOOLEAN,),
    "Whether a text in a CSV cell that a spreadsheet would take for a formula gets a `'` before it.",
    requires=("content",),
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

_CONTAINERS = {dict, list, tuple}
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")


class FormatError(Exception):
    """A text that violates its format, or content that the format cannot represent.

    The message is for the author of the playbook.
    """


def decode(
    text: str,
    format: str,
    reserve: Callable[[int], object] = lambda _size: None,
    check: Callable[[], object] = lambda: None,
) -> Any:
    """Return the content of a text.

    `reserve` is called with the bytes that the content takes so far, before it takes more. `check` is called
    for each line, and for each part of a long JSON text.

    Raises:
        FormatError: the text violates the format.
        ActionError: `LimitExceeded`, or what `reserve` and `check` raise.
    """
    match format:
        case "json":
            check_value_count(text)
            reserve(json_weight(text))
            return _decode_json(text, "", check)
        case "jsonl":
            check_value_count(text, is_lines=True)
            # Each line is a text and a value.
            reserve(json_weight(text) + 2 * VALUE_BYTES * text.count("\n"))
            lines = enumerate(text.split("\n"), 1)
            return [_decode_json(line, f"line {number}: ", check) for number, line in lines if line.strip()]
        case "csv":
            return read_csv(_split_lines(text), check, reserve=reserve)
    return text


def check_value_count(text: str, *, is_lines: bool = False) -> None:
    """Refuse a JSON text with too many values, without parsing it.

    Raises:
        ActionError: `LimitExceeded`.
    """
    separators = text.count(",") + text.count("[") + text.count("{")
    _check_count(separators + (text.count("\n") if is_lines else 0))


def encode(content: Any, format: str) -> bytes:
    """Return the text of a content in UTF-8. Formats with lines end with a line break.

    Raises:
        FormatError: the format cannot represent the content.
        ActionError: `LimitExceeded`.
    """
    with _refusals():
        match format:
            case "json":
                return _encode_document(content)
            case "jsonl":
                return _encode_lines(content if isinstance(content, list) else [content])
            case "csv":
                return _write_csv(content, column_names(content))
        if not isinstance(content, dict | list):
            return to_text(content).encode()
    raise FormatError("the content is not text: set `format` to `json`, `jsonl` or `csv`")


def encode_rows(rows: list[dict[str, Any]], names: list[str]) -> bytes:
    """Return objects as CSV with the columns `names`, without a header. Raises as `encode` does."""
    with _refusals():
        return _write_csv(rows, names, header=False)


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise what `encode` raises."""
    try:
        yield
    except UnicodeEncodeError:
        raise FormatError("the content has an unpaired surrogate") from None
    except TooLongError as error:
        raise ActionError(
            "LimitExceeded", f"the content or a row is too long: {error}", retryable=False
        ) from None
    except RecursionError:
        raise FormatError("it is nested too deep") from None
    except (ValueError, TypeError) as error:
        raise FormatError(str(error)) from None


def _encode_document(content: Any) -> bytes:
    """Return a content as JSON: indented, but without spaces if it is very long."""
    if is_large(content) and _may_be_long(content):
        if is_longer_json(content, MAX_INDENTED) or _has_long_indentation(content):
            return encode_json(content) + b"\n"
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2).encode() + b"\n"


def _may_be_long(content: Any) -> bool:
    """Return whether a content may be too long for an indented document, by its parts at each depth."""
    size, level, depth = 0, [content], 0
    while level and size <= MAX_INDENTED:
        depth += 1
        kinds = {*map(type, level)}
        if str in kinds:
            size += 6 * sum([len(text) for text in level if type(text) is str])
        if _CONTAINERS.isdisjoint(kinds):
            break
        containers = [part for part in level if type(part) in _CONTAINERS]
        size += 2 * (depth + 10) * sum(map(len, containers))
        level = []
        for part in containers:
            if type(part) is dict:
                size += 6 * sum(map(len, part))
                level += part.values()
            else:
                level += part
    return size > MAX_INDENTED


def _has_long_indentation(content: Any) -> bool:
    """Return whether the spaces before the values of a content have more than `MAX_INDENTED` characters."""
    length, level, depth = 0, [content], 0
    while level:
        depth += 1
        containers = [part for part in level if isinstance(part, dict | list | tuple)]
        length += 2 * depth * sum(map(len, containers))
        if length > MAX_INDENTED:
            return True
        parts = (part.values() if isinstance(part, dict) else part for part in containers)
        level = list(chain.from_iterable(parts))
    return False


def _encode_lines(items: list[Any]) -> bytes:
    text = _BoundedText()
    is_measured = False
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        are_large = is_large(batch, 8 * _PART)
        if not is_measured and (are_large or start > _MAX_UNMEASURED):
            # Texts of this size are rare, so most are not measured.
            if is_longer_json(items, MAX_WRITTEN):
                raise TooLongError(MAX_WRITTEN)
            is_measured = True
        if are_large:
            text.add(b"\n".join([*map(encode_json, batch), b""]))
        else:
            text.add("\n".join([*map(write_short_json, batch), ""]).encode())
    return text.finish()


class _BoundedText:
    """A text in UTF-8 with at most `MAX_WRITTEN` bytes, to which parts are written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._left = MAX_WRITTEN

    def add(self, part: bytes) -> None:
        """Add a part.

        Raises:
            TooLongError: the text has too many bytes.
        """
        self._left -= len(part)
        if self._left < 0:
            raise TooLongError(MAX_WRITTEN)
        self._parts.append(part)

    def finish(self) -> bytes:
        """Return the text."""
        return b"".join(self._parts)


def encode_content(parameters: Mapping[str, Any]) -> bytes:
    """Return the text of the parameter `content`. Raises as `encode` does."""
    return encode(escape_formulas(parameters), parameters.get("format", "text"))


def escape_formulas(parameters: Mapping[str, Any]) -> Any:
    """Return the parameter `content`. If it is CSV and must be escaped, no cell of it starts a formula.

    >>> escape_formulas({"format": "csv", "escape_formulas": True, "content": [{"a": "=1", "b": -1}]})
    [{'a': "'=1", 'b': -1}]
    """
    content = parameters["content"]
    if not parameters.get("escape_formulas") or parameters.get("format") != "csv":
        return content
    column_names(content)
    return [{name: _escape_formula(value) for name, value in row.items()} for row in content]


def _escape_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def column_names(rows: Any) -> list[str]:
    """Return the names of all columns of a list of objects, in the order of their first use.

    >>> column_names([{"a": 1, "b": 2}, {"c": 3, "a": 4}])
    ['a', 'b', 'c']

    Raises:
        FormatError: it is not a list of objects.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FormatError("CSV content must be a list of objects")
    return list(dict.fromkeys(name for row in rows for name in row))


def _write_csv(rows: list[dict[str, Any]], names: list[str], *, header: bool = True) -> bytes:
    """Return objects as CSV in UTF-8 with the columns `names`.

    Objects and lists are written as JSON, and none as an empty cell.

    Raises:
        ActionError: `LimitExceeded`; with the empty cells, there are too many.
        TooLongError: a row or the text is too long.
        UnicodeEncodeError: the text has an unpaired surrogate.
    """
    import csv

    _check_count(len(rows) * len(names))
    if sum(len(value) for row in rows for value in row.values() if type(value) is str) > MAX_WRITTEN:
        raise TooLongError(MAX_WRITTEN)
    text, lines = _BoundedText(), io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    length = 0

    def move_lines() -> None:
        text.add(lines.getvalue().encode())
        lines.seek(0)
        lines.truncate()

    def iterate_rows() -> Iterator[list[str]]:
        nonlocal length
        for row in rows:
            cells = _to_cells([row.get(name) for name in names])
            length += _measure_row(cells)
            if length > _PART:
                move_lines()
                length = 0
            yield cells

    if header and names:
        length = _measure_row(names)
        writer.writerow(names)
    writer.writerows(iterate_rows())
    move_lines()
    return text.finish()


def _to_cells(values: list[Any]) -> list[str]:
    """Return the values of a row as texts."""
    if _CONTAINERS.isdisjoint(map(type, values)):
        return [to_text(value) for value in values]
    cells: list[str] = []
    left = MAX_ROW
    for value in values:
        try:
            cells.append(to_text(value, max(left, 0)))
        except TooLongError:
            raise TooLongError(MAX_ROW) from None
        left -= len(cells[-1])
    return cells


def _measure_row(cells: list[str]) -> int:
    """Return the characters of a row.

    Raises:
        TooLongError: there are too many. The writer of CSV takes up to eight bytes of memory for each.
    """
    length = sum(map(len, cells))
    if length > MAX_ROW:
        raise TooLongError(MAX_ROW)
    return length


def read_header(text: str) -> list[str]:
    r"""Return the column names of a CSV text, without their types. An empty text has none.

    >>> read_header("amount:number,name\n1,Ann\n")
    ['amount', 'name']
    """
    return [name for name, _ in _parse_header(next(iter(_read_rows(_split_lines(text))), (1, []))[1])]


def read_csv(
    lines: Iterable[str],
    check: Callable[[], object] = lambda: None,
    *,
    reserve: Callable[[int], object] = lambda _size: None,
) -> list[dict[str, Any]]:
    """Return the rows of CSV as objects.

    `check` is called for every line, and `reserve` with the bytes that the rows take, ahead in steps.

    Raises:
        FormatError: the text is not CSV, or a cell does not have the type of its column.
        ActionError: `LimitExceeded`, or what `reserve` raises.
    """
    size = reserved = 0

    def check_line(commas: int) -> None:
        check()
        if commas * CELL_BYTES > STEP_BYTES:
            reserve(size + commas * CELL_BYTES)

    rows = iter(_read_rows(lines, check_line))
    columns = _parse_header(next(rows, (1, []))[1])
    size = len(columns) * CELL_BYTES
    objects: list[dict[str, Any]] = []
    for line, row in rows:
        if len(row) != len(columns):
            raise FormatError(f"line {line} has {len(row)} cells, but the header has {len(columns)}")
        _check_count(len(columns) * (len(objects) + 1))
        converted = {
            name: _convert(cell, type_, name, line) for cell, (name, type_) in zip(row, columns, strict=True)
        }
        size += row_weight(converted)
        if size > reserved:
            reserved = size + STEP_BYTES
            reserve(reserved)
        objects.append(converted)
    return objects


def _decode_json(text: str, prefix: str, check: Callable[[], object]) -> Any:
    check()
    try:
        return read_json(text, check)
    except ValueError as error:
        raise FormatError(f"{prefix}invalid JSON: {error}") from None


def _check_count(count: int) -> None:
    if count > MAX_VALUES:
        raise ActionError(
            "LimitExceeded", f"the content has more than {MAX_VALUES:,} values", retryable=False
        )


def _split_lines(text: str) -> Iterable[str]:
    return (match[0] for match in _LINE.finditer(text))


def _read_rows(
    lines: Iterable[str], check: Callable[[int], object] = lambda _commas: None
) -> Iterable[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of its last line.

    `check` is called for every line with the commas of its row so far.
    """
    import csv

    commas = 0

    def count_commas() -> Iterable[str]:
        # The count comes before the row is built, because one row may contain all cells.
        nonlocal commas
        for line in lines:
            commas += line.count(",")
            _check_count(commas)
            check(commas)
            yield line

    reader = csv.reader(count_commas(), strict=True)
    try:
        for row in reader:
            commas = 0
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise FormatError(f"line {reader.line_num}: invalid CSV: {error}") from None


def _parse_header(cells: list[str]) -> list[tuple[str, str | None]]:
    """Return name and type of each column. A column without a known type has None."""
    columns: list[tuple[str, str | None]] = []
    for cell in cells:
        name, colon, type_ = cell.rpartition(":")
        is_typed = bool(colon) and type_.strip() in _CONVERTERS
        columns.append((name.strip(), type_.strip()) if is_typed else (cell.strip(), None))
    seen: set[str] = set()
    for name, _ in columns:
        if name in seen:
            raise FormatError(f"duplicate column {quote_text(name)}")
        seen.add(name)
    return columns


def _convert(cell: str, type_: str | None, name: str, line: int) -> Any:
    if type_ is None:
        return cell
    if cell.strip() == "" and type_ != "string":
        return None
    try:
        return _CONVERTERS[type_](cell)
    except ValueError:
        raise FormatError(
            f"line {line}: {quote_text(name)} is {quote_text(cell)}, not of type {type_}"
        ) from None


def _to_integer(cell: str) -> int:
    if "_" in cell:
        raise ValueError(cell)
    return int(cell)


def _to_number(cell: str) -> int | float:
    try:
        return _to_integer(cell)
    except ValueError:
        value = float(cell)
        if "_" in cell or not math.isfinite(value):
            raise
        return value


def _to_boolean(cell: str) -> bool:
    match cell.strip().lower():
        case "true":
            return True
        case "false":
            return False
    raise ValueError(cell)


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "integer": _to_integer,
    "number": _to_number,
    "boolean": _to_boolean,
}
