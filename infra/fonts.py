"""The fonts of the page. `python -m noetl.infra.fonts` makes them from packages of npm. It needs Node.js.

A font keeps the characters of Latin-1 and the marks of its package, the weights that the page uses, kerning
and figures of equal width. Browsers draw all other characters with the fonts of their system. So combining
marks are left out, too: a letter and its mark are then drawn with one font.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from fontTools.varLib.instancer import instantiateVariableFont

from noetl.infra.npm_packages import ROOT, install_packages
from noetl.planner.frozen import frozen

UI = ROOT / "api" / "ui"
FONTS = UI / "fonts"

FEATURES = ("kern", "tnum")
NAMES = (0, 1, 2, 13, 14)
"""Names of a font that it keeps: copyright, family, style, and the text and the address of its licence."""


@frozen
class FontSource:
    """A font of a package, with the range of its weights that the page uses, if it has several."""

    path: str
    weights: tuple[int, int, int] | None = None


SOURCES: Mapping[str, FontSource] = {
    "inter.woff2": FontSource(
        "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2", weights=(400, 400, 650)
    ),
    "jetbrains-mono.woff2": FontSource(
        "@fontsource/jetbrains-mono/files/jetbrains-mono-latin-400-normal.woff2"
    ),
}


def main() -> None:
    for name, content in make_fonts().items():
        (FONTS / name).write_bytes(content)
        print(f"{len(content):>8,} {(FONTS / name).relative_to(ROOT)}")


def make_fonts() -> dict[str, bytes]:
    """Return the fonts of the page by the names of their files. The same packages give the same bytes.

    Raises:
        subprocess.CalledProcessError: npm has failed; its `output` says why.
        FileNotFoundError: Node.js is not installed.
    """
    packages = install_packages(UI) / "node_modules"
    return {name: subset_font(packages / source.path, source.weights) for name, source in SOURCES.items()}


def subset_font(path: Path, weights: tuple[int, int, int] | None) -> bytes:
    """Return a font without what the page does not draw."""
    # The time in a font is that of its source.
    font = TTFont(path, recalcTimestamp=False)
    options = Options(
        layout_features=list(FEATURES), name_IDs=list(NAMES), hinting=False, notdef_outline=True
    )
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=drawn_characters(list(font.getBestCmap())))
    subsetter.subset(font)
    if weights is not None:
        font = instantiateVariableFont(font, {"wght": weights})
    font.flavor = "woff2"
    written = io.BytesIO()
    font.save(written)
    return written.getvalue()


def drawn_characters(characters: Sequence[int]) -> list[int]:
    """Return characters without combining marks and controls."""
    return [number for number in characters if unicodedata.category(chr(number)) not in ("Mn", "Cf")]


if __name__ == "__main__":
    main()
