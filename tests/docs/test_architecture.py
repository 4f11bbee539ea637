"""Paths on the page about the architecture exist."""

from __future__ import annotations

import re

import pytest

from noetl.infra.reference import ROOT

TEXT = (ROOT / "docs" / "how-it-works" / "architecture.md").read_text("utf-8")
TABLE_HEADER = re.compile(r"\| package of `([\w/]+/)`")
PATH = re.compile(r"`([\w./-]+(?:/|\.py))`")
FULL_PATH = re.compile(r"`((?:planner|executor|api|infra|tests|docs|benchmarks)/[\w./-]*)`")
PLACEHOLDER = re.compile(r"[A-Z]{4}")


def paths() -> set[str]:
    """Return the paths of the page, without those that contain a placeholder such as `TYPE`."""
    result = set(FULL_PATH.findall(TEXT))
    folder = ""
    for line in TEXT.splitlines():
        if header := TABLE_HEADER.match(line):
            folder = header[1]
        elif not line.startswith("|"):
            folder = ""
        elif folder:
            result |= {folder + path for path in PATH.findall(line.split("|")[1])}
    return {path for path in result if not PLACEHOLDER.search(path)}


def test_paths_exist() -> None:
    assert len(paths()) > 50
    assert {path for path in paths() if not (ROOT / path).exists()} == set()


def test_tables_list_every_package_of_planner_and_executor() -> None:
    for folder in ("planner", "executor", "executor/stores", "api"):
        entries = {
            f"{folder}/{path.name}" + ("/" if path.is_dir() else "")
            for path in (ROOT / folder).iterdir()
            if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
        }
        assert entries <= paths(), entries - paths()


@pytest.mark.parametrize("folder", ["dynamo", "sql"])
def test_tables_list_every_module_of_a_store(folder: str) -> None:
    table = TEXT[TEXT.index(f"| modules of `{folder}/`") :].split("\n\n")[0]
    modules = {path.name for path in (ROOT / "executor" / "stores" / folder).glob("[!_]*.py")}
    assert modules - set(re.findall(r"`(\w+\.py)`", table)) == set()
