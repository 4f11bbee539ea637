"""Theory of operation: a module of `theory.txt` opens with the paragraphs Problem, Algorithm, Cost, Limits.

The paragraph `Algorithm:` names its source: a year, an RFC or PEP, a URL, or `Source:` with a title.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.style.rule import StyleRule, StyleViolation
from tests.style.source import Repository

MODULES = Path(__file__).parents[1] / "theory.txt"
LABELS = ("Problem", "Algorithm", "Cost", "Limits")
SOURCE = re.compile(r"\b(?:19|20)\d\d\b|\b(?:RFC|PEP) ?\d+|https?://|\bSource:")


def find(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each listed module that is missing, or whose docstring lacks a paragraph or its source."""
    files = {file.path: file for file in repository.files}
    for path in read_modules(MODULES):
        file = files.get(path) or files.get(f"noetl/{path}")
        if file is None:
            yield StyleViolation(path, 1, "unknown module in tests/style/theory.txt", path)
            continue
        for problem in check_theory(ast.get_docstring(file.tree) or ""):
            yield StyleViolation(file.path, 1, problem, file.path)


def read_modules(path: Path) -> list[str]:
    """Return the paths of the list at `path`."""
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def check_theory(docstring: str) -> list[str]:
    """Return what is wrong with the theory of operation in the docstring of a module.

    >>> check_theory("Sorting. Problem: order. Algorithm: heapsort (Williams 1964).")[0]
    'missing paragraph `Problem:` in the docstring of the module'
    """
    paragraphs = {
        label: paragraph
        for paragraph in re.split(r"\n\s*\n", docstring)
        for label in LABELS
        if re.match(rf"\**{label}:", paragraph)
    }
    missing = [label for label in LABELS if label not in paragraphs]
    problems = [f"missing paragraph `{label}:` in the docstring of the module" for label in missing]
    if "Algorithm" in paragraphs and not SOURCE.search(paragraphs["Algorithm"]):
        problems.append("missing source in the paragraph `Algorithm:` (year, RFC, PEP, URL or `Source:`)")
    return problems


HELP = "open the module with the paragraphs Problem:, Algorithm: (with its source), Cost: and Limits:"
RULE = StyleRule("theory", find, HELP)
