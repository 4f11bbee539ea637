"""The text of a playbook, its data, and the position of every value.

Problem: a diagnostic must mark the value or the single word that is wrong, in a text with quotes, escapes,
folded lines and aliases.

Algorithm: a tree of YAML events in the shape of the data (YAML 1.2.2, 2021, section 3.2.1). A path finds its
node in one walk from the root. For a range inside a scalar, source characters are aligned with value
characters from left to right. The alignment follows the escape and folding rules of the quoting style
(chapters 7 and 8).

Cost: the tree takes one entry per node. Positions are computed only on request: O(depth) for a value,
O(length of the scalar) for a range inside it. The last scalar and all computed ranges are cached.

Limits: in folded lines, blanks that folding removed may count to either neighbour.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from noetl.planner.diagnostics.diagnostic import START, Span
from noetl.planner.frozen import replace
from noetl.planner.syntax.models import DocumentPath

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)+")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_PLAIN_CHARACTER = re.compile(r".", re.DOTALL)
_QUOTED_CHARACTERS = {
    "'": re.compile(r"''|.", re.DOTALL),
    '"': re.compile(r"\\(?:u[dD][89abAB]..\\u....|x..|u.{4}|U.{8}|[\r\n][ \t\r\n]*|.)|.", re.DOTALL),
}
"""Patterns for the source text of one character of a value, by the quotes of the scalar."""

_ScalarOffsets = tuple[Sequence[int], Sequence[int], list[int]]
"""Start and end offsets of each character of a value, and the offsets of the lines that begin inside the
scalar.
"""


class Collection:
    """A mapping or sequence: its data and, in the same shape, the nodes of its items.

    A node is the event of a scalar or another `Collection`. In a mapping it is paired with the event of its
    key. `end` is known for flow collections only. `height` counts the levels including this one. `first_node`
    is the number of this node in the order of the text. `aliased_before` counts the characters that aliases
    before it repeat.
    """

    __slots__ = ("aliased_before", "children", "data", "end", "first_node", "height", "start")

    def __init__(self, start: Any, data: Any, children: Any, first_node: int, aliased_before: int) -> None:
        self.start = start
        self.data = data
        self.children = children
        self.first_node = first_node
        self.aliased_before = aliased_before
        self.height = 1
        self.end: Any = None


class Document:
    """The text of a playbook, its data, and the position of every value.

    `data` shares objects where the text uses aliases, so callers must not modify it. A path without a value
    stands for its longest prefix that has one.
    """

    def __init__(self, text: str, data: Any, root: Any) -> None:
        self.text = text
        self.data = data
        self._root = root
        self._last_offsets: tuple[Any, _ScalarOffsets] | None = None
        self._text_spans: dict[tuple[int, int, int], Span] = {}

    def span(self, path: DocumentPath) -> Span:
        """Return the span of the value.

        A value of several lines has the span of its first line, an empty value that of its key.
        """
        key, node = self._find(path)
        span = span_of(self.text, node)
        if not _is_empty(span) or node is None:
            return span
        # An empty value has no text: mark its key, or the dash of its list item.
        return span_of(self.text, key) if key else replace(span, column=max(span.column - 1, 1))

    def line(self, path: DocumentPath) -> int:
        """Return the line of the span of the value, from 1."""
        _, node = self._find(path)
        if isinstance(node, Collection) and node.children:
            return int(node.start.start_mark.line) + 1
        return self.span(path).line

    def key_span(self, path: DocumentPath) -> Span:
        """Return the span of the key of the value, or of the value if it has no key."""
        key, _ = self._find(path)
        return self.span(path) if key is None else span_of(self.text, key)

    def text_span(self, path: DocumentPath, start: int, end: int) -> Span:
        """Return the span of the characters `start` to `end` (exclusive) of a scalar's value.

        For a value that is not a scalar, return the span of the whole value. In folded lines, blanks that
        folding removed may count to either side.
        """
        _, node = self._find(path)
        # All aliases of a scalar share its node.
        cache_key = (id(node), start, end)
        if (cached := self._text_spans.get(cache_key)) is not None:
            return cached
        starts, ends, line_starts = (
            ([], [], []) if node is None or isinstance(node, Collection) else self._offsets_of(node)
        )
        if not starts:
            return self.span(path)
        start = min(max(start, 0), len(starts))
        first = starts[start] if start < len(starts) else ends[-1]
        last = ends[min(end, len(ends)) - 1] if end > start else first
        mark = node.start_mark
        span = Span(
            *_position(self.text, first, mark, line_starts), *_position(self.text, last, mark, line_starts)
        )
        self._text_spans[cache_key] = span
        return span

    def written_keys(self, path: DocumentPath) -> frozenset[str]:
        """Return the keys of a mapping that have a value, also a wrong one. Nothing is no value."""
        return frozenset(key for key, value in self.value_at(path).items() if value is not None)

    def value_at(self, path: DocumentPath) -> Any:
        """Return the data at a path that the text has."""
        value = self.data
        for part in path:
            value = value[part]
        return value

    def node_at(self, path: DocumentPath) -> object:
        """Return the node of the value, which all its aliases share, or None if the text has no node."""
        return self._find(path)[1]

    def _offsets_of(self, scalar: Any) -> _ScalarOffsets:
        """Return the offsets of the scalar.

        The last scalar is cached, because callers ask for several words of it.
        """
        if self._last_offsets is None or self._last_offsets[0] is not scalar:
            line_starts = _line_starts(self.text, scalar.start_mark.index, scalar.end_mark.index)
            self._last_offsets = (scalar, (*_character_offsets(self.text, scalar), line_starts))
        return self._last_offsets[1]

    def _find(self, path: DocumentPath) -> tuple[Any, Any]:
        """Return the event of the key (None in a sequence) and the node of the longest prefix of the path."""
        key, node = None, self._root
        for part in path:
            if not isinstance(node, Collection):
                break
            if isinstance(node.children, dict):
                if part not in node.children:
                    break
                key, node = node.children[part]
            else:
                if not isinstance(part, int) or part >= len(node.children):
                    break
                key, node = None, node.children[part]
        return key, node


def span_of(text: str, node: Any) -> Span:
    """Return the span of an event or a collection; only its first line if it has several."""
    if not isinstance(node, Collection):
        return START if node is None else _first_line(text, node.start_mark, node.end_mark)
    start = node.start.start_mark
    if node.end is not None or not node.children:
        return _first_line(text, start, node.end or start)
    if isinstance(node.children, dict):
        key, child = next(iter(node.children.values()))
        end = span_of(text, key)
    else:
        end, child = _first_line(text, start, start), node.children[0]
    child_span = span_of(text, child)
    if child_span.line == start.line + 1 and not _is_empty(child_span):
        end = child_span
    return Span(start.line + 1, start.column + 1, end.end_line, end.end_column)


def _first_line(text: str, start: Any, end: Any) -> Span:
    if start.line == end.line:
        return Span(start.line + 1, start.column + 1, end.line + 1, end.column + 1)
    line_break = _LINE_BREAK.search(text, start.index)
    length = len(text[start.index : line_break.start() if line_break else None].rstrip(" \t"))
    return Span(start.line + 1, start.column + 1, start.line + 1, start.column + 1 + length)


def _is_empty(span: Span) -> bool:
    return (span.line, span.column) == (span.end_line, span.end_column)


def position(text: str, index: int, mark: Any = None) -> tuple[int, int]:
    r"""Return line and column of a character, both from 1. `mark` is an optional known position before it.

    >>> position("a: 1\nb: 2", 8)
    (2, 4)
    """
    return _position(text, index, mark, _line_starts(text, mark.index if mark else 0, index))


def _position(text: str, index: int, mark: Any, line_starts: Sequence[int]) -> tuple[int, int]:
    """Return the same as `position`.

    `line_starts` are the offsets of the lines that begin after the mark.
    """
    start, line, column = (mark.index, mark.line + 1, mark.column + 1) if mark else (0, 1, 1)
    if text.startswith("\r\n", index - 1):
        index -= 1
    passed = bisect_right(line_starts, index)
    return (line + passed, index - line_starts[passed - 1] + 1) if passed else (line, column + index - start)


def _line_starts(text: str, start: int, end: int) -> list[int]:
    return [line_break.end() for line_break in _LINE_BREAK.finditer(text, start, end)]


def _character_offsets(text: str, scalar: Any) -> tuple[Sequence[int], Sequence[int]]:
    """Return the start and end offsets in the text for each character of the scalar's value."""
    start, end = scalar.start_mark.index, scalar.end_mark.index
    if (scalar.anchor is not None or scalar.tag is not None) and (
        properties := _PROPERTIES.match(text, start, end)
    ):
        start = properties.end()
    if scalar.style in ("|", ">"):
        source_spans = iter(_block_character_spans(text, start, end, scalar.value))
    else:
        quote = 1 if scalar.style in _QUOTED_CHARACTERS else 0
        if text[start + quote : end - quote] == scalar.value:
            return range(start + quote, end - quote), range(start + quote + 1, end - quote + 1)
        pattern = _QUOTED_CHARACTERS.get(scalar.style, _PLAIN_CHARACTER)
        source_spans = (match.span() for match in pattern.finditer(text, start + quote, end - quote))
    starts, ends = [], []
    for character in scalar.value:
        for source_start, source_end in source_spans:
            source = text[source_start:source_end]
            # Folding removes blanks and breaks that do not match; it may turn a break into a blank.
            is_folded = source in " \t\r\n" or source[:2] in ("\\\r", "\\\n")
            if source == character or not is_folded or (character == " " and source in "\r\n"):
                starts.append(source_start)
                ends.append(source_end)
                break
    return starts, ends


def _block_character_spans(text: str, start: int, end: int, value: str) -> list[tuple[int, int]]:
    """Return the span of each character of a block scalar, without its header and its indentation."""
    lines = [line.span() for line in _LINE.finditer(text, start, end)][1:]
    indentation = 0
    for line_start, line_end in lines:
        if line := text[line_start:line_end].strip(" \t\r\n"):
            first = next((part for part in value.split("\n") if part.strip(" \t")), line)
            indentation = text.index(line, line_start) - line_start - (len(first) - len(first.lstrip(" ")))
            break
    spans = []
    for line_start, line_end in lines:
        break_start = line_start + len(text[line_start:line_end].rstrip("\r\n"))
        spans += [
            (offset, offset + 1) for offset in range(min(line_start + indentation, break_start), line_end)
        ]
    return spans
