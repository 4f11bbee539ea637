"""Source files of the repository, each read and parsed once."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("planner", "executor", "api", "infra", "noetl")
CODE = (*PACKAGES, "benchmarks", "tests")
FOLDERS = (*CODE, "docs", "examples")
COMMENT_SIGNS = {".sql": "--", ".yaml": "#", ".yml": "#", ".toml": "#"}
SUFFIXES = {".py", ".md", *COMMENT_SIGNS}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
DefinitionNode = FunctionNode | ast.ClassDef


class Definition(NamedTuple):
    """A class or function with its qualified name, such as `Walker.step`."""

    node: DefinitionNode
    name: str
    parent: DefinitionNode | None

    @property
    def is_method(self) -> bool:
        return isinstance(self.parent, ast.ClassDef)


class Comment(NamedTuple):
    """Adjacent comment lines as one text, without the `#` signs."""

    line: int
    text: str


@dataclass(frozen=True)
class SourceFile:
    """A text file. `path` is relative to the repository, with `/` between folders."""

    path: str
    text: str

    @property
    def suffix(self) -> str:
        return Path(self.path).suffix

    @property
    def top(self) -> str:
        """The folder of FOLDERS that holds the file, or `.` for a file at the root."""
        return top_folder(self.path)

    @property
    def is_test(self) -> bool:
        return self.top == "tests"

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def definitions(self) -> list[Definition]:
        return list(_definitions(self.tree, "", None))

    @cached_property
    def comments(self) -> list[Comment]:
        if self.suffix == ".py":
            return list(_python_comments(self.text))
        return list(_plain_comments(self.text, COMMENT_SIGNS[self.suffix]))


@dataclass(frozen=True)
class Repository:
    """All source files below `root`."""

    root: Path
    files: tuple[SourceFile, ...]

    def python(self, *tops: str) -> Iterator[SourceFile]:
        """Yield the Python files of some top folders."""
        return (file for file in self.files if file.suffix == ".py" and file.top in tops)


@cache
def load_repository(root: Path = ROOT) -> Repository:
    """Read every source file below `root`. A missing top folder is skipped."""
    paths = [path for path in root.iterdir() if path.is_file()]
    for top in FOLDERS:
        paths += (root / top).rglob("*")
    files = (
        SourceFile(path.relative_to(root).as_posix(), path.read_text("utf-8"))
        for path in sorted(paths)
        if path.suffix in SUFFIXES and path.is_file() and "node_modules" not in path.parts
    )
    return Repository(root, tuple(files))


def top_folder(path: str) -> str:
    """Return the folder of FOLDERS that holds `path`. A package inside noetl counts as a top folder.

    >>> top_folder("planner/plan.py"), top_folder("noetl/planner/plan.py"), top_folder("README.md")
    ('planner', 'planner', '.')
    """
    *folders, _ = path.split("/")
    inner = folders[1] if folders[:1] == ["noetl"] and len(folders) > 1 else ""
    return inner if inner in PACKAGES else folders[0] if folders else "."


def _definitions(node: ast.AST, prefix: str, parent: DefinitionNode | None) -> Iterator[Definition]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DefinitionNode):
            yield Definition(child, prefix + child.name, parent)
            yield from _definitions(child, f"{prefix}{child.name}.", child)
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _definitions(child, prefix, parent)


def _plain_comments(text: str, sign: str) -> Iterator[Comment]:
    """Yield each line of `text` that is a comment. Comments behind code are not seen."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(sign):
            yield Comment(number, line.strip().lstrip(f"{sign} "))


def _python_comments(text: str) -> Iterator[Comment]:
    start, last, lines = 0, 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, column = token.start
        is_alone = not token.line[:column].strip()
        if lines and not (is_alone and line == last + 1):
            yield Comment(start, "\n".join(lines))
            lines = []
        if not lines:
            start = line
        lines.append(token.string.lstrip("#:! "))
        last = line
    if lines:
        yield Comment(start, "\n".join(lines))
