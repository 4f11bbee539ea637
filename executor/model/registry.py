"""Records of the registry: playbooks by name and version, and API keys."""

from __future__ import annotations

from noetl.planner.frozen import frozen

SERVICE_TENANT = "_service"
"""Owner of keys that the service uses itself. No tenant has this name: names begin with a letter or digit."""


@frozen
class RegisteredPlaybook:
    """A playbook in the registry. `version` is None until the store assigns a number.

    `registered_by` is the name of the caller, or None if it is unknown, as of playbooks from before it was
    kept. A version that is removed and registered again keeps its first caller and time.
    """

    tenant: str
    name: str
    version: str | None
    plan_hash: str
    registered_at: float
    registered_by: str | None = None


@frozen
class ApiKey:
    """An API key as the store keeps it: the public part `id`, and the SHA-256 hash of the whole key in
    hexadecimal.

    `name` says what the key is for. `scopes` are among `read`, `run` and `admin`.
    """

    id: str
    hash: str
    tenant: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    last_used_at: float | None = None
    revoked_at: float | None = None
