"""JSON as stores write it: compact, and in ASCII, so that it can hold text with half of a surrogate pair."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from noetl.executor.model.json_length import JsonForm, measure_ascii
from noetl.executor.model.large_json import is_longer, write_large_json, write_sorted, write_within

encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""Encode a value as compact JSON in ASCII."""

_encode_sorted = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_FORM = JsonForm(encode_json, measure_ascii, 12)


def encode_payload(value: Any) -> str:
    """Return the same text as `encode_json` for a value that may be large."""
    return write_large_json(value, encode_json)


def encode_within_limit(value: Any, limit: int) -> str:
    """Return the same text as `encode_json`.

    Raises:
        TooLongError: it has more characters than `limit`. It is not written.
    """
    return write_within(value, _FORM, limit)


def hash_json(value: Any) -> str:
    """Return the SHA-256 of the JSON of a value, in which the members of objects are sorted.

    >>> hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1})
    True
    """
    digest = hashlib.sha256()
    for text in write_sorted(value, _encode_sorted):
        digest.update(text.encode())
    return digest.hexdigest()


def exceeds(value: Any, limit: int) -> bool:
    """Return whether the text of a value has more characters than `limit`. It is not written.

    >>> exceeds(["😀" * 100_000], 1_000_000), exceeds("😀", 14)
    (True, False)
    """
    return is_longer(value, _FORM, limit)
