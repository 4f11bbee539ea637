"""The page `docs/trust.md` names tests and commands that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trust.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`([a-z][\w/]*\.py(?:::\w+)*)`", PAGE)))


FIGURES = PAGE.partition("\n## Figures\n")[2].partition("\n## ")[0]
COMMANDS = sorted(set(re.findall(r"`((?:[A-Z_]+=\w+ )?(?:python -m|pytest|make) [^`]+)`", FIGURES)))
"""The commands of the table of figures."""


@cache
def find_tests(path: Path) -> frozenset[tuple[str, ...]]:
    """Return the tests in a file, each by its name after those of its classes."""
    return frozenset(_find_tests_in(ast.parse(path.read_text("utf-8"))))


def _find_tests_in(parent: ast.Module | ast.ClassDef, *classes: str) -> Iterator[tuple[str, ...]]:
    for node in parent.body:
        if isinstance(node, ast.ClassDef):
            yield from _find_tests_in(node, *classes, node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield *classes, node.name


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize("named", NAMED)
def test_a_named_test_exists(named: str) -> None:
    file, *names = named.split("::")
    tests = find_tests(ROOT / file)
    assert tests
    assert not names or tuple(names) in tests


def test_a_test_of_a_class_is_named_with_its_class() -> None:
    tests = find_tests(ROOT / "noetl" / "testing" / "store_contract" / "waits.py")
    name = "test_one_of_concurrent_answers_is_kept"
    assert ("WaitsContract", name) in tests
    assert (name,) not in tests


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_figure_exists(command: str) -> None:
    words = [word for word in command.split() if not re.match("[A-Z_]+=", word)]
    if words[:2] == ["python", "-m"]:
        path = ROOT.joinpath(*words[2].split("."))
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert '__name__ == "__main__"' in source.read_text("utf-8")
        options = [word.partition("=")[0] for word in words[3:] if word.startswith("--")]
        assert [option for option in options if f'"{option}"' not in source.read_text("utf-8")] == []
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    else:
        files = [word for word in words[1:] if word.startswith("tests/")]
        assert files
        assert all((ROOT / file).exists() for file in files)


def test_each_figure_has_a_command_and_a_measurement() -> None:
    rows = [line.split("|")[1:-1] for line in FIGURES.splitlines() if re.match(r"\| \d", line)]
    assert [int(row[0].split()[0].rstrip(".")) for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) == 12
    for number, _, command, measured in rows:
        assert "`" in command or "not covered" in measured, number
        assert re.search(r"\d", measured) or "not covered" in measured, number


def test_each_row_has_a_test_and_occurs_once() -> None:
    rows = [
        line
        for line in PAGE.partition("\n## Figures\n")[0].splitlines()
        if line.startswith("| ") and not line.startswith(("| ---", "| threat"))
    ]
    assert len(rows) > 30
    assert {row for row in rows if rows.count(row) > 1} == set()
    assert [row for row in rows if ".py" not in row.split("|")[-2]] == []
