"""API keys: how they are made, and how one is recognised."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable

from noetl.executor.model.registry import Key

SCOPES = ("read", "run", "admin")
"""What a caller may do. Each includes those before it: look; start, cancel and resume runs; change the registry."""

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@|-]{0,99}")
_KEY = re.compile(r"noetl_([0-9a-f]{12})_[0-9a-f]{64}")
_NOBODYS = hashlib.sha256(secrets.token_bytes()).hexdigest()
"""What a key is compared with that nobody has, so that this takes as long."""


def new_key(name: str, scopes: Iterable[str], tenant: str, now: float) -> tuple[str, Key]:
    """A key of 256 random bits, which is shown once, and what is kept of it."""
    id = secrets.token_hex(6)
    text = f"noetl_{id}_{secrets.token_hex(32)}"
    return text, Key(id, hash_of(text), tenant, name, tuple(scopes), now)


def hash_of(text: str) -> str:
    """What is kept of a key. It is long and random, so a hash without salt tells nothing."""
    return hashlib.sha256(text.encode()).hexdigest()


def id_of(text: str) -> str | None:
    """The part of a key that may be shown; None for text that is no key."""
    match = _KEY.fullmatch(text)
    return match[1] if match else None


def is_tenant(text: str) -> bool:
    """Whether a tenant may be called so."""
    return _TENANT.fullmatch(text) is not None


def is_valid(text: str, key: Key | None) -> bool:
    """Whether the text is the key. The time this takes tells nothing about it, nor whether there is one."""
    is_same = secrets.compare_digest(hash_of(text), _NOBODYS if key is None else key.hash)
    return is_same and key is not None and key.revoked_at is None
