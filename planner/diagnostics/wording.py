"""Values and words as messages show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_LONGEST = 60


def described(value: object) -> str:
    """What a value is, for a reader who sees the value beside it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return f"the number {shown(str(value))}"


def quoted(value: object) -> str:
    """A text as it is written; what any other value is."""
    return f"`{shown(value)}`" if isinstance(value, str) and value else described(value)


def shown(text: str) -> str:
    """The text on one line and not too long."""
    if not text.isprintable():
        text = text.encode("unicode_escape").decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def ticked(words: Iterable[str]) -> list[str]:
    """Each word as code."""
    return [f"`{word}`" for word in words]


def listed(words: Sequence[str], conjunction: str = "or") -> str:
    """The words as a list in a sentence."""
    *most, last = words
    return f"{', '.join(most)} {conjunction} {last}" if most else last
