"""Access of commands to the triggers of a service, over HTTP."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from noetl.api.cli.access.service_client import ServiceClient
from noetl.api.cli.access.trigger_access import FiredRun
from noetl.api.cli.access.view_requests import ViewRequests

if TYPE_CHECKING:
    from noetl.api.service.trigger_views import FiringPage, TriggerDetails, TriggerEntry, TriggerPage
    from noetl.api.service.triggers import FireRequest
    from noetl.planner.schedules.schedule import CatchUpMode


class ServiceTriggers:
    """The triggers of a service (implements `TriggerAccess`)."""

    def __init__(self, client: ServiceClient) -> None:
        self._requests = ViewRequests(client)

    def current_time(self) -> float:
        return time.time()

    def find(self, playbook: str | None, limit: int, cursor: str | None) -> TriggerPage:
        from noetl.api.service.trigger_views import TriggerPage

        return self._requests.get(TriggerPage, "/triggers", playbook=playbook, limit=limit, cursor=cursor)

    def get(self, playbook: str, name: str, count: int) -> TriggerDetails:
        from noetl.api.service.trigger_views import TriggerDetails

        return self._requests.get(TriggerDetails, _path(playbook, name), firings=count)

    def firings(self, playbook: str, name: str, limit: int, cursor: str | None) -> FiringPage:
        from noetl.api.service.trigger_views import FiringPage

        path = _path(playbook, name, "firings")
        return self._requests.get(FiringPage, path, limit=limit, cursor=cursor)

    def pause(self, playbook: str, name: str) -> TriggerEntry:
        from noetl.api.service.trigger_views import TriggerEntry

        return self._requests.send(TriggerEntry, "POST", _path(playbook, name, "pause"))

    def resume(self, playbook: str, name: str, catch_up: CatchUpMode) -> TriggerEntry:
        from noetl.api.service.trigger_views import TriggerEntry

        path, body = _path(playbook, name, "resume"), {"catch_up": catch_up}
        return self._requests.send(TriggerEntry, "POST", path, body)

    def fire(self, playbook: str, name: str, request: FireRequest) -> FiredRun:
        from noetl.api.http.responses import AcceptedRun
        from noetl.executor.model.triggers import instant_key

        body: dict[str, Any] = {"input": dict(request.input)}
        body |= {} if request.instant is None else {"at": instant_key(request.instant)}
        body |= {} if request.data is None else {"data": dict(request.data)}
        body |= {} if request.run_id is None else {"run": request.run_id}
        accepted, is_replay = self._requests.send_start(AcceptedRun, _path(playbook, name, "fire"), body)
        return FiredRun(accepted.workflow_id, accepted.starts, accepted.status if is_replay else None)


def _path(playbook: str, name: str, part: str = "") -> str:
    return f"/triggers/{quote(playbook, safe='')}/{quote(name, safe='')}" + (f"/{part}" if part else "")
