"""The service of backfills: they are started, shown and controlled. The engine performs them."""

from __future__ import annotations

from noetl.api.service.backfill_views import BackfillEntry, BackfillPage
from noetl.api.service.errors import NotFoundError
from noetl.api.service.tenant import TenantContext
from noetl.executor.engine.backfill_start import BackfillRequest
from noetl.executor.model.backfills import Backfill, RetryMode
from noetl.executor.model.outbox import OutboxKind
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import frozen

BACKFILLS_PER_PAGE = 50
MAX_BACKFILLS = 200
"""The most backfills of a page."""


@frozen
class BackfillService:
    """The backfills of one tenant."""

    context: TenantContext

    def start(self, playbook: str, trigger: str, request: BackfillRequest) -> tuple[BackfillEntry, bool]:
        """Start a backfill of a trigger. Return it, and whether an earlier request has started it.

        Raises:
            NotFoundError: the live version of the playbook has no such trigger.
            RejectedError: `invalid_backfill`; `idempotency_key_reused`; `quota_exceeded`.
        """
        from noetl.executor.engine.backfill_start import start_backfill

        found = self.context.get_trigger(playbook, trigger)
        backfill, is_replay = start_backfill(self.context.store, found, request, self.context.clock())
        return BackfillEntry.from_backfill(backfill), is_replay

    def find(self, *, limit: int = BACKFILLS_PER_PAGE, cursor: str | None = None) -> BackfillPage:
        """Return a page of the backfills, the newest first.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        scope = self.context.cursor_scope("backfills")
        entries, next_cursor = self.context.store.outbox.find(
            self.context.tenant, OutboxKind.BACKFILL, limit=limit, cursor=scope.open(cursor)
        )
        items = [BackfillEntry.from_backfill(Backfill.from_json(entry.record)) for entry in entries]
        return BackfillPage(items=items, next_cursor=scope.close(next_cursor))

    def get(self, backfill_id: str) -> BackfillEntry:
        """Return a backfill.

        Raises:
            NotFoundError: the tenant has no such backfill.
        """
        from noetl.executor.engine.backfill_control import read_backfill

        return _view(backfill_id, read_backfill(self.context.store, self.context.tenant, backfill_id))

    def pause(self, backfill_id: str) -> BackfillEntry:
        """Pause a backfill: it starts no run until it is resumed. A repeated request changes nothing.

        Raises:
            NotFoundError: the tenant has no such backfill.
            RejectedError: `backfill_ended`; `backfill_changed`.
        """
        from noetl.executor.engine.backfill_control import pause_backfill

        return _view(backfill_id, pause_backfill(self.context.store, self.context.tenant, backfill_id))

    def resume(self, backfill_id: str) -> BackfillEntry:
        """Resume a paused backfill. A repeated request changes nothing.

        Raises:
            NotFoundError: the tenant has no such backfill.
            RejectedError: `backfill_ended`; `backfill_changed`.
        """
        from noetl.executor.engine.backfill_control import resume_backfill

        return _view(backfill_id, resume_backfill(self.context.store, self.context.tenant, backfill_id))

    def cancel(self, backfill_id: str, *, cancels_runs: bool = False) -> BackfillEntry:
        """Cancel a backfill, and its open runs, too, if `cancels_runs`. A repeated request changes nothing.

        Raises:
            NotFoundError: the tenant has no such backfill.
            RejectedError: `backfill_ended`; `backfill_changed`.
        """
        from noetl.executor.engine.backfill_control import cancel_backfill

        store, tenant = self.context.store, self.context.tenant
        return _view(backfill_id, cancel_backfill(store, tenant, backfill_id, cancels_runs=cancels_runs))

    def retry(self, backfill_id: str, mode: RetryMode = "resume") -> BackfillEntry:
        """Resume the failed runs of a backfill that has ended, or start new ones.

        Raises:
            NotFoundError: the tenant has no such backfill.
            RejectedError: `backfill_open`; `backfill_ended`; `backfill_changed`; `quota_exceeded`.
        """
        from noetl.executor.engine.backfill_control import retry_backfill

        return _view(backfill_id, retry_backfill(self.context.store, self.context.tenant, backfill_id, mode))


def _view(backfill_id: str, backfill: Backfill | None) -> BackfillEntry:
    if backfill is None:
        raise NotFoundError(f"unknown backfill `{abbreviate(backfill_id)}`")
    return BackfillEntry.from_backfill(backfill)
