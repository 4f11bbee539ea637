"""Syntax errors of templates in plain words, at the place that must be changed.

The executor parses templates too, but imports this module only after an error.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import NamedTuple

from noetl.planner.templates.foreign_syntax import find_operator_hint


class TemplateSyntaxProblem(NamedTuple):
    """A message with its hint, and the start and end of the text that it is about."""

    message: str
    hint: str | None
    start: int
    end: int


_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_CODE_ENDS = {"{{": "}}", "{%": "%}", "{#": "#}"}
_UNCLOSED_HINT = "close `{{` with `}}`, and `{%` with `%}`"
_TOKEN = re.compile(
    r"""'(?:\\.|[^'\\])*+(?:'|\\?\Z)|"(?:\\.|[^"\\])*+(?:"|\\?\Z)"""
    r"""|\{\{|\}\}|\{%|%\}|\w+|[=!<>]=|//|\*\*|\S""",
    re.DOTALL,
)
"""A token. A text that never ends extends to the end, so no text is scanned twice."""
_ENDS = ("}}", "%}", ")", "]", "}", ",", "")
_MISSING_AFTER = {
    "|": ("filter", "write the name of a filter, such as `value | upper`"),
    "is": ("test", "write the name of a test, such as `value is defined`"),
    ".": ("name", "write the name of an attribute"),
    "if": ("condition", "write a condition"),
    "elif": ("condition", "write a condition"),
}
_OPERATORS = frozenset(
    [*"+-*/%~<>=([{,:", "//", "**", "==", "!=", "<=", ">=", "and", "or", "not", "in", "else"]
)
_FOREIGN_WORDS = {
    "matches": "write `text | regex_search(pattern)`",
    "like": "write `text | regex_search(pattern)`",
    "contains": "write `part in whole`",
    "for": "write `list | map(…)` or `list | select(…)`",
    "lambda": "write a filter such as `map` or `select` instead of a function",
}


def explain_syntax_error(source: str, offset: int, message: str) -> TemplateSyntaxProblem:
    """Return the problem for an error of the parser of Jinja2 at an offset of the text."""
    opening = max((source.rfind(word, 0, offset + 1) for word in _CODE_ENDS), default=-1)
    tokens = list(takewhile(lambda match: match.start() < offset, _TOKEN.finditer(source, max(opening, 0))))
    found = _TOKEN.match(source, offset)
    word = found[0] if found else ""
    end = found.end() if found else offset + 1
    before = tokens[-1] if len(tokens) > 1 else None
    if message.startswith("expected token 'in'"):
        return TemplateSyntaxProblem(
            "missing `in` after `for`", "write `{% for item in list %}`", offset, end
        )
    problem = _explain_unclosed(source, offset, message, max(opening, 0), tokens)
    if problem is not None:
        return problem
    if hint := find_operator_hint(source, offset):
        return TemplateSyntaxProblem(f"unexpected `{_operator_at(source, offset)}`", hint, offset, end)
    if before is None and word in _ENDS:
        return TemplateSyntaxProblem("empty expression", "write a value between the braces", offset, end)
    if before is not None and (word in _ENDS or before[0] in (".", "|", "is")):
        missing = _explain_missing(before[0], offset, end)
        if missing is not None:
            return missing
    return _explain_unexpected(source, offset, before, word)


def _explain_unclosed(
    source: str, offset: int, message: str, opening: int, tokens: list[re.Match[str]]
) -> TemplateSyntaxProblem | None:
    """Return the problem of an opening brace, bracket or quote that nothing closes, or None."""
    code = source[opening : opening + 2]
    if message.startswith(("unexpected end of template", "missing end of comment", "expected end of")):
        message, hint = f"`{code}` is not closed", f"close it with `{_CODE_ENDS.get(code, '}}')}`"
        return TemplateSyntaxProblem(message, hint, opening, opening + 2)
    if message.startswith("unexpected char") and source[offset : offset + 1] in ("'", '"'):
        hint = "close the text with the same quote"
        return TemplateSyntaxProblem("missing closing quote", hint, offset, offset + 1)
    brackets: list[re.Match[str]] = []
    for token in tokens[1:]:
        if token[0] in _BRACKETS:
            brackets.append(token)
        elif token[0] in _BRACKETS.values() and brackets:
            brackets.pop()
    found = source[offset : offset + 1]
    if brackets and found in ("}", "%", ")", "]") and found != _BRACKETS[brackets[-1][0]]:
        bracket = brackets[-1]
        hint = f"close it with `{_BRACKETS[bracket[0]]}`"
        return TemplateSyntaxProblem(f"`{bracket[0]}` is not closed", hint, *bracket.span())
    if found == "}" and not source.startswith("}}", offset):
        return TemplateSyntaxProblem("unexpected `}`", _UNCLOSED_HINT, offset, offset + 1)
    return None


def _explain_missing(before: str, offset: int, end: int) -> TemplateSyntaxProblem | None:
    """Return the problem of an operator without the value after it, or None."""
    if before in _MISSING_AFTER:
        noun, hint = _MISSING_AFTER[before]
        return TemplateSyntaxProblem(f"missing {noun} after `{before}`", hint, offset, end)
    if before in _OPERATORS:
        hint = f"write a value after `{before}`, or remove it"
        return TemplateSyntaxProblem(f"missing value after `{before}`", hint, offset, end)
    return None


def _explain_unexpected(
    source: str, offset: int, before: re.Match[str] | None, word: str
) -> TemplateSyntaxProblem:
    """Return the problem of a word at a place where no word of its kind can be."""
    end = offset + max(len(word), 1)
    word = word or source[offset:end]
    previous = source[before.start() : min(before.end(), offset)] if before is not None else ""
    is_adjacent = before is not None and before.end() >= offset
    hint = _FOREIGN_WORDS.get(previous) or _FOREIGN_WORDS.get(word)
    if hint is None and word in _OPERATORS and (before is None or previous in _OPERATORS):
        hint = f"write a value before `{word}`"
    elif hint is None and source.rfind("{{", 0, offset) > source.find("{{") >= 0 and word[:1] in ("}", "{"):
        hint = "remove the inner `{{` and `}}`"
    elif hint is None and is_adjacent and previous[:1].isdigit():
        hint = "begin a name with a letter"
    elif hint is None and is_adjacent and previous[:1] in ("'", '"'):
        hint = "put a text that contains a quote into the other kind of quotes"
    elif hint is None and previous and (word[0].isalnum() or word[0] in "_'\""):
        hint = f"write an operator between `{previous}` and `{word}`, such as `~` to join texts"
    shown = ("unexpected backtick" if word == "`" else f"unexpected `{word}`") + (
        f" after `{previous}`" if previous and word not in ("}}", "%}") else ""
    )
    return TemplateSyntaxProblem(shown, hint or "remove it, or quote it if it is text", offset, end)


def _operator_at(source: str, offset: int) -> str:
    """Return the run of signs around an offset."""
    match = re.compile(r"[^\w\s'\"(){}\[\].,]+").match(source, offset)
    return match[0] if match else source[offset : offset + 1]
