"""The performance of entries of the outbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from noetl.executor.engine.backfill import perform_backfill
from noetl.executor.engine.run_firing import perform_run_end
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.stores.interface import Store

_PERFORMERS: Mapping[OutboxKind, Callable[[Store, OutboxEntry, float], bool]] = {
    OutboxKind.RUN_ENDED: perform_run_end,
    OutboxKind.BACKFILL: perform_backfill,
}

PERFORMED_KINDS = tuple(_PERFORMERS)
"""The kinds of entries that are performed at once. Notifications are delivered by threads of their own."""


def perform_entry(store: Store, entry: OutboxEntry, now: float) -> bool:
    """Perform a due entry of one of PERFORMED_KINDS. Return whether this process has removed or moved it.

    Raises:
        StoreAwayError: the store cannot be reached.
    """
    return _PERFORMERS[entry.kind](store, entry, now)
