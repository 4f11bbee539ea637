"""Registered playbooks and API keys."""

from __future__ import annotations

from noetl.planner.frozen import frozen


@frozen
class RegisteredPlaybook:
    """A playbook of the registry. `version` is None until the store has given it a number."""

    tenant: str
    name: str
    version: str | None
    plan_hash: str
    created_at: float


@frozen
class ApiKey:
    """An API key as it is kept. `id` is the part of it that may be shown; of the whole only the hash is known (SHA-256, in
    hexadecimal digits). `name` says what it is for, and `scopes` are of `read`, `run` and `admin`.
    """

    id: str
    hash: str
    tenant: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    last_used_at: float | None = None
    revoked_at: float | None = None
