"""Fixes of findings: the edit of the text that replaces a misspelt word.

Problem: an editor offers to replace a word, so it needs the exact range of the text and the new characters.
The span of a finding may be larger than the word, and the word may be in quotes.

Algorithm: the word is searched in the text at the span. If it occurs once, that range is replaced. The new
word is written as the quotes around it require. Without quotes, a word that YAML would not read as the same
text gets quotes.

Cost: linear in the length of the text, once if any finding has a suggestion.

Limits: no edit for a word that spans lines, or that is written with escapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from noetl.planner.diagnostics.diagnostic import Diagnostic, Span, Suggestion, TextEdit

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_PLAIN_WORD = re.compile(r"[^\W\d][\w ./-]*(?<! )")
_YAML_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def add_fixes(findings: Iterable[Diagnostic], text: str) -> tuple[Diagnostic, ...]:
    """Return the findings, with an edit where the hint is a suggestion. All hints are plain text then."""
    lines: Sequence[str] | None = None
    fixed = []
    for finding in findings:
        if isinstance(finding.hint, Suggestion):
            lines = _LINE_BREAK.split(text) if lines is None else lines
            fix = _find_edit(finding.span, finding.hint, lines)
            fixed.append(replace(finding, hint=str(finding.hint), fix=fix))
        else:
            fixed.append(finding)
    return tuple(fixed)


def apply_edits(text: str, edits: Iterable[TextEdit]) -> str:
    r"""Return the text with all edits that do not overlap an earlier one.

    >>> apply_edits("a: 1\nb: 2", [TextEdit(Span(2, 1, 2, 2), "c")])
    'a: 1\nc: 2'
    """
    starts = [0, *(line_break.end() for line_break in _LINE_BREAK.finditer(text))]
    parts, position = [], 0
    for edit in sorted(set(edits), key=lambda edit: edit.span):
        start = starts[edit.span.line - 1] + edit.span.column - 1
        if start >= position:
            parts += [text[position:start], edit.text]
            position = starts[edit.span.end_line - 1] + edit.span.end_column - 1
    return "".join([*parts, text[position:]])


def _find_edit(span: Span, suggestion: Suggestion, lines: Sequence[str]) -> TextEdit | None:
    if span.line != span.end_line or span.line > len(lines):
        return None
    line = lines[span.line - 1]
    source = line[span.column - 1 : span.end_column - 1]
    if not suggestion.word or source.count(suggestion.word) != 1:
        return None
    column = span.column + source.index(suggestion.word)
    end_column = column + len(suggestion.word)
    before, after = line[: column - 1][-1:], line[end_column - 1 :][:1]
    new = _write(suggestion.meant, before if before == after and before in ("'", '"') else "")
    return TextEdit(Span(span.line, column, span.line, end_column), new)


def _write(word: str, quote: str) -> str:
    """Return a word as YAML reads it, inside of these quotes or without any."""
    if quote == "'":
        return word.replace("'", "''")
    written = json.dumps(word, ensure_ascii=False)
    if quote:
        return written[1:-1]
    return word if _PLAIN_WORD.fullmatch(word) and word.lower() not in _YAML_WORDS else written
