"""Access of commands to the registered playbooks of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl.api.cli.user_name import user_name

if TYPE_CHECKING:
    from noetl.api.service.services import TenantServices
    from noetl.api.service.views import PlaybookEntry, PlaybookPage
    from noetl.planner.plan import Plan


class StorePlaybooks:
    """The registered playbooks of a store (implements `PlaybookAccess`)."""

    def __init__(self, services: TenantServices) -> None:
        self._playbooks = services.playbooks

    def register(self, plan: Plan, *, is_forced: bool = False) -> tuple[PlaybookEntry, bool]:
        return self._playbooks.register(plan, user_name(), is_forced=is_forced)

    def find(self, name: str | None, limit: int, cursor: str | None) -> PlaybookPage:
        return self._playbooks.find(name, limit=limit, cursor=cursor)

    def text(self, name: str, version: str | None) -> str:
        return self._playbooks.get(name, version).text

    def remove(self, name: str, version: str | None) -> None:
        self._playbooks.unregister(name, version)
