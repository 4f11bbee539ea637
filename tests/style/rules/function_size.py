"""Functions have at most 60 lines, 5 parameters and a complexity of 12.

Lines are counted from `def` to the end. `self` and `cls` are no parameters. A command may have more
parameters: they are its arguments and options, and Typer needs each by itself. The complexity is McCabe's
(1976), computed by ruff.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.style.rule import StyleRule, StyleViolation
from tests.style.source import CODE, Definition, FunctionNode, Repository, SourceFile

MOST_LINES = 60
MOST_PARAMETERS = 5
MOST_COMPLEXITY = 12


def find_long(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each function with too many lines."""
    for file, definition in _functions(repository):
        node = definition.node
        count = (node.end_lineno or node.lineno) - node.lineno + 1
        if count > MOST_LINES:
            yield _violation(file, definition, f"has {count} lines (at most {MOST_LINES})")


def find_wide(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each function with too many parameters."""
    for file, definition in _functions(repository):
        count = parameter_count(definition)
        if count > MOST_PARAMETERS and not _is_command(file, definition):
            yield _violation(file, definition, f"has {count} parameters (at most {MOST_PARAMETERS})")


def find_complex(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each function that is too complex."""
    places = {(place[0].path, place[1].node.lineno): place for place in _functions(repository)}
    for path, line, message in _run_ruff(repository.root):
        if place := places.get((path, line)):
            file, definition = place
            yield _violation(file, definition, message)


def parameter_count(definition: Definition) -> int:
    """Return the number of parameters of a function, without `self` and `cls`."""
    node = definition.node
    assert isinstance(node, FunctionNode)
    named = [*node.args.posonlyargs, *node.args.args]
    is_bound = definition.is_method and named and named[0].arg in {"self", "cls"}
    return len(named) + len(node.args.kwonlyargs) - bool(is_bound)


def _is_command(file: SourceFile, definition: Definition) -> bool:
    """Return whether a function is a command: Typer reads the annotation of each of its parameters."""
    node = definition.node
    assert isinstance(node, FunctionNode)
    if not file.path.startswith("api/cli/commands/") or definition.parent is not None:
        return False
    annotations = [ast.unparse(argument.annotation) for argument in node.args.args if argument.annotation]
    return len(annotations) == parameter_count(definition) and all(
        annotation.startswith("Annotated[") or annotation.endswith(("Option", "Argument"))
        for annotation in annotations
    )


def _run_ruff(root: Path) -> Iterator[tuple[str, int, str]]:
    """Yield path, line and message of each function that ruff finds too complex."""
    ruff = Path(sys.executable).with_name("ruff")
    options = ["--isolated", "--no-cache", "--ignore-noqa", "--select", "C901", "--output-format", "json"]
    limit = ["--config", f"lint.mccabe.max-complexity={MOST_COMPLEXITY}"]
    folders = [top for top in CODE if (root / top).is_dir()]
    process = subprocess.run(
        [ruff, "check", *options, *limit, *folders], cwd=root, capture_output=True, text=True, check=False
    )
    assert process.returncode in {0, 1}, process.stderr
    for finding in json.loads(process.stdout):
        path = Path(finding["filename"]).relative_to(root).as_posix()
        complexity = finding["message"].partition("(")[2].partition(" ")[0]
        message = f"has complexity {complexity} (at most {MOST_COMPLEXITY})"
        yield path, finding["location"]["row"], message


def _functions(repository: Repository) -> Iterator[tuple[SourceFile, Definition]]:
    for file in repository.python(*CODE):
        for definition in file.definitions:
            if isinstance(definition.node, FunctionNode):
                yield file, definition


def _violation(file: SourceFile, definition: Definition, problem: str) -> StyleViolation:
    key = f"{file.path}::{definition.name}"
    return StyleViolation(file.path, definition.node.lineno, f"`{definition.name}` {problem}", key)


LENGTH = StyleRule("function-length", find_long, "split the function where its work has parts with names")
PARAMETERS = StyleRule("parameters", find_wide, "pass a request object that travels whole")
COMPLEXITY = StyleRule("complexity", find_complex, "split the function, or turn branches into a table")
