"""The page `docs/trust.md` names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trust.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`([a-z][\w/]*\.py(?:::\w+)*)`", PAGE)))


@cache
def find_tests(path: Path) -> frozenset[str]:
    """Return the names of the tests in a file, also of those in classes."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = [
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return frozenset(name for name in functions if name.startswith("test_"))


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize("named", NAMED)
def test_a_named_test_exists(named: str) -> None:
    file, *names = named.split("::")
    tests = find_tests(ROOT / file)
    assert tests
    assert not names or names[-1] in tests


def test_each_row_has_a_test() -> None:
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith(("| ---", "| threat"))
    ]
    assert len(rows) > 30
    assert [row for row in rows if ".py" not in row.split("|")[-2]] == []
