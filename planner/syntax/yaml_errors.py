"""Syntax errors of libyaml in plain words, at the position that must be changed."""

from __future__ import annotations

import re
from typing import NamedTuple

import yaml

from noetl.planner.diagnostics.diagnostic import Diagnostics, Label, Span
from noetl.planner.diagnostics.wording import abbreviate
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
    _ErrorPattern(
        "did not find expected ',' or ']'",
        "expected `,` or `]`",
        "write `,` between two entries, and close every `[` with a `]`",
    ),
    _ErrorPattern(
        "did not find expected ',' or '}'",
        "expected `,` or `}`",
        "write `,` between two entries, and close every `{` with a `}`",
    ),
    _ErrorPattern(
        "did not find expected node content", "a value is missing", "write a value, or remove the `,`"
    ),
    _ErrorPattern("block sequence entries are not", "unexpected `- `", "begin the list on the next line"),
    _ErrorPattern("mapping keys are not allowed", "unexpected `? `", "quote the text"),
    _ErrorPattern(
        "expected <document start>", "unexpected text after the playbook", "indent it like the keys above"
    ),
    _ErrorPattern(
        "expected alphabetic or numeric character",
        "unquoted text cannot begin with `&` or `*`",
        "quote the text",
        at_opening=True,
    ),
    _ErrorPattern(
        "expected comment or line break", "unexpected text on this line", "begin the text on the next line"
    ),
    _ErrorPattern(
        "indentation indicator equal to 0", "invalid indentation after `|` or `>`", "write 1 to 9, or nothing"
    ),
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


_BRACKET_ERRORS = (
    "did not find expected ',' or ']'",
    "did not find expected ',' or '}'",
    "did not find expected node content",
    "did not find expected key",
    "expected <document start>",
)
_CLOSING = {"[": "]", "{": "}"}
_BRACKETS = re.compile(r"""(?<![^\s,\[{:])(?:"(?:\\[\s\S]|[^"\\])*"|'(?:''|[^'])*')|(?<!\S)#.*|[\[\]{}]""")
"""A quoted text, a comment or a bracket."""

_BLOCK_START = re.compile(r"[ ]*(?:- |[^\s,\[\]{}\"']+:(?:[ ]|$))", re.MULTILINE)
"""The beginning of a line that is an item of a list, or has a key."""

_BEGINS_WITH_DIRECTIVE = re.compile(r"(?:[ ]*(?:#.*)?\n)*%")
_DIRECTIVE_HINT = "remove the line that begins with `%`"
_KEY_WITHOUT_BLANK = re.compile(r"[ ]*(?:- )?(?P<key>[A-Za-z_]+):(?P<value>[^\s/:][^:\n]*)\n")


def report_yaml_error(error: yaml.MarkedYAMLError, text: str, diagnostics: Diagnostics) -> None:
    """Add a diagnostic for a libyaml error, unless its position already has a diagnostic."""
    problem = error.problem or "unreadable text"
    pattern = next(
        (p for p in _PATTERNS if p.libyaml_text in problem), _ErrorPattern("", f"invalid YAML: {problem}")
    )
    message, hint = pattern.message, pattern.hint or "check the indentation, or quote the text"
    opening = error.context_mark.index if error.context_mark else None
    length = len(text.rstrip())
    index = min(error.problem_mark.index, length) if error.problem_mark else 0
    if opening is not None and (pattern.at_opening or index == length):
        index = opening
    if "document start" in problem and _BEGINS_WITH_DIRECTIVE.match(text):
        message, hint, opening = "directives are not supported", _DIRECTIVE_HINT, None
        index = text.index("%")
    elif "directive" in f"{error.context} {problem}" and "document indicator" not in problem:
        message, hint, opening = "directives are not supported", _DIRECTIVE_HINT, None
        index = text.rfind("\n", 0, index) + 1
    elif "cannot start any token" in problem:
        if text[index] == "\t":
            message, hint = _TAB_MESSAGE, _TAB_HINT
        else:
            shown = "a backtick" if text[index] == "`" else f"`{text[index]}`"
            message, hint = f"unquoted text cannot begin with {shown}", "quote the text"
    elif (template_start := _find_unquoted_template(text, index)) is not None:
        index, opening = template_start, None
        message, hint = "a template must be quoted", 'write "{{ ... }}", with the quotes'
    elif "mapping values" in problem and (key := _find_key_without_blank(text, index)) is not None:
        index, message, hint = key
    elif (
        pattern.libyaml_text in _BRACKET_ERRORS and (bracket := _find_wrong_bracket(text, index)) is not None
    ):
        index, message, hint = bracket
        opening = None
    labels = [] if opening in (None, index) else [Label(_character_span(text, opening), "it begins here")]
    span = _character_span(text, index)
    if not any((d.span.line, d.span.column) == (span.line, span.column) for d in diagnostics):
        diagnostics.add(pattern.code, message, span, hint, labels=labels)


def _find_key_without_blank(text: str, index: int) -> tuple[int, str, str] | None:
    """Return the offset of a `:` without a blank on the line above `index`, a message and a hint, or None."""
    line_start = text.rfind("\n", 0, index) + 1
    match = _KEY_WITHOUT_BLANK.fullmatch(text, text.rfind("\n", 0, max(line_start - 1, 0)) + 1, line_start)
    if match is None:
        return None
    example = abbreviate(f"{match['key']}: {match['value'].strip()}")
    return match.end("key"), "missing blank after `:`", f"write `{example}`"


def _find_wrong_bracket(text: str, index: int) -> tuple[int, str, str] | None:
    """Return the offset of a bracket without its counterpart, a message and a hint, or None.

    `index` is where libyaml stopped. Brackets in quotes and in comments do not count.
    """
    open_brackets: list[int] = []
    for match in _BRACKETS.finditer(text, 0, index):
        if match[0] in _CLOSING:
            open_brackets.append(match.start())
        elif match[0] in _CLOSING.values() and open_brackets:
            open_brackets.pop()
    found = text[index : index + 1]
    if found in ("]", "}") and not open_brackets:
        return index, f"`{found}` closes nothing", "remove it, or quote the text that contains it"
    block = _BLOCK_START.match(text, text.rfind("\n", 0, index) + 1)
    is_block = block is not None and index < block.end()
    if not open_brackets or (found not in ("", "]", "}") and not is_block):
        return None
    start = open_brackets[-1]
    if found and found == _CLOSING[text[start]]:
        return None
    return start, f"`{text[start]}` is not closed", f"close it with `{_CLOSING[text[start]]}`"


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
