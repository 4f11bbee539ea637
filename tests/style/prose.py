"""Prose of the repository: docstrings, comments and Markdown, as paragraphs without code.

A string that is a statement of its own counts as a docstring, because it documents the name before it.
A line such as `Raises:` is a heading.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.style.source import SourceFile

INLINE_CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
HTML = re.compile(r"<!--.*?-->|</?[a-z][^>]*>", re.DOTALL)
FENCE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1", re.DOTALL | re.MULTILINE)
LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+")
HEADING = re.compile(r"#+\s+|[A-Z]\w+:$")
CODE_INDENT = 4
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|etc|vs|cf|approx|al|no)\.", re.IGNORECASE)
SENTENCE_END = re.compile(r"""(?<=[.!?])["')\]*_]*\s+(?=["'(\[*_]*[A-Z0-9])""")


class Paragraph(NamedTuple):
    """A paragraph, list item or heading. Inline code is replaced by the word `CODE`."""

    path: str
    line: int
    text: str


class Sentence(NamedTuple):
    """A sentence, on one line."""

    path: str
    line: int
    text: str

    @property
    def word_count(self) -> int:
        return sum(any(map(str.isalnum, word)) for word in self.text.split())


def documentation(file: SourceFile) -> Iterator[Paragraph]:
    """Yield the paragraphs of the docstrings or the Markdown of `file`."""
    if file.suffix == ".md":
        yield from _paragraphs(file.path, 1, _without_blocks(file.text))
    elif file.suffix == ".py":
        for node in file.nodes:
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield from _paragraphs(file.path, node.lineno, inspect.cleandoc(node.value.value))


def comments(file: SourceFile) -> Iterator[Paragraph]:
    """Yield the comments of `file`, unless it is a page or a playbook of a test."""
    is_code = file.suffix == ".py" or (file.suffix != ".md" and not file.is_test)
    for comment in file.comments if is_code else ():
        yield Paragraph(file.path, comment.line, _plain(comment.text))


def sentences(paragraph: Paragraph) -> Iterator[Sentence]:
    """Yield the sentences of `paragraph`."""
    text = ABBREVIATION.sub(lambda match: match[0].replace(".", ""), paragraph.text)
    start = 0
    for end in [match.end() for match in SENTENCE_END.finditer(text)] + [len(text)]:
        line = paragraph.line + text.count("\n", 0, start)
        yield Sentence(paragraph.path, line, " ".join(text[start:end].split()))
        start = end


def _without_blocks(text: str) -> str:
    """Empty code blocks and HTML comments of Markdown. Lines keep their numbers."""
    for block in (FENCE, HTML):
        text = block.sub(lambda match: "\n" * match[0].count("\n"), text)
    return text


def _paragraphs(path: str, first_line: int, text: str) -> Iterator[Paragraph]:
    start, lines, indent = 0, list[str](), 0
    in_example = False
    for number, line in enumerate([*text.splitlines(), ""], first_line):
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        bullet = LIST_ITEM.match(line)
        is_code = not lines and not bullet and _indent_of(line) >= indent + CODE_INDENT
        is_break = not line.strip() or line.lstrip().startswith("|") or in_example or is_code
        if lines and (is_break or bullet or HEADING.match(line)):
            yield Paragraph(path, start, _plain("\n".join(lines)))
            lines = []
        if is_break:
            continue
        if not lines:
            start, indent = number, bullet.end() if bullet else _indent_of(line)
        lines.append(line)
        if HEADING.match(line):
            yield Paragraph(path, start, _plain(line))
            lines = []


def _plain(text: str) -> str:
    text = INLINE_CODE.sub(lambda match: "CODE" + "\n" * match[0].count("\n"), text)
    text = LINK.sub(r"\1", text)
    for prefix in (LIST_ITEM, HEADING):
        if match := prefix.match(text):
            text = text[match.end() :]
    return text


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())
