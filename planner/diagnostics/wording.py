"""Values and lists of words as messages show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_MAX_LENGTH = 60

MAX_NAME = 100
"""How many characters of an unknown name are shown."""


def describe_value(value: object) -> str:
    """Return what a value is, for a message next to the source that contains it.

    >>> describe_value(5), describe_value({}), describe_value(None)
    ('the number 5', 'a mapping', 'nothing')
    """
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
    return f"the number {abbreviate(str(value))}"


def quote_or_describe(value: object) -> str:
    """Return a text in backticks; describe any other value.

    >>> quote_or_describe("a"), quote_or_describe([])
    ('`a`', 'a list')
    """
    return f"`{abbreviate(value)}`" if isinstance(value, str) and value else describe_value(value)


def show_value(value: object) -> str:
    """Return a value as the user wrote it, for a message that is not next to its source.

    >>> show_value("abc"), show_value(""), show_value(5), show_value(None)
    ('`abc`', 'an empty text', '5', 'none')
    """
    match value:
        case None:
            return "none"
        case str():
            return f"`{abbreviate(value)}`" if value else "an empty text"
        case bool() | list() | dict():
            return describe_value(value).replace("a mapping", "an object")
    return abbreviate(str(value))


def abbreviate(text: str) -> str:
    r"""Return the text on one line and with at most 60 characters before an ellipsis.

    >>> abbreviate("a\nb")
    'a\\nb'
    """
    # The rest is not escaped, because that may need ten times its memory.
    shown = text[: _MAX_LENGTH + 1]
    if not shown.isprintable():
        shown = shown.encode("unicode_escape").decode()
    return shown if len(shown) <= _MAX_LENGTH else f"{shown[:_MAX_LENGTH]}…"


def quote_text(text: str) -> str:
    r"""Return the beginning of a text in quotes, with escapes.

    >>> quote_text("a\n"), len(quote_text("\0" * 8_000_000))
    ("'a\\n'", 243)
    """
    return f"{text[:_MAX_LENGTH]!r}{'…' * (len(text) > _MAX_LENGTH)}"


def shorten(text: str, length: int) -> str:
    """Return a text, or its first characters and an ellipsis.

    >>> shorten("orders", 6), shorten("orders", 3)
    ('orders', 'ord…')
    """
    return text if len(text) <= length else f"{text[:length]}…"


def as_code(words: Iterable[str]) -> list[str]:
    """Return each word in backticks."""
    return [f"`{word}`" for word in words]


def join_words(words: Sequence[str], conjunction: str = "or") -> str:
    """Return the words as a list in a sentence.

    >>> join_words(["a", "b", "c"])
    'a, b or c'
    """
    *most, last = words
    return f"{', '.join(most)} {conjunction} {last}" if most else last
