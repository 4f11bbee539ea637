"""The interface through which commands reach the registered playbooks of a store or of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from noetl.api.service.playbooks import PlaybookText
    from noetl.api.service.views import AliasEntry, PlaybookEntry, PlaybookPage
    from noetl.planner.plan import Plan


class PlaybookAccess(Protocol):
    """The playbooks that a command can reach. Methods about one raise NotFoundError if there is none."""

    def register(self, plan: Plan, *, is_forced: bool = False) -> tuple[PlaybookEntry, bool]:
        """Register a compiled playbook. Return its entry, and whether it is new.

        Raises:
            PlaybookError: it does not fit the registered playbooks, and is not forced.
        """
        ...

    def find(self, name: str | None, limit: int, cursor: str | None) -> PlaybookPage:
        """Return a page of the newest versions of all playbooks, or of all versions of one."""
        ...

    def get(self, name: str, version: str | None) -> PlaybookText:
        """Return a version of a playbook, or the one that an alias names, or the newest one."""
        ...

    def remove(self, name: str, version: str | None) -> None:
        """Remove a version of a playbook, or all versions."""
        ...

    def promote(self, name: str, version: str, alias: str, *, is_forced: bool = False) -> AliasEntry:
        """Let an alias name a version.

        Raises:
            PlaybookError: the version does not fit the registered playbooks, and is not forced.
        """
        ...

    def remove_alias(self, name: str, alias: str, *, is_forced: bool = False) -> None:
        """Remove an alias. `live` then follows the newest version.

        Raises:
            PlaybookError: the newest version does not fit the registered playbooks, and is not forced.
        """
        ...
