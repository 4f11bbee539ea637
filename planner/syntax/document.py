"""A playbook's text, the data in it and where each value stands."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from noetl.planner.diagnostics.diagnostic import START, Span
from noetl.planner.syntax.models import DocumentPath

_LINE_END = re.compile(r"\r\n|\r|\n")
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)+")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_PLAIN_PIECE = re.compile(r".", re.DOTALL)
_PIECES = {
    "'": re.compile(r"''|.", re.DOTALL),
    '"': re.compile(r"\\(?:u[dD][89abAB]..\\u....|x..|u.{4}|U.{8}|[\r\n][ \t\r\n]*|.)|.", re.DOTALL),
}
"""What stands for one character of a value, by the scalar's quotes."""


class Collection:
    """A mapping or sequence: its data, and beside it, in the same shape, the places of what is in it.

    A place is a scalar's event or another `Collection`; in a mapping it is paired with the event of its key.
    `end` is known for flow collections only. `height` counts the levels, this one included. `first_node` is its
    number among all nodes.
    """

    __slots__ = ("children", "data", "end", "first_node", "height", "start")

    def __init__(self, start: Any, data: Any, children: Any, first_node: int) -> None:
        self.start = start
        self.data = data
        self.children = children
        self.first_node = first_node
        self.height = 1
        self.end: Any = None


class Document:
    """A playbook's text, the data in it and where each value stands.

    `data` shares objects where the text uses aliases: it is to be read, not changed. Positions are worked out when
    they are asked for. A path that leads nowhere stands for its longest part that leads somewhere.
    """

    def __init__(self, text: str, data: Any, root: Any) -> None:
        self.text = text
        self.data = data
        self._root = root
        self._last_offsets: tuple[Any, tuple[Sequence[int], Sequence[int], list[int]]] | None = None
        self._text_spans: dict[tuple[int, int, int], Span] = {}

    def span(self, path: DocumentPath) -> Span:
        """Where the value stands; its first line, when it has several. An empty value stands where its key does."""
        key, place = self._find(path)
        span = span_of(self.text, place)
        if not _is_empty(span) or place is None:
            return span
        # Nothing is written there: what is before it can be seen, a key or the dash of an item.
        return span_of(self.text, key) if key else replace(span, column=max(span.column - 1, 1))

    def key_span(self, path: DocumentPath) -> Span:
        """Where the key that leads to the value stands; the value's place when no key does."""
        key, _ = self._find(path)
        return self.span(path) if key is None else span_of(self.text, key)

    def text_span(self, path: DocumentPath, start: int, end: int) -> Span:
        """Where the characters `start` to `end` (exclusive) of a scalar's value stand in the document.

        Exact but for folded lines, where blanks that folding removed may count to either side. The place of the
        whole value for anything that is not a scalar.
        """
        _, place = self._find(path)
        # A scalar that has many aliases is one place.
        asked = (id(place), start, end)
        if (known := self._text_spans.get(asked)) is not None:
            return known
        starts, ends, breaks = (
            ([], [], []) if place is None or isinstance(place, Collection) else self._offsets_of(place)
        )
        if not starts:
            return self.span(path)
        start = min(max(start, 0), len(starts))
        first = starts[start] if start < len(starts) else ends[-1]
        beyond = ends[min(end, len(ends)) - 1] if end > start else first
        mark = place.start_mark
        span = Span(*_position(self.text, first, mark, breaks), *_position(self.text, beyond, mark, breaks))
        self._text_spans[asked] = span
        return span

    def node_at(self, path: DocumentPath) -> object:
        """What the value is in the text, which all aliases of one value have in common; None where nothing is."""
        return self._find(path)[1]

    def _offsets_of(self, place: Any) -> tuple[Sequence[int], Sequence[int], list[int]]:
        """Where the characters of a scalar's value begin and end, and where lines begin within it: of one scalar many words are
        asked for, one after the other.
        """
        if self._last_offsets is None or self._last_offsets[0] is not place:
            breaks = _breaks(self.text, place.start_mark.index, place.end_mark.index)
            self._last_offsets = (place, (*_offsets(self.text, place), breaks))
        return self._last_offsets[1]

    def _find(self, path: DocumentPath) -> tuple[Any, Any]:
        key, place = None, self._root
        for part in path:
            if not isinstance(place, Collection):
                break
            if isinstance(place.children, dict):
                if part not in place.children:
                    break
                key, place = place.children[part]
            else:
                if not isinstance(part, int) or part >= len(place.children):
                    break
                key, place = None, place.children[part]
        return key, place


def span_of(text: str, place: Any) -> Span:
    """Where an event or a collection stands in the text; its first line, when it has several."""
    if not isinstance(place, Collection):
        return START if place is None else _first_line(text, place.start_mark, place.end_mark)
    start = place.start.start_mark
    if place.end is not None or not place.children:
        return _first_line(text, start, place.end or start)
    if isinstance(place.children, dict):
        key, child = next(iter(place.children.values()))
        end = span_of(text, key)
    else:
        end, child = _first_line(text, start, start), place.children[0]
    value = span_of(text, child)
    if value.line == start.line + 1 and not _is_empty(value):
        end = value
    return Span(start.line + 1, start.column + 1, end.end_line, end.end_column)


def _first_line(text: str, start: Any, end: Any) -> Span:
    if start.line == end.line:
        return Span(start.line + 1, start.column + 1, end.line + 1, end.column + 1)
    line_end = _LINE_END.search(text, start.index)
    length = len(text[start.index : line_end.start() if line_end else None].rstrip(" \t"))
    return Span(start.line + 1, start.column + 1, start.line + 1, start.column + 1 + length)


def _is_empty(span: Span) -> bool:
    return (span.line, span.column) == (span.end_line, span.end_column)


def position(text: str, index: int, mark: Any = None) -> tuple[int, int]:
    """Line and column, from 1, of a character; `mark` is one before it that is known already."""
    return _position(text, index, mark, _breaks(text, mark.index if mark else 0, index))


def _position(text: str, index: int, mark: Any, breaks: Sequence[int]) -> tuple[int, int]:
    """The same, where it is known where the lines behind the mark begin."""
    start, line, column = (mark.index, mark.line + 1, mark.column + 1) if mark else (0, 1, 1)
    if text.startswith("\r\n", index - 1):
        index -= 1
    passed = bisect_right(breaks, index)
    return (line + passed, index - breaks[passed - 1] + 1) if passed else (line, column + index - start)


def _breaks(text: str, start: int, end: int) -> list[int]:
    """Where lines begin."""
    return [match.end() for match in _LINE_END.finditer(text, start, end)]


def _offsets(text: str, scalar: Any) -> tuple[Sequence[int], Sequence[int]]:
    """Where each character of a scalar's value begins and ends in the text."""
    start, end = scalar.start_mark.index, scalar.end_mark.index
    if (scalar.anchor is not None or scalar.tag is not None) and (
        properties := _PROPERTIES.match(text, start, end)
    ):
        start = properties.end()
    if scalar.style in ("|", ">"):
        pieces = iter(_block_pieces(text, start, end, scalar.value))
    else:
        quote = 1 if scalar.style in _PIECES else 0
        if text[start + quote : end - quote] == scalar.value:
            return range(start + quote, end - quote), range(start + quote + 1, end - quote + 1)
        found = _PIECES.get(scalar.style, _PLAIN_PIECE).finditer(text, start + quote, end - quote)
        pieces = (piece.span() for piece in found)
    starts, ends = [], []
    for character in scalar.value:
        for begin, beyond in pieces:
            piece = text[begin:beyond]
            # Blanks and breaks that do not match are what folding took away; a break it may have made a blank.
            is_folded = piece in " \t\r\n" or piece[:2] in ("\\\r", "\\\n")
            if piece == character or not is_folded or (character == " " and piece in "\r\n"):
                starts.append(begin)
                ends.append(beyond)
                break
    return starts, ends


def _block_pieces(text: str, start: int, end: int, value: str) -> list[tuple[int, int]]:
    """The characters of a block scalar, without its header and its indentation."""
    lines = [line.span() for line in _LINE.finditer(text, start, end)][1:]
    indentation = 0
    for begin, beyond in lines:
        if line := text[begin:beyond].strip(" \t\r\n"):
            first = next((part for part in value.split("\n") if part.strip(" \t")), line)
            indentation = text.index(line, begin) - begin - (len(first) - len(first.lstrip(" ")))
            break
    pieces = []
    for begin, beyond in lines:
        line_end = begin + len(text[begin:beyond].rstrip("\r\n"))
        pieces += [(at, at + 1) for at in range(min(begin + indentation, line_end), beyond)]
    return pieces
