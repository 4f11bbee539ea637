"""The pictures of the examples in the documentation are those that the command writes."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from noetl.infra.pictures import FOLDER, PAGE, ROOT, expected_files

FILES = expected_files()
POSITION = re.compile(r"(?<=[\s\"(,MLCl])-?\d+(\.\d+)?")
"""Coordinates. They may differ slightly between versions of Graphviz."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_pictures_in_the_documentation_are_current(path: Path) -> None:
    kept, expected = describe(path, path.read_bytes()), describe(path, FILES[path])
    assert kept == expected, f"run `python -m noetl.infra.pictures` to write {path.relative_to(ROOT)}"


def describe(path: Path, content: bytes) -> object:
    """Return what two versions of a file must have in common."""
    match path.suffix:
        case ".svg":
            return POSITION.sub("0", content.decode())
        case ".png":
            # Width and height of the header, in units of 8 pixels. Coordinates may differ slightly.
            return content[:8], [round(size / 8) for size in struct.unpack(">II", content[16:24])]
        case _:
            return content.decode()


def test_the_page_shows_every_picture() -> None:
    page = PAGE.read_text("utf-8")
    for path in FILES:
        if path.parent == FOLDER:
            assert f"(../images/{path.name})" in page
