"""Every example in a docstring gives the result written below it."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
from functools import cache
from pathlib import PurePosixPath

import pytest

from noetl.planner.templates.budget import start_budget
from tests.style.source import PACKAGES, SourceFile, load_repository

EXAMPLE = re.compile(r"^ *>>> ", re.MULTILINE)


def examples() -> list[SourceFile]:
    """Return the files of the packages, and of the style rules, that contain an example."""
    files = load_repository().python(*PACKAGES, "tests")
    in_packages = (file for file in files if file.top in PACKAGES or file.path.startswith("tests/style/"))
    return [file for file in in_packages if EXAMPLE.search(file.text)]


def module_name(path: str) -> str:
    """Return the importable name of the module at `path`: `noetl.planner.x` where noetl holds planner."""
    parts = PurePosixPath(path).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return f"noetl.{name}" if is_in_noetl(parts[0]) else name


@cache
def is_in_noetl(package: str) -> bool:
    """Return whether noetl can be imported and holds `package`."""
    try:
        return package in PACKAGES and importlib.util.find_spec(f"noetl.{package}") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("file", examples(), ids=lambda file: file.path)
def test_examples_give_their_results(file: SourceFile) -> None:
    module = importlib.import_module(module_name(file.path))
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    start_budget()  # Earlier tests on this thread may have used up theirs.
    for test in doctest.DocTestFinder().find(module, module.__name__):
        runner.run(test, out=report.append)
    if runner.failures:
        pytest.fail("".join(report), pytrace=False)
    assert runner.tries, f"{file.path}: no example is in the docstring of a module, class or function"
