"""Ids that follow from their inputs, and the hash of a secret."""

from __future__ import annotations

import hashlib


def derived_id(*parts: object) -> str:
    """Return an id that depends only on `parts`: 20 hexadecimal digits. Every derivation gives the same id.

    >>> derived_id("join", "merge", 1) == derived_id("join", "merge", 1)
    True
    >>> derived_id("a", "bc") == derived_id("ab", "c")
    False
    """
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=10).hexdigest()


def hash_secret(text: str) -> str:
    """Return the SHA-256 hash of a callback token or of an API key, in hexadecimal.

    The text is long and random, so the hash needs no salt.
    """
    return hashlib.sha256(text.encode()).hexdigest()
