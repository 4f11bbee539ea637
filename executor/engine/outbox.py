"""The performance of entries of the outbox.

An entry that cannot be performed is tried again after POSTPONE_SECONDS, so that it holds up no other one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from noetl.executor.engine.backfill import perform_backfill
from noetl.executor.engine.delivery import deliver, perform_late
from noetl.executor.engine.release import perform_release
from noetl.executor.engine.run_firing import perform_run_end
from noetl.executor.engine.trial import Trial
from noetl.executor.model.outbox import POSTPONE_SECONDS, OutboxEntry, OutboxKind, postpone_entry
from noetl.executor.stores.interface import Store

_PERFORMERS: Mapping[OutboxKind, Callable[[Store, OutboxEntry, float], bool]] = {
    OutboxKind.RUN_ENDED: perform_run_end,
    OutboxKind.BACKFILL: perform_backfill,
    OutboxKind.LATE: perform_late,
    OutboxKind.NOTIFICATION: deliver,
    OutboxKind.RELEASE: perform_release,
}

ALL_KINDS = tuple(_PERFORMERS)
"""The kinds of entries that an invocation performs."""

PERFORMED_KINDS = tuple(kind for kind in _PERFORMERS if kind is not OutboxKind.NOTIFICATION)
"""The kinds that the loop of a process performs. Notifications are delivered by threads of their own."""


def perform_entry(store: Store, entry: OutboxEntry, now: float) -> bool:
    """Perform a due entry. Return whether this process has removed or moved it.

    Raises:
        StoreAwayError: the store cannot be reached.
    """
    with Trial(f"{entry.kind} {entry.id}"):
        return _PERFORMERS[entry.kind](store, entry, now)
    return store.outbox.change(entry, postpone_entry(entry, now + POSTPONE_SECONDS))
