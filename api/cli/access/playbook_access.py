"""The interface through which commands reach the registered playbooks of a store or of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from noetl.api.service.views import PlaybookEntry, PlaybookPage
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

    def text(self, name: str, version: str | None) -> str:
        """Return the text of a version of a playbook, or of the newest one."""
        ...

    def remove(self, name: str, version: str | None) -> None:
        """Remove a version of a playbook, or all versions."""
        ...
