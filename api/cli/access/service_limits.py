"""Access of commands to the limits of a service, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from noetl.api.cli.access.service_client import ServiceClient
from noetl.api.cli.access.view_requests import ViewRequests
from noetl.api.cli.display.console import CommandError

if TYPE_CHECKING:
    from noetl.api.service.limit_views import LimitEntry, LimitPage, LimitQueue
    from noetl.executor.model.gates import LimitKind


class ServiceLimits:
    """The limits of a service (implements `LimitAccess`)."""

    def __init__(self, client: ServiceClient) -> None:
        self._requests = ViewRequests(client)

    def find(self, in_use: bool, limit: int, cursor: str | None) -> LimitPage:
        from noetl.api.service.limit_views import LimitPage

        shown = "true" if in_use else None
        return self._requests.get(LimitPage, "/limits", in_use=shown, limit=limit, cursor=cursor)

    def get(self, name: str) -> LimitEntry:
        from noetl.api.service.limit_views import LimitEntry

        return self._requests.get(LimitEntry, _limit(name))

    def put(
        self, name: str, units: int, kind: LimitKind, *, per: float | None, is_shared: bool
    ) -> LimitEntry:
        from noetl.api.service.limit_views import LimitEntry

        _refuse_shared(is_shared)
        body = {"units": units, "kind": kind.value} | ({} if per is None else {"per": per})
        return self._requests.send(LimitEntry, "PUT", _limit(name), body)

    def remove(self, name: str, *, is_shared: bool, is_forced: bool) -> None:
        _refuse_shared(is_shared)
        self._requests.remove(_limit(name), {"force": "true"} if is_forced else None)

    def queue(self, name: str, limit: int, cursor: str | None) -> LimitQueue:
        from noetl.api.service.limit_views import LimitQueue

        return self._requests.get(LimitQueue, f"{_limit(name)}/queue", limit=limit, cursor=cursor)


def _refuse_shared(is_shared: bool) -> None:
    """Refuse a change of a limit of all tenants: the key of a service belongs to one of them.

    Raises:
        CommandError: `is_shared`.
    """
    if is_shared:
        raise CommandError("a service does not change limits of all tenants: use --store in place of --url")


def _limit(name: str) -> str:
    return f"/limits/{quote(name, safe='')}"
