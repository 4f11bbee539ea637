"""What libyaml says about text that is not YAML, in plain words and at the place that has to be changed."""

from __future__ import annotations

import re
from typing import NamedTuple

import yaml
from noetl.planner.diagnostics.diagnostic import Diagnostics, Label, Span
from noetl.planner.syntax.document import position


class _Complaint(NamedTuple):
    """`said` is a part of libyaml's message; `at_opening` is true where the fault lies at what was opened."""

    said: str
    message: str
    hint: str | None = None
    at_opening: bool = False
    code: str = "NP001"


_UNCLOSED = ("this quotation is never closed", "close it with the same quote", True)
_COMPLAINTS = (
    _Complaint(
        "mapping values are not allowed",
        "`:` cannot stand here",
        "write a text that has `: ` in it in quotes; indent a key as its neighbours",
    ),
    _Complaint(
        "did not find expected key",
        "expected `key: value` here",
        "indent a key as its neighbours; put the whole of a text in quotes, not a part of it",
    ),
    _Complaint("did not find expected '-'", "expected `- ` here, as before the items above"),
    _Complaint("did not find expected ',' or ']'", "expected `,` or `]` here", "close every `[` with a `]`"),
    _Complaint("did not find expected ',' or '}'", "expected `,` or `}` here", "close every `{` with a `}`"),
    _Complaint("found unexpected end of stream", *_UNCLOSED),
    _Complaint("found unexpected document indicator", *_UNCLOSED),
    _Complaint(
        "found unknown escape character",
        "no such escape in double quotes",
        "write `\\\\` for a backslash, or use single quotes",
    ),
    _Complaint(
        "invalid Unicode character escape",
        "this escape is not a character",
        "a character beyond U+FFFF is one pair of escapes, such as `\\ud83d\\ude00`",
    ),
    _Complaint(
        "could not find expected ':'", "expected `key: value` on this line", "indent it as its neighbours"
    ),
    _Complaint(
        "undefined tag handle", "tags are not read", "leave it out; quotes make a value text", code="NP003"
    ),
    # Further than its one line of lookahead libyaml does not get before the reader's own limit.
    _Complaint("maximum nesting depth", "nested more than 64 levels deep", code="NP004"),
    _Complaint("found a tab character", "a tab is used to indent", "indent with spaces"),
)


def report_syntax(error: yaml.MarkedYAMLError, text: str, diagnostics: Diagnostics) -> None:
    """Add what libyaml found wrong in `text`, unless something has been said of that place already."""
    said = error.problem or "it cannot be read"
    complaint = next((c for c in _COMPLAINTS if c.said in said), _Complaint(said, f"not YAML: {said}"))
    message, hint = complaint.message, complaint.hint
    opening = error.context_mark.index if error.context_mark else None
    length = len(text.rstrip())
    index = min(error.problem_mark.index, length) if error.problem_mark else 0
    if opening is not None and (complaint.at_opening or index == length):
        index = opening
    if "cannot start any token" in said:
        if text[index] == "\t":
            message, hint = "a tab is used to indent", "indent with spaces"
        else:
            message, hint = f"text without quotes cannot begin with `{text[index]}`", "write it in quotes"
    elif (template := _template_without_quotes(text, index)) is not None:
        index, opening = template, None
        message, hint = "a template stands in quotes", 'write "{{ ... }}", with the quotes'
    labels = [] if opening in (None, index) else [Label(_character(text, opening), "this begins here")]
    span = _character(text, index)
    if not any((found.span.line, found.span.column) == (span.line, span.column) for found in diagnostics):
        diagnostics.add(complaint.code, message, span, hint, labels=labels)


def _character(text: str, index: int) -> Span:
    line, column = position(text, index)
    return Span(line, column, line, column + 1)


def _template_without_quotes(text: str, index: int) -> int | None:
    """Where a template without quotes begins, before `index` and on its line or the one above; None without one."""
    start = text.rfind("\n", 0, max(text.rfind("\n", 0, index), 0)) + 1
    for found in re.finditer(r"\{\{", text[start : index + 2]):
        before = text[start : start + found.start()].rpartition("\n")[2]
        if before.count('"') % 2 == before.count("'") % 2 == 0 and "#" not in before:
            return start + found.start()
    return None
