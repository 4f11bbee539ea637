"""One name for one class in the whole repository, tests included."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.style.rule import StyleRule, StyleViolation
from tests.style.source import CODE, Definition, Repository, SourceFile


def find(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each class whose name another class has as well."""
    classes: dict[str, list[tuple[SourceFile, Definition]]] = defaultdict(list)
    for file in repository.python(*CODE):
        for definition in file.definitions:
            if isinstance(definition.node, ast.ClassDef):
                classes[definition.node.name].append((file, definition))
    for name, places in classes.items():
        for file, definition in places if len(places) > 1 else ():
            line = definition.node.lineno
            duplicates = [_position(place) for place in places if place != (file, definition)]
            problem = f"duplicate class name `{name}`, also at {', '.join(duplicates)}"
            yield StyleViolation(file.path, line, problem, f"{file.path}::{definition.name}")


def _position(place: tuple[SourceFile, Definition]) -> str:
    file, definition = place
    return f"{file.path}:{definition.node.lineno}"


RULE = StyleRule(
    "class-names",
    find,
    "rename one class: the lower layer keeps the plain name, the other is qualified by its noun",
)
