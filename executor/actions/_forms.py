"""Queries and HTML forms: pairs of names and values, with percent-encoding.

Encoded, a character may have twelve. So the length is computed before the text is encoded, in parts.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote_plus

from noetl.executor.model.json_length import TooLongError
from noetl.executor.model.json_values import to_text

_PART = 64 * 1024
_MAX_ENCODED = 12
"""How many characters a character has at most when it is encoded."""
_UNCHANGED = f"{string.ascii_letters}{string.digits}_.-~ ".encode()
"""What is not percent-encoded. A space becomes a plus sign."""


def encode_pairs(values: Mapping[str, Any], limit: int) -> str:
    """Return names and values as the text of a query. A list repeats its name; none is left out.

    >>> encode_pairs({"a": "b c", "n": [1, "é"], "m": None}, 100)
    'a=b+c&n=1&n=%C3%A9'

    Raises:
        TooLongError: it has more characters than `limit`.
        UnicodeEncodeError: it has an unpaired surrogate.
    """
    pairs: list[tuple[str, str]] = []
    left = limit + 1  # There is one separator less than pairs.
    for key, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                pairs.append((str(key), to_text(item, max(left, 0))))
                left -= 1 + len(pairs[-1][0]) + len(pairs[-1][1])
    if _MAX_ENCODED * (limit - left) > limit:
        left = limit + 1
        for pair in pairs:
            left -= 2 + sum(_measure(text, limit) for text in pair)
            if left < 0:
                raise TooLongError(limit)
    return "&".join([f"{_encode(key)}={_encode(text)}" for key, text in pairs])


def _measure(text: str, limit: int) -> int:
    """Return the length of the encoded text, or a number above the limit."""
    length = 0
    for part in _split(text):
        data = part.encode("utf-8", "surrogatepass")
        length += len(data) + 2 * len(data.translate(None, _UNCHANGED))
        if length > limit:
            break
    return length


def _encode(text: str) -> str:
    return quote_plus(text) if len(text) <= _PART else "".join(map(quote_plus, _split(text)))


def _split(text: str) -> Iterator[str]:
    return (text[start : start + _PART] for start in range(0, len(text), _PART))
