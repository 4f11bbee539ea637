"""Names without a noun: functions named by a preposition, variables named by a pronoun.

The words are in `vague_names.txt`. Only a name that is nothing but such a word is found. Words that are right
where no noun is at hand, such as `other` in `__eq__`, are not in the list.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.style.rule import StyleRule, StyleViolation
from tests.style.source import CODE, FunctionNode, Repository, SourceFile

WORDS = Path(__file__).parents[1] / "vague_names.txt"


def find(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each definition of a name that is vague."""
    words = read_sections(WORDS)
    for file in repository.python(*CODE):
        for kind, name, line in _names(file):
            if name.strip("_") in words[kind]:
                yield StyleViolation(file.path, line, f"vague name `{name}` of a {kind}", file.path)


def read_sections(path: Path) -> dict[str, set[str]]:
    """Return the words of each section, `function` and `variable`."""
    sections: dict[str, set[str]] = {}
    words: set[str] = set()
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            words = sections.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            words.update(line.split())
    return sections


def _names(file: SourceFile) -> Iterator[tuple[str, str, int]]:
    for node in file.nodes:
        if isinstance(node, FunctionNode):
            yield "function", node.name, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield "variable", node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield "variable", node.arg, node.lineno


RULE = StyleRule("vague-names", find, "name the thing: `path`, `paths_of(step)`, not `one`, `of(step)`")
