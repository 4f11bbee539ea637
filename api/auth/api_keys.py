"""API keys: their generation and their verification.

The text of a key is `noetl_ID_SECRET`. The store has the id, which may be shown, and the SHA-256 of the text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from noetl.executor.model.ids import hash_secret
from noetl.executor.model.registry import ApiKey

SCOPES = ("read", "run", "admin")
"""Permissions of a caller. Each includes those before it.

`read` shows runs and playbooks; `run` starts, cancels and resumes runs; `admin` changes the registry,
and reads the metrics of all tenants together.
"""

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@|-]{0,99}")
_KEY = re.compile(r"noetl_([0-9a-f]{12})_[0-9a-f]{64}")
_DUMMY_HASH = hash_secret(secrets.token_hex(32))
"""Hash of no key. The text of an unknown key is compared with it, to take the same time."""


def create_api_key(name: str, scopes: Iterable[str], tenant: str, now: float) -> tuple[str, ApiKey]:
    """Return the text of a new key, with 256 random bits, and its record for the store."""
    id = secrets.token_hex(6)
    text = f"noetl_{id}_{secrets.token_hex(32)}"
    return text, ApiKey(id, hash_secret(text), tenant, name, tuple(scopes), now)


def key_id(text: str) -> str | None:
    """Return the id in the text of a key, or None if `text` is not a key.

    >>> key_id("noetl_0f1e2d3c4b5a_" + "0" * 64)
    '0f1e2d3c4b5a'
    >>> key_id("secret") is None
    True
    """
    match = _KEY.fullmatch(text)
    return match[1] if match else None


def is_tenant(text: str) -> bool:
    """Return whether `text` can be the name of a tenant."""
    return _TENANT.fullmatch(text) is not None


def is_valid(text: str, key: ApiKey | None) -> bool:
    """Return whether `text` is the text of `key`, and the key is not revoked.

    The time that this takes depends neither on the text nor on whether there is a key.
    """
    is_same = secrets.compare_digest(hash_secret(text), _DUMMY_HASH if key is None else key.hash)
    return is_same and key is not None and key.revoked_at is None
