"""The interface through which commands reach limits: of a store, or of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from noetl.api.service.limit_views import LimitEntry, LimitPage, LimitQueue
    from noetl.executor.model.gates import LimitKind


class LimitAccess(Protocol):
    """The limits that a command can reach. Methods about one raise NotFoundError if there is none."""

    def find(self, in_use: bool, limit: int, cursor: str | None) -> LimitPage:
        """Return a page of the limits of operators, or of those of playbooks and steps."""
        ...

    def get(self, name: str) -> LimitEntry:
        """Return a limit."""
        ...

    def put(
        self, name: str, units: int, kind: LimitKind, *, per: float | None, is_shared: bool
    ) -> LimitEntry:
        """Make or change a limit. Those of all tenants are changed in a store only.

        With `per`, it is a rate with a window of so many seconds.
        """
        ...

    def remove(self, name: str, *, is_shared: bool, is_forced: bool) -> None:
        """Remove a limit. Those of all tenants are removed in a store only.

        If it is forced, playbooks may name the limit.
        """
        ...

    def queue(self, name: str, limit: int, cursor: str | None) -> LimitQueue:
        """Return a page of what holds units of a limit, and what waits."""
        ...
