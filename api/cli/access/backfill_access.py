"""The interface through which commands reach backfills: those of a store, or those of a service over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from noetl.api.service.backfill_views import BackfillEntry, BackfillPage
    from noetl.executor.engine.backfill_start import BackfillRequest
    from noetl.executor.model.backfills import RetryMode


class BackfillAccess(Protocol):
    """The backfills that a command can reach. Methods about one raise NotFoundError if there is none."""

    def start(self, playbook: str, trigger: str, request: BackfillRequest) -> BackfillEntry:
        """Start a backfill of a trigger."""
        ...

    def find(self, limit: int, cursor: str | None) -> BackfillPage:
        """Return a page of the backfills, the newest first."""
        ...

    def get(self, backfill_id: str) -> BackfillEntry:
        """Return a backfill."""
        ...

    def pause(self, backfill_id: str) -> BackfillEntry:
        """Pause a backfill."""
        ...

    def resume(self, backfill_id: str) -> BackfillEntry:
        """Resume a paused backfill."""
        ...

    def cancel(self, backfill_id: str, *, cancels_runs: bool) -> BackfillEntry:
        """Cancel a backfill, and its open runs, too, if `cancels_runs`."""
        ...

    def retry(self, backfill_id: str, mode: RetryMode) -> BackfillEntry:
        """Resume the failed runs of a backfill, or start new ones."""
        ...
