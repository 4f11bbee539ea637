"""Rendering of diagnostics: with source lines, one on a line, as JSON, as SARIF, and as GitHub annotations.

Text of a playbook is made printable first; see `noetl.planner.diagnostics.terminal_text`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from noetl.planner.diagnostics.codes import CODES, Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic, Span
from noetl.planner.diagnostics.terminal_text import (
    character_width,
    format_json,
    printable_character,
    to_printable,
)

STDIN = "-"
"""The file name of a playbook that is read from standard input."""

_TAB_WIDTH = 4
_LINE_BREAK = re.compile("\r\n|\n|\r")
_SEVERITY_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}
_SECONDARY_STYLE = "blue"


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """The text of a playbook with its file name and its diagnostics."""

    file: str
    text: str
    diagnostics: tuple[Diagnostic, ...]


class StyledText(NamedTuple):
    """A piece of text with its `rich` style, which is used where the output has colours."""

    text: str
    style: str = ""


def count_findings(files: Iterable[CheckedFile], severity: Severity) -> int:
    """Return the number of findings with this severity."""
    return sum(finding.severity is severity for file in files for finding in file.diagnostics)


def summarise(files: Sequence[CheckedFile]) -> str:
    """Return a summary such as `2 errors and 1 warning in 3 files`."""
    numbers = ((count_findings(files, severity), severity.value) for severity in Severity)
    parts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in numbers if n] or ["no findings"]
    place = files[0].file if len(files) == 1 else f"{len(files)} files"
    return to_printable(f"{' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))} in {place}")


class _SourceLine:
    """A line of the source, converted character by character so that carets stand under the characters they
    mark.
    """

    def __init__(self, text: str) -> None:
        self._printable: list[str] = []
        self._starts = [0]
        for character in text:
            start = self._starts[-1]
            is_tab = character == "\t"
            printable = " " * (_TAB_WIDTH - start % _TAB_WIDTH) if is_tab else printable_character(character)
            self._printable.append(printable)
            self._starts.append(start + (len(printable) if is_tab else character_width(printable)))

    def cell(self, column: int) -> int:
        """Return the cell at which a column, counted from 1, starts; for columns after the end, the cell
        after the last.
        """
        return self._starts[min(column - 1, len(self._printable))]

    def clip(self, first: int, last: int) -> tuple[str, int]:
        """Return the characters between two cells, with `…` for removed parts, and the number of cells cut
        off before.
        """
        total = len(self._printable)
        begin = bisect_left(self._starts, first, 0, total)
        end = max(begin, bisect_right(self._starts, last) - 1)
        head, tail = "…" if begin else "", "…" if end < total else ""
        return head + "".join(self._printable[begin:end]) + tail, self._starts[begin] - len(head)

    @property
    def cells(self) -> int:
        """The width of the line in cells."""
        return self._starts[-1]


class _SourceLines:
    """The lines of a file, each of which is converted once.

    JSON without line breaks may have all findings on one line.
    """

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._converted: dict[int, _SourceLine] = {}

    @property
    def count(self) -> int:
        """The number of lines."""
        return len(self._lines)

    def get(self, number: int) -> _SourceLine:
        """Return a line by its number, from 1."""
        if number not in self._converted:
            self._converted[number] = _SourceLine(self._lines[number - 1])
        return self._converted[number]


class _Mark(NamedTuple):
    span: Span
    text: str
    sign: str
    style: str


def render_full(files: Sequence[CheckedFile], width: int = 100) -> Iterator[StyledText]:
    """Yield every finding with its source lines, carets, labels and hint.

    Lines are clipped to `width` cells.
    """
    for file in files:
        lines = _SourceLines(_LINE_BREAK.split(file.text))
        for diagnostic in file.diagnostics:
            yield from _render_finding(file.file, lines, diagnostic, width)
            yield StyledText("\n")


def _render_finding(
    file: str, lines: _SourceLines, diagnostic: Diagnostic, width: int
) -> Iterator[StyledText]:
    style = _SEVERITY_STYLE[diagnostic.severity]
    span = diagnostic.span
    yield StyledText(f"{diagnostic.severity.value}[{diagnostic.code}]", style)
    yield StyledText(f": {to_printable(diagnostic.message)}\n", "bold")

    marks = [_Mark(span, "", "^", style)]
    marks += [
        _Mark(label.span, to_printable(label.text), "-", _SECONDARY_STYLE) for label in diagnostic.labels
    ]
    numbers = sorted({mark.span.line for mark in marks if mark.span.line <= lines.count})
    gutter = len(str(numbers[-1] if numbers else span.line))
    margin = " " * gutter

    yield StyledText(f"{margin}--> ", _SECONDARY_STYLE)
    yield StyledText(f"{to_printable(file)}:{span.line}:{span.column}\n")
    if numbers:
        yield StyledText(f"{margin} |\n", _SECONDARY_STYLE)
    for previous, number in zip([None, *numbers], numbers, strict=False):
        if previous is not None and number > previous + 1:
            yield StyledText("...\n", _SECONDARY_STYLE)
        marks_on_line = [mark for mark in marks if mark.span.line == number]
        yield from _render_source_line(number, lines.get(number), marks_on_line, gutter, width)
    if diagnostic.hint:
        if numbers:
            yield StyledText(f"{margin} |\n", _SECONDARY_STYLE)
        yield StyledText(f"{margin} = ", _SECONDARY_STYLE)
        yield StyledText("help", "bold")
        yield StyledText(f": {to_printable(diagnostic.hint)}\n")


def _render_source_line(
    number: int, line: _SourceLine, marks: list[_Mark], gutter: int, width: int
) -> Iterator[StyledText]:
    available = max(width - gutter - 5, 20)
    first, last = 0, line.cells
    if line.cells > available:
        first = max(0, min(line.cell(marks[0].span.column) - available // 3, line.cells - available))
        last = first + available
    clipped, cut = line.clip(first, last)

    yield StyledText(f"{number:>{gutter}} | ", _SECONDARY_STYLE)
    yield StyledText(f"{clipped.rstrip()}\n")
    for mark in marks:
        begin = min(max(line.cell(mark.span.column), first), last)
        end = line.cell(mark.span.end_column) if mark.span.end_line == mark.span.line else line.cells
        length = max(min(end, last) - begin, 1)
        yield StyledText(f"{' ' * gutter} | ", _SECONDARY_STYLE)
        yield StyledText(" " * (begin - cut))
        yield StyledText(f"{mark.sign * length}{' ' if mark.text else ''}{mark.text}", mark.style)
        yield StyledText("\n")


def render_concise(files: Sequence[CheckedFile]) -> Iterator[StyledText]:
    """Yield `file:line:col: error: NP101 message (hint)`, one finding on a line: the format that editors
    read.
    """
    for file in files:
        for diagnostic in file.diagnostics:
            span = diagnostic.span
            yield StyledText(f"{to_printable(file.file)}:{span.line}:{span.column}: ")
            yield StyledText(f"{diagnostic.severity.value}:", _SEVERITY_STYLE[diagnostic.severity])
            hint = f" ({to_printable(diagnostic.hint)})" if diagnostic.hint else ""
            yield StyledText(f" {diagnostic.code} {to_printable(diagnostic.message)}{hint}\n")


def to_plain_text(parts: Iterable[StyledText]) -> str:
    """Return the text without styles."""
    return "".join(part.text for part in parts)


def render_json(files: Sequence[CheckedFile]) -> str:
    """Return `{"diagnostics": [...], "errors": n, "warnings": n}`; each diagnostic has its file."""
    report = {
        "diagnostics": [
            {"file": file.file, **finding.to_json()} for file in files for finding in file.diagnostics
        ],
        "errors": count_findings(files, Severity.ERROR),
        "warnings": count_findings(files, Severity.WARNING),
    }
    return format_json(report)


def render_sarif(files: Sequence[CheckedFile], version: str) -> str:
    """Return a SARIF 2.1.0 log of one run of the tool. `version` is the version of the tool."""
    codes = sorted({finding.code for file in files for finding in file.diagnostics})
    rules = [
        {
            "id": code,
            "shortDescription": {"text": CODES[code].title},
            "defaultConfiguration": {"level": CODES[code].severity.value},
        }
        for code in codes
    ]
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": codes.index(finding.code),
            "level": finding.severity.value,
            "message": {"text": _message_with_hint(finding)},
            "locations": [_sarif_location(file.file, finding.span)],
            "relatedLocations": [
                {**_sarif_location(file.file, label.span), "message": {"text": label.text}}
                for label in finding.labels
            ],
        }
        for file in files
        for finding in file.diagnostics
    ]
    driver = {"name": "noetl", "version": version, "rules": rules}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }
    return format_json(log)


def _sarif_location(file: str, span: Span) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": "stdin" if file == STDIN else quote(file.replace("\\", "/"))},
            "region": {
                "startLine": span.line,
                "startColumn": span.column,
                "endLine": span.end_line,
                "endColumn": span.end_column,
            },
        }
    }


def render_github(files: Sequence[CheckedFile]) -> str:
    """Return the workflow commands that GitHub Actions shows as annotations, one on a line."""
    commands = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
    lines = []
    for file in files:
        for finding in file.diagnostics:
            span = finding.span
            properties = {
                "title": f"noetl ({finding.code})",
                "file": file.file,
                "line": span.line,
                "col": span.column,
                "endLine": span.end_line,
                "endColumn": span.end_column,
            }
            encoded = ",".join(
                f"{name}={_escape_github_property(str(value))}" for name, value in properties.items()
            )
            text = f"{file.file}:{span.line}:{span.column}: {finding.code} {_message_with_hint(finding)}"
            lines.append(f"::{commands[finding.severity]} {encoded}::{_escape_github_text(text)}\n")
    return "".join(lines)


def _message_with_hint(finding: Diagnostic) -> str:
    return finding.message if finding.hint is None else f"{finding.message}\n{finding.hint}"


def _escape_github_text(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_github_property(text: str) -> str:
    return _escape_github_text(text).replace(":", "%3A").replace(",", "%2C")
