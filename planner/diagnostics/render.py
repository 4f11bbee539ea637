"""Diagnostics for people and for programs: with the source, one a line, as JSON, SARIF and GitHub annotations.

What comes from a playbook never reaches a terminal raw: control characters and those that turn the direction of
text are replaced by visible ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from noetl.planner.diagnostics.codes import CODES, Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic, Span
from noetl.planner.diagnostics.terminal_text import _visible_character, _width, visible

STDIN = "-"
"""The name under which a playbook read from standard input is reported."""

_TAB_WIDTH = 4
_LINE_BREAK = re.compile("\r\n|\n|\r")
_SEVERITY_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}
_SECONDARY_STYLE = "blue"


@dataclass(frozen=True, slots=True)
class Checked:
    """A playbook's text under the name its user knows it by, and what was found in it."""

    file: str
    text: str
    diagnostics: tuple[Diagnostic, ...]


class Fragment(NamedTuple):
    """A piece of text and the `rich` style it has where there are colours."""

    text: str
    style: str = ""


def count(checked: Iterable[Checked], severity: Severity) -> int:
    """How many findings have this severity."""
    return sum(d.severity is severity for c in checked for d in c.diagnostics)


def summary(checked: Sequence[Checked]) -> str:
    """`2 errors and 1 warning in 3 files`."""
    numbers = ((count(checked, severity), severity.value) for severity in Severity)
    found = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in numbers if n] or ["no findings"]
    files = checked[0].file if len(checked) == 1 else f"{len(checked)} files"
    return visible(f"{' and '.join(filter(None, [', '.join(found[:-1]), found[-1]]))} in {files}")


class _Line:
    """A line of the source as it is shown: cell by cell, so that carets stand under the characters they mean."""

    def __init__(self, text: str) -> None:
        self._shown: list[str] = []
        self._starts = [0]
        for character in text:
            at = self._starts[-1]
            shown = (
                " " * (_TAB_WIDTH - at % _TAB_WIDTH) if character == "\t" else _visible_character(character)
            )
            self._shown.append(shown)
            self._starts.append(at + (len(shown) if character == "\t" else _width(shown)))

    def cell(self, column: int) -> int:
        """The cell at which the column, from 1, begins; that behind the last one for columns beyond the end."""
        return self._starts[min(column - 1, len(self._shown))]

    def clip(self, first: int, last: int) -> tuple[str, int]:
        """The characters that lie within the cells, with `…` where something is left out, and the cells cut off."""
        total = len(self._shown)
        begin = next((i for i in range(total) if self._starts[i] >= first), total)
        end = max((i for i in range(begin, total + 1) if self._starts[i] <= last), default=begin)
        head, tail = "…" if begin else "", "…" if end < total else ""
        return head + "".join(self._shown[begin:end]) + tail, self._starts[begin] - len(head)

    @property
    def cells(self) -> int:
        return self._starts[-1]


class _Mark(NamedTuple):
    span: Span
    text: str
    sign: str
    style: str


def full(checked: Sequence[Checked], width: int = 100) -> Iterator[Fragment]:
    """Every finding with its source line, carets, second places and hint; lines are clipped to `width` cells."""
    for source in checked:
        lines = _LINE_BREAK.split(source.text)
        for diagnostic in source.diagnostics:
            yield from _finding(source.file, lines, diagnostic, width)
            yield Fragment("\n")


def _finding(file: str, lines: list[str], diagnostic: Diagnostic, width: int) -> Iterator[Fragment]:
    style = _SEVERITY_STYLE[diagnostic.severity]
    span = diagnostic.span
    yield Fragment(f"{diagnostic.severity.value}[{diagnostic.code}]", style)
    yield Fragment(f": {visible(diagnostic.message)}\n", "bold")

    marks = [_Mark(span, "", "^", style)]
    marks += [_Mark(label.span, visible(label.text), "-", _SECONDARY_STYLE) for label in diagnostic.labels]
    numbers = sorted({mark.span.line for mark in marks if mark.span.line <= len(lines)})
    gutter = len(str(numbers[-1] if numbers else span.line))
    margin = " " * gutter

    yield Fragment(f"{margin}--> ", _SECONDARY_STYLE)
    yield Fragment(f"{visible(file)}:{span.line}:{span.column}\n")
    if numbers:
        yield Fragment(f"{margin} |\n", _SECONDARY_STYLE)
    for before, number in zip([None, *numbers], numbers, strict=False):
        if before is not None and number > before + 1:
            yield Fragment("...\n", _SECONDARY_STYLE)
        here = [mark for mark in marks if mark.span.line == number]
        yield from _source_line(number, lines[number - 1], here, gutter, width)
    if diagnostic.hint:
        if numbers:
            yield Fragment(f"{margin} |\n", _SECONDARY_STYLE)
        yield Fragment(f"{margin} = ", _SECONDARY_STYLE)
        yield Fragment("help", "bold")
        yield Fragment(f": {visible(diagnostic.hint)}\n")


def _source_line(number: int, text: str, marks: list[_Mark], gutter: int, width: int) -> Iterator[Fragment]:
    line = _Line(text)
    room = max(width - gutter - 5, 20)
    first, last = 0, line.cells
    if line.cells > room:
        first = max(0, min(line.cell(marks[0].span.column) - room // 3, line.cells - room))
        last = first + room
    shown, cut = line.clip(first, last)

    yield Fragment(f"{number:>{gutter}} | ", _SECONDARY_STYLE)
    yield Fragment(f"{shown.rstrip()}\n")
    for mark in marks:
        begin = min(max(line.cell(mark.span.column), first), last)
        end = line.cell(mark.span.end_column) if mark.span.end_line == mark.span.line else line.cells
        length = max(min(end, last) - begin, 1)
        yield Fragment(f"{' ' * gutter} | ", _SECONDARY_STYLE)
        yield Fragment(" " * (begin - cut))
        yield Fragment(f"{mark.sign * length}{' ' if mark.text else ''}{mark.text}", mark.style)
        yield Fragment("\n")


def concise(checked: Sequence[Checked]) -> Iterator[Fragment]:
    """`file:line:col: error: NP101 message`, one finding a line, with its hint in brackets: what compilers print and
    editors read.
    """
    for source in checked:
        for diagnostic in source.diagnostics:
            span = diagnostic.span
            yield Fragment(f"{visible(source.file)}:{span.line}:{span.column}: ")
            yield Fragment(f"{diagnostic.severity.value}:", _SEVERITY_STYLE[diagnostic.severity])
            hint = f" ({visible(diagnostic.hint)})" if diagnostic.hint else ""
            yield Fragment(f" {diagnostic.code} {visible(diagnostic.message)}{hint}\n")


def plain(fragments: Iterable[Fragment]) -> str:
    """The text of the fragments."""
    return "".join(fragment.text for fragment in fragments)


def as_json(checked: Sequence[Checked]) -> str:
    """`{"diagnostics": [...], "errors": n, "warnings": n}`, each diagnostic with its file."""
    report = {
        "diagnostics": [{"file": c.file, **d.to_json()} for c in checked for d in c.diagnostics],
        "errors": count(checked, Severity.ERROR),
        "warnings": count(checked, Severity.WARNING),
    }
    return _dump(report)


def sarif(checked: Sequence[Checked], version: str) -> str:
    """A SARIF 2.1.0 log of one run of the tool, whose version is given."""
    codes = sorted({d.code for c in checked for d in c.diagnostics})
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
            "ruleId": d.code,
            "ruleIndex": codes.index(d.code),
            "level": d.severity.value,
            "message": {"text": d.message if d.hint is None else f"{d.message}\n{d.hint}"},
            "locations": [_sarif_location(c.file, d.span)],
            "relatedLocations": [
                {**_sarif_location(c.file, label.span), "message": {"text": label.text}} for label in d.labels
            ],
        }
        for c in checked
        for d in c.diagnostics
    ]
    driver = {"name": "noetl", "version": version, "rules": rules}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }
    return _dump(log)


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


def github(checked: Sequence[Checked]) -> str:
    """Workflow commands that GitHub Actions shows as annotations, one a line."""
    commands = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
    out = []
    for source in checked:
        for d in source.diagnostics:
            properties = {
                "title": f"noetl ({d.code})",
                "file": source.file,
                "line": d.span.line,
                "col": d.span.column,
                "endLine": d.span.end_line,
                "endColumn": d.span.end_column,
            }
            listed = ",".join(f"{name}={_github_property(str(value))}" for name, value in properties.items())
            text = d.message if d.hint is None else f"{d.message}\n{d.hint}"
            place = f"{source.file}:{d.span.line}:{d.span.column}: {d.code} "
            out.append(f"::{commands[d.severity]} {listed}::{_github_text(place + text)}\n")
    return "".join(out)


def _github_text(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _github_property(text: str) -> str:
    return _github_text(text).replace(":", "%3A").replace(",", "%2C")


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
