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
    text = "\x1f".join(map(str, parts))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


ORDERED = "y"
"""First character of an ordered id. It sorts after all derived ids."""


def ordered_id(step: str, clock: int, id: str) -> str:
    """Return an id from a derived id. It sorts by its step, and among those of a step by its clock.

    >>> ordered_id("a", 9, "0" * 20) < ordered_id("a", 10, "0" * 20)
    True
    """
    return f"{ordered_prefix(step)}{clock:08x}{id[:12]}"


def ordered_prefix(step: str) -> str:
    """Return the text with which the ordered ids of a step begin.

    >>> ordered_id("a", 9, "0" * 20).startswith(ordered_prefix("a"))
    True
    """
    return ORDERED + derived_id(step)[:8]


def hash_secret(text: str) -> str:
    """Return the SHA-256 hash of a callback token or of an API key, in hexadecimal.

    The text is long and random, so the hash needs no salt.
    """
    return hashlib.sha256(text.encode()).hexdigest()
