"""Places in the text of a playbook, found with PyYAML and not with the compiler under test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

Place = tuple[int, int]
"""Line and column, from 1."""
Path = tuple[str | int, ...]


class Places:
    """The places of a text that `yaml.safe_dump` wrote, without lines that are folded."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.root: Any = yaml.compose(text, Loader=yaml.CSafeLoader)

    def value(self, path: Path) -> Place:
        """Return the start of a value."""
        return _place(self._find(path)[1])

    def key(self, path: Path) -> Place:
        """Return the start of the key of a value, or of an item of a list."""
        key, node = self._find(path)
        return _place(key or node)

    def words(self, path: Path, word: str) -> Iterator[Place]:
        """Yield the places of a word in a value."""
        _, node = self._find(path)
        mark, end = node.start_mark, node.end_mark
        for number in range(mark.line, end.line + 1):
            line = self.lines[number] if number < len(self.lines) else ""
            first = mark.column if number == mark.line else 0
            last = end.column if number == end.line else len(line)
            for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", line[first:last]):
                yield number + 1, first + match.start() + 1

    def texts(self, path: Path = ()) -> Iterator[tuple[Path, str]]:
        """Yield every text below a path, with its path."""
        yield from _texts(self._find(path)[1], path)

    def path_at(self, place: Place) -> tuple[Path, bool]:
        """Return the path of the value at a place, and whether the place is in its key."""
        path: Path = ()
        node = self.root
        while True:
            for part, key, value in _parts(node):
                if key is not None and _starts_by(key, place) and not _ends_before(key, place):
                    return (*path, part), True
                if _starts_by(value, place) and not _ends_before(value, place):
                    path, node = (*path, part), value
                    break
            else:
                return path, False

    def word(self, place: Place) -> str:
        """Return the word that starts at a place."""
        match = re.compile(r"\w*").match(self.lines[place[0] - 1], place[1] - 1)
        return match[0] if match else ""

    def _find(self, path: Path) -> tuple[Any, Any]:
        key, node = None, self.root
        for part in path:
            if isinstance(node, yaml.MappingNode):
                key, node = next((k, v) for k, v in node.value if k.value == part)
            else:
                key, node = None, _parts(node)[int(part)][2]
        return key, node


def _parts(node: Any) -> list[tuple[str | int, Any, Any]]:
    if isinstance(node, yaml.MappingNode):
        return [(key.value, key, value) for key, value in node.value]
    if isinstance(node, yaml.SequenceNode):
        return [(index, None, item) for index, item in enumerate(node.value)]
    return []


def _starts_by(node: Any, place: Place) -> bool:
    return (node.start_mark.line + 1, node.start_mark.column + 1) <= place


def _ends_before(node: Any, place: Place) -> bool:
    return (node.end_mark.line + 1, node.end_mark.column + 1) <= place


def _texts(node: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _texts(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _texts(item, (*path, index))
    else:
        yield path, node.value


def _place(node: Any) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1
