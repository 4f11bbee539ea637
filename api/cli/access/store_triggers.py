"""Access of commands to the triggers of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl.api.cli.access.trigger_access import FiredRun

if TYPE_CHECKING:
    from noetl.api.service.services import TenantServices
    from noetl.api.service.trigger_views import FiringPage, TriggerDetails, TriggerEntry, TriggerPage
    from noetl.api.service.triggers import FireRequest
    from noetl.planner.schedules.schedule import CatchUpMode


class StoreTriggers:
    """The triggers of a store (implements `TriggerAccess`)."""

    def __init__(self, services: TenantServices) -> None:
        self._services = services

    def current_time(self) -> float:
        return self._services.store.clock()

    def find(self, playbook: str | None, limit: int, cursor: str | None) -> TriggerPage:
        return self._services.triggers.find(playbook, limit=limit, cursor=cursor)

    def get(self, playbook: str, name: str, count: int) -> TriggerDetails:
        return self._services.triggers.get(playbook, name, count)

    def firings(self, playbook: str, name: str, limit: int, cursor: str | None) -> FiringPage:
        return self._services.triggers.firings(playbook, name, limit=limit, cursor=cursor)

    def pause(self, playbook: str, name: str) -> TriggerEntry:
        return self._services.triggers.pause(playbook, name)

    def resume(self, playbook: str, name: str, catch_up: CatchUpMode) -> TriggerEntry:
        return self._services.triggers.resume(playbook, name, catch_up)

    def fire(self, playbook: str, name: str, request: FireRequest) -> FiredRun:
        from noetl.api.service.views import starts_of

        run, is_replay = self._services.triggers.fire(playbook, name, request)
        return FiredRun(run.id, starts_of(run), run.status if is_replay else None)
