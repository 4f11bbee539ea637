"""Records of the registry: playbooks by name and version, their aliases, and API keys."""

from __future__ import annotations

import re
from collections.abc import Collection

from noetl.executor.errors import RejectedError
from noetl.planner.catalogue import LIVE
from noetl.planner.frozen import frozen

SERVICE_TENANT = "_service"
"""Owner of keys that the service uses itself. No tenant has this name: names begin with a letter or digit."""

MAX_ALIASES = 50
"""How many aliases a playbook may have."""

MAX_ALIAS_LENGTH = 100
"""How many characters an alias may have."""

_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


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
class PlaybookAlias:
    """A name for a version of a playbook. An alias `live` pins it; without one, `live` is the newest version.

    `changed_at` is when it has named this version first, and `changed_by` the caller, if it is known.
    """

    tenant: str
    playbook: str
    name: str
    version: str
    changed_at: float
    changed_by: str | None = None


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


def is_alias_name(text: str) -> bool:
    """Return whether an alias may have this name: ASCII letters, digits, `_`, `.` and `-`, a letter first.

    >>> is_alias_name("live"), is_alias_name("eu-1"), is_alias_name("3")
    (True, True, False)
    """
    return len(text) <= MAX_ALIAS_LENGTH and _ALIAS.fullmatch(text) is not None


def require_no_alias(playbook: RegisteredPlaybook, aliases: Collection[str]) -> None:
    """Check before a new version is registered that it has not the name of an alias of its playbook.

    Raises:
        RejectedError: `alias_exists`.
    """
    version = playbook.version
    if version is not None and (version == LIVE or version in aliases):
        raise RejectedError("alias_exists", f"`{version}` is an alias of `{playbook.name}`, and no version")


def require_possible_alias(alias: PlaybookAlias, aliases: Collection[str], *, is_version: bool) -> None:
    """Check before an alias is written that it can be added to those of its playbook.

    `is_version` says that a version has its name, even if that is removed.

    Raises:
        RejectedError: `version_exists`, `too_many_aliases`.
    """
    if is_version:
        message = f"`{alias.name}` is a version of `{alias.playbook}`, and cannot be an alias"
        raise RejectedError("version_exists", message)
    if alias.name not in aliases and len(aliases) >= MAX_ALIASES:
        message = f"`{alias.playbook}` has {MAX_ALIASES} aliases, and no more are possible"
        raise RejectedError("too_many_aliases", message)


def require_unnamed(playbook: str, version: str | None, aliases: Collection[PlaybookAlias]) -> None:
    """Check before a version is removed that no alias names it. None removes all versions with the aliases.

    Raises:
        RejectedError: `alias_in_use`.
    """
    names = [f"`{alias.name}`" for alias in aliases if alias.version == version]
    if names:
        verb, object = ("is an alias", "it") if len(names) == 1 else ("are aliases", "them")
        subject = f"version `{version}` of `{playbook}`"
        message = f"{' and '.join(names)} {verb} of {subject}; move or remove {object} first"
        raise RejectedError("alias_in_use", message)
