"""Access of commands to the registered playbooks of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl.api.cli.user_name import user_name

if TYPE_CHECKING:
    from noetl.api.service.playbooks import PlaybookText
    from noetl.api.service.services import TenantServices
    from noetl.api.service.views import AliasEntry, PlaybookEntry, PlaybookPage
    from noetl.planner.plan import Plan


class StorePlaybooks:
    """The registered playbooks of a store (implements `PlaybookAccess`)."""

    def __init__(self, services: TenantServices) -> None:
        self._playbooks = services.playbooks
        self._aliases = services.aliases

    def register(self, plan: Plan, *, is_forced: bool = False) -> tuple[PlaybookEntry, bool]:
        return self._playbooks.register(plan, user_name(), is_forced=is_forced)

    def find(self, name: str | None, limit: int, cursor: str | None) -> PlaybookPage:
        return self._playbooks.find(name, limit=limit, cursor=cursor)

    def get(self, name: str, version: str | None) -> PlaybookText:
        return self._playbooks.get(name, version)

    def remove(self, name: str, version: str | None) -> None:
        self._playbooks.unregister(name, version)

    def promote(self, name: str, version: str, alias: str, *, is_forced: bool = False) -> AliasEntry:
        return self._aliases.put(name, alias, version, user_name(), is_forced=is_forced)[0]

    def remove_alias(self, name: str, alias: str, *, is_forced: bool = False) -> None:
        self._aliases.remove(name, alias, is_forced=is_forced)
