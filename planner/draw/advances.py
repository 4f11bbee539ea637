"""Widths of text in the font of the pictures, Inter.

A picture is laid out without the font that will show it. Each label has its width from this table, and tells
the viewer to fit it (`textLength`). So labels never collide, whatever fonts are installed.

The table is `fonts/advances.txt`: widths of the regular and the bold face in thousandths of the size, and
the code points that have them.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from pathlib import Path

FONTS = Path(__file__).with_name("fonts")

MAX_KEPT_TEXT = 100
"""Longest text whose width is kept for the next drawing of the same step."""

MAX_KEPT_TEXTS = 4096

_WIDE = 1000
_UNKNOWN = 650
"""Assumed width of a character that the table lacks. The viewer fits the text if it is wrong."""


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of a text in the unit of its size.

    >>> text_width("load", 12.0), text_width("日本", 12.0)
    (24.192, 24.0)
    """
    measure = _sum_advances if len(text) > MAX_KEPT_TEXT else _kept_sum
    return measure(text, bold) * size / 1000


def _sum_advances(text: str, bold: bool) -> int:
    table = _advances(bold)
    return sum(table.get(char) or _estimate(char) for char in text)


_kept_sum = lru_cache(MAX_KEPT_TEXTS)(_sum_advances)


def fit_text(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """Return the text, cut to a width.

    >>> fit_text("a long name", 40.0, 12.0)
    'a lon…'
    """
    if text_width(text, size, bold=bold) <= width:
        return text
    limit = width - text_width("…", size, bold=bold)
    kept = 0
    while kept < len(text) and text_width(text[: kept + 1], size, bold=bold) <= limit:
        kept += 1
    return text[:kept].rstrip() + "…"


def _estimate(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return _WIDE if unicodedata.east_asian_width(char) in "WF" else _UNKNOWN


@cache
def _advances(bold: bool) -> dict[str, int]:
    advances = {}
    for line in (FONTS / "advances.txt").read_text("ascii").splitlines():
        regular, semibold, *ranges = line.split()
        for span in ranges:
            first, _, last = span.partition("-")
            for code_point in range(int(first, 16), int(last or first, 16) + 1):
                advances[chr(code_point)] = int(semibold if bold else regular)
    return advances
