"""Text for terminals: no control characters, and its width in cells. All output of commands is made here.

Text of a playbook never reaches a terminal unchanged: control characters, and characters that change the
direction of text, could hide or fake output.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

_NOT_ASCII_PRINTABLE = re.compile("[^\n\x20-\x7e]")


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


def to_printable_lines(text: str) -> str:
    r"""Return the text with its line ends, and each of its lines printable.

    >>> to_printable_lines("a\x9b1m\nb")
    'a\ufffd1m\nb'
    """
    return "\n".join(map(to_printable, text.split("\n")))


def format_json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    r"""Return a JSON value as indented text that a terminal shows as it is.

    Characters that are not printable are written as escapes, so the text has the same value for each reader.
    `default` converts other objects, as that of `json.dumps`.

    >>> print(format_json({"é": "\x9b1m"}), end="")
    {
      "é": "\u009b1m"
    }
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, default=default)
    return _NOT_ASCII_PRINTABLE.sub(_escape_unless_printable, text) + "\n"


def _escape_unless_printable(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


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
