"""Text for a terminal: control characters made visible, and widths in cells."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """`text` on one line, with a visible stand-in for each character that a terminal would obey or not show."""
    return text if text.isprintable() else "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character.isprintable():
        return character
    if character in "\t\n":
        return " "
    point = ord(character)
    if point < 0x20:
        return chr(0x2400 + point)
    if unicodedata.category(character) == "Zs":
        return " "
    return "\u2421" if point == 0x7F else "\ufffd"


def cells(text: str) -> int:
    """How many cells of a terminal `text` takes, which holds no control characters."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
