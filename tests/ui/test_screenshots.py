"""The pictures of the page in the documentation."""

from __future__ import annotations

import struct
from pathlib import Path

from playwright.sync_api import Browser

from tests.tool_environments import ROOT
from tests.ui.screenshots import DESKTOP, IMAGES, PHONE, take_screenshots


def test_each_picture_can_be_taken_again(browser: Browser, tmp_path: Path) -> None:
    take_screenshots(browser, tmp_path)
    taken, kept = sorted(tmp_path.iterdir()), sorted(IMAGES.glob("page-*.png"))
    assert [path.name for path in taken] == [path.name for path in kept]
    for path in [*taken, *kept]:
        viewport = (PHONE if path.stem == "page-phone" else DESKTOP)["viewport"]
        assert png_size(path) == (viewport["width"], viewport["height"])


def test_the_documentation_shows_each_picture() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs" / "how-to").glob("*.md")]
    text = "".join(path.read_text("utf-8") for path in pages)
    assert [path.name for path in IMAGES.glob("page-*.png") if f"images/{path.name})" not in text] == []


def png_size(path: Path) -> tuple[int, int]:
    """Return width and height of a PNG in pixels (ISO/IEC 15948, section 11.2.2)."""
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height
