"""Access of commands to the backfills of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noetl.api.service.backfill_views import BackfillEntry, BackfillPage
    from noetl.api.service.services import TenantServices
    from noetl.executor.engine.backfill_start import BackfillRequest
    from noetl.executor.model.backfills import RetryMode


class StoreBackfills:
    """The backfills of a store (implements `BackfillAccess`)."""

    def __init__(self, services: TenantServices) -> None:
        self._backfills = services.backfills

    def start(self, playbook: str, trigger: str, request: BackfillRequest) -> BackfillEntry:
        return self._backfills.start(playbook, trigger, request)[0]

    def find(self, limit: int, cursor: str | None) -> BackfillPage:
        return self._backfills.find(limit=limit, cursor=cursor)

    def get(self, backfill_id: str) -> BackfillEntry:
        return self._backfills.get(backfill_id)

    def pause(self, backfill_id: str) -> BackfillEntry:
        return self._backfills.pause(backfill_id)

    def resume(self, backfill_id: str) -> BackfillEntry:
        return self._backfills.resume(backfill_id)

    def cancel(self, backfill_id: str, *, cancels_runs: bool) -> BackfillEntry:
        return self._backfills.cancel(backfill_id, cancels_runs=cancels_runs)

    def retry(self, backfill_id: str, mode: RetryMode) -> BackfillEntry:
        return self._backfills.retry(backfill_id, mode)
