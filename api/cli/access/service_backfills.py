"""Access of commands to the backfills of a service, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from noetl.api.cli.access.service_client import ServiceClient
from noetl.api.cli.access.view_requests import ViewRequests

if TYPE_CHECKING:
    from noetl.api.service.backfill_views import BackfillEntry, BackfillPage
    from noetl.executor.engine.backfill_start import BackfillRequest
    from noetl.executor.model.backfills import RetryMode


class ServiceBackfills:
    """The backfills of a service (implements `BackfillAccess`)."""

    def __init__(self, client: ServiceClient) -> None:
        self._requests = ViewRequests(client)

    def start(self, playbook: str, trigger: str, request: BackfillRequest) -> BackfillEntry:
        seconds = request.every_seconds
        body: dict[str, Any] = {
            "playbook": playbook,
            "trigger": trigger,
            "from": request.start,
            "to": request.end,
            "every": None if seconds is None else f"{seconds:.3f}s",
            "partitions": request.partitions,
            "limit": request.limit,
            "redo": request.redo,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return self._send("", given)

    def find(self, limit: int, cursor: str | None) -> BackfillPage:
        from noetl.api.service.backfill_views import BackfillPage

        return self._requests.get(BackfillPage, "/backfills", limit=limit, cursor=cursor)

    def get(self, backfill_id: str) -> BackfillEntry:
        from noetl.api.service.backfill_views import BackfillEntry

        return self._requests.get(BackfillEntry, f"/backfills/{quote(backfill_id, safe='')}")

    def pause(self, backfill_id: str) -> BackfillEntry:
        return self._send(f"/{quote(backfill_id, safe='')}/pause")

    def resume(self, backfill_id: str) -> BackfillEntry:
        return self._send(f"/{quote(backfill_id, safe='')}/resume")

    def cancel(self, backfill_id: str, *, cancels_runs: bool) -> BackfillEntry:
        return self._send(f"/{quote(backfill_id, safe='')}/cancel", {"runs": cancels_runs})

    def retry(self, backfill_id: str, mode: RetryMode) -> BackfillEntry:
        return self._send(f"/{quote(backfill_id, safe='')}/retry", {"fresh": mode == "fresh"})

    def _send(self, path: str, body: Any = None) -> BackfillEntry:
        from noetl.api.service.backfill_views import BackfillEntry

        return self._requests.send(BackfillEntry, "POST", f"/backfills{path}", body)
