"""Records of the registry: playbooks by name and version, and API keys."""

from __future__ import annotations

from noetl.executor.errors import RejectedError
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


def require_newest(
    playbook: RegisteredPlaybook, newest: RegisteredPlaybook | None, known: str | None
) -> None:
    """Check before a playbook is registered that the newest version of its name is the known one.

    An empty `known` means that no version is registered, and None expects nothing. If the newest version is
    the playbook itself, it is registered already, as after a lost response.

    Raises:
        RejectedError: `playbook_changed`.
    """
    version = "" if newest is None else newest.version
    if known is None or known == version:
        return
    name = playbook.name
    if newest is None:
        message = f"`{name}` is not in the registry any more, and its newest version was `{known}`"
    elif newest.plan_hash == playbook.plan_hash and playbook.version in (None, version):
        return
    elif known:
        message = f"the newest version of `{name}` is `{version}`, and not `{known}` any more"
    else:
        message = f"`{name}` is registered already, in version `{version}`"
    raise RejectedError("playbook_changed", message)
