"""The pictures of the examples in the documentation are those that the command writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from noetl.infra.pictures import FOLDER, PAGE, ROOT, expected_files

FILES = expected_files()
POSITION = re.compile(r"(?<=[\s\"(,MLCl])-?\d+(\.\d+)?")
"""Coordinates. They may differ slightly between versions of Graphviz."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_pictures_in_the_documentation_are_current(path: Path) -> None:
    kept, expected = path.read_text("utf-8"), FILES[path]
    if path.suffix == ".svg":
        kept, expected = (POSITION.sub("0", text) for text in (kept, expected))
    assert kept == expected, f"run `python -m noetl.infra.pictures` to write {path.relative_to(ROOT)}"


def test_the_page_shows_every_picture() -> None:
    page = PAGE.read_text("utf-8")
    for path in FILES:
        if path.parent == FOLDER:
            assert f"(../images/{path.name})" in page
