"""Sizes of packages: modules, classes, methods, functions and parameters, from their syntax trees.

    python -m noetl.infra.sizes [--root FOLDER] [PACKAGE ...]

A PACKAGE is a folder or a file below the root, for example `executor/stores/dynamo`. The code is parsed and
not imported, so the root may be an older checkout.

Limits: inherited methods are found by the names of base classes within the chosen packages. Calls are not
seen.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = (
    "planner/dataflow",
    "planner/checks",
    "executor/stores/sql",
    "executor/stores/postgres",
    "executor/stores/dynamo",
    "executor/stores/memory",
    "executor/stores/interface.py",
    "executor/model",
    "executor/engine",
    "api/service",
    "api/routes",
    "api/http",
)
"""The packages that are shown if none is named."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class ClassSize:
    """A class: the names of its bases, and of its methods and public methods."""

    bases: tuple[str, ...]
    methods: set[str] = field(default_factory=set)


@dataclass
class PackageSize:
    """The sizes of one package.

    A function is public if neither its name nor the name of its class starts with `_`.

    Lengths are in lines and count from the `def` to the last statement.
    """

    name: str
    modules: int = 0
    lines: int = 0
    classes: dict[str, ClassSize] = field(default_factory=dict)
    public_functions: int = 0
    longest_function: tuple[int, str] = (0, "")
    most_parameters: tuple[int, str] = (0, "")

    def widest_class(self) -> tuple[int, str]:
        """Return the largest number of public methods of a class, with those that it inherits."""
        widths = ((len(self._methods(name, set(), public=True)), name) for name in self.classes)
        return max(widths, default=(0, ""))

    def deepest_class(self) -> tuple[int, str]:
        """Return the largest number of methods in the namespace of a class, and its name."""
        depths = ((len(self._methods(name, set(), public=False)), name) for name in self.classes)
        return max(depths, default=(0, ""))

    def _methods(self, name: str, visited: set[str], *, public: bool) -> set[str]:
        if name in visited or name not in self.classes:
            return set()
        visited.add(name)
        size = self.classes[name]
        methods = {method for method in size.methods if not (public and method.startswith("_"))}
        return methods.union(*(self._methods(base, visited, public=public) for base in size.bases))


def measure(root: Path, package: str) -> PackageSize:
    """Return the sizes of a package, a folder or a file below the root."""
    size = PackageSize(package)
    path = root / package
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        text = file.read_text(encoding="utf-8")
        size.modules += 1
        size.lines += text.count("\n")
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                _measure_class(size, node)
            elif isinstance(node, FunctionNode):
                _measure_function(size, node, node.name, is_public=not node.name.startswith("_"))
    return size


def _measure_class(size: PackageSize, node: ast.ClassDef) -> None:
    bases = tuple(base for base in map(_base_name, node.bases) if base is not None)
    class_size = size.classes.setdefault(node.name, ClassSize(bases))
    for child in node.body:
        if isinstance(child, FunctionNode):
            class_size.methods.add(child.name)
            is_public = not node.name.startswith("_") and not child.name.startswith("_")
            _measure_function(size, child, f"{node.name}.{child.name}", is_public=is_public)


def _base_name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Subscript):
        return _base_name(node.value)
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _measure_function(size: PackageSize, node: FunctionNode, name: str, *, is_public: bool) -> None:
    size.public_functions += is_public
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    arguments = node.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    count = sum(parameter.arg not in ("self", "cls") for parameter in parameters)
    size.longest_function = max(size.longest_function, (length, name))
    size.most_parameters = max(size.most_parameters, (count, name))


HEADINGS = (
    "package",
    "modules",
    "lines",
    "classes",
    "public functions",
    "most public methods",
    "largest namespace",
    "longest function",
    "most parameters",
)


def rows(root: Path, packages: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the headings, and then a row of text for each package that exists."""
    yield HEADINGS
    for package in packages:
        if (root / package).exists():
            size = measure(root, package)
            numbers = (size.modules, size.lines, len(size.classes), size.public_functions)
            places = (
                size.widest_class(),
                size.deepest_class(),
                size.longest_function,
                size.most_parameters,
            )
            yield (size.name, *map(str, numbers), *(f"{count} {place}".strip() for count, place in places))


def main(arguments: Sequence[str]) -> None:
    """Print the table of the packages that are named in the arguments, as Markdown."""
    root, packages = Path(__file__).parents[1], list(arguments)
    if packages[:1] == ["--root"]:
        root, packages = Path(packages[1]), packages[2:]
    for index, row in enumerate(rows(root, packages or PACKAGES)):
        print(f"| {' | '.join(row)} |")
        if index == 0:
            print(f"|{' --- |' * len(row)}")


if __name__ == "__main__":
    main(sys.argv[1:])
