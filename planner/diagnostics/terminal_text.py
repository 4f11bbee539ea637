"""Text for terminals: no control characters, and its width in cells.

Text of a playbook never reaches a terminal unchanged: control characters, and characters that change the
direction of text, could hide or fake output.
"""

from __future__ import annotations

import unicodedata


def to_printable(text: str) -> str:
    r"""Return the text on one line, with a visible replacement for each character that a terminal obeys or
    does not show.

    >>> to_printable("a\nb\x1b[31m")
    'a b␛[31m'
    """
    return text if text.isprintable() else "".join(map(printable_character, text))


def printable_character(character: str) -> str:
    """Return a character, or its visible replacement."""
    if character.isprintable():
        return character
    if character in "\t\n":
        return " "
    code_point = ord(character)
    if code_point < 0x20:
        return chr(0x2400 + code_point)
    if unicodedata.category(character) == "Zs":
        return " "
    return "\u2421" if code_point == 0x7F else "\ufffd"


def display_width(text: str) -> int:
    """Return how many terminal cells a printable text takes (UAX #11).

    >>> display_width("abc"), display_width("日本")
    (3, 4)
    """
    return len(text) if text.isascii() else sum(map(character_width, text))


def character_width(character: str) -> int:
    """Return how many terminal cells a printable character takes: 0, 1 or 2."""
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
