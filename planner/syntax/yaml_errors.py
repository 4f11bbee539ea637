"""Syntax errors of libyaml in plain words, at the position that must be changed."""

from __future__ import annotations

import re
from typing import NamedTuple

import yaml

from noetl.planner.diagnostics.diagnostic import Diagnostics, Label, Span
from noetl.planner.syntax.document import position


class _ErrorPattern(NamedTuple):
    """A translation of one error of libyaml.

    `libyaml_text` is a part of its message. `at_opening` is true if the fix belongs where the construct
    begins.
    """

    libyaml_text: str
    message: str
    hint: str | None = None
    at_opening: bool = False
    code: str = "NP001"


_UNCLOSED_QUOTE = ("missing closing quote", "close the text with the same quote", True)
_TAB_MESSAGE, _TAB_HINT = "a tab is used for indentation", "indent with spaces"
_PATTERNS = (
    _ErrorPattern(
        "mapping values are not allowed",
        "unexpected `:`",
        "quote a text that contains `: `; indent a key like its siblings",
    ),
    _ErrorPattern(
        "did not find expected key",
        "expected `key: value`",
        "indent a key like its siblings; quote the whole text, not a part of it",
    ),
    _ErrorPattern("did not find expected '-'", "expected `- `", "begin each item of the list with `- `"),
    _ErrorPattern("did not find expected ',' or ']'", "expected `,` or `]`", "close every `[` with a `]`"),
    _ErrorPattern("did not find expected ',' or '}'", "expected `,` or `}`", "close every `{` with a `}`"),
    _ErrorPattern("found unexpected end of stream", *_UNCLOSED_QUOTE),
    _ErrorPattern("found unexpected document indicator", *_UNCLOSED_QUOTE),
    _ErrorPattern(
        "found unknown escape character",
        "unknown escape in double quotes",
        "write `\\\\` for a backslash, or use single quotes",
    ),
    _ErrorPattern(
        "invalid Unicode character escape",
        "invalid Unicode escape",
        "write a character beyond U+FFFF as one pair of escapes, such as `\\ud83d\\ude00`",
    ),
    _ErrorPattern(
        "could not find expected ':'", "expected `key: value` on this line", "indent it like its siblings"
    ),
    _ErrorPattern(
        "undefined tag handle",
        "tags are not supported",
        "remove the tag; quotes make a value text",
        code="NP003",
    ),
    # libyaml reaches its own depth limit before the reader does only inside its lookahead of one line.
    _ErrorPattern("maximum nesting depth", "nested more than 64 levels deep", code="NP004"),
    _ErrorPattern("found a tab character", _TAB_MESSAGE, _TAB_HINT),
)


def report_yaml_error(error: yaml.MarkedYAMLError, text: str, diagnostics: Diagnostics) -> None:
    """Add a diagnostic for a libyaml error, unless its position already has a diagnostic."""
    problem = error.problem or "unreadable text"
    pattern = next(
        (p for p in _PATTERNS if p.libyaml_text in problem), _ErrorPattern("", f"invalid YAML: {problem}")
    )
    message, hint = pattern.message, pattern.hint
    opening = error.context_mark.index if error.context_mark else None
    length = len(text.rstrip())
    index = min(error.problem_mark.index, length) if error.problem_mark else 0
    if opening is not None and (pattern.at_opening or index == length):
        index = opening
    if "cannot start any token" in problem:
        if text[index] == "\t":
            message, hint = _TAB_MESSAGE, _TAB_HINT
        else:
            message, hint = f"unquoted text cannot begin with `{text[index]}`", "quote the text"
    elif (template_start := _find_unquoted_template(text, index)) is not None:
        index, opening = template_start, None
        message, hint = "a template must be quoted", 'write "{{ ... }}", with the quotes'
    labels = [] if opening in (None, index) else [Label(_character_span(text, opening), "it begins here")]
    span = _character_span(text, index)
    if not any((d.span.line, d.span.column) == (span.line, span.column) for d in diagnostics):
        diagnostics.add(pattern.code, message, span, hint, labels=labels)


def _character_span(text: str, index: int) -> Span:
    line, column = position(text, index)
    return Span(line, column, line, column + 1)


def _find_unquoted_template(text: str, index: int) -> int | None:
    """Return the offset of an unquoted template before `index`, on the same line or the line above it."""
    start = text.rfind("\n", 0, max(text.rfind("\n", 0, index), 0)) + 1
    for opening in re.finditer(r"\{\{", text[start : index + 2]):
        before = text[start : start + opening.start()].rpartition("\n")[2]
        if before.count('"') % 2 == before.count("'") % 2 == 0 and "#" not in before:
            return start + opening.start()
    return None
