"""Identifiers that are derived from their cause, so that a repeated derivation gives the same one."""

from __future__ import annotations

import hashlib


def derived_id(*parts: object) -> str:
    """An id that is the same whenever the same thing is derived again: 20 hexadecimal digits."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=10).hexdigest()


def hash_secret(text: str) -> str:
    """Return the SHA-256 hash of a callback token or of an API key, in hexadecimal.

    The text is long and random, so the hash needs no salt.
    """
    return hashlib.sha256(text.encode()).hexdigest()
