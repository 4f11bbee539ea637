"""The history of a run, read in parts."""

from __future__ import annotations

from collections.abc import Iterator

from noetl.executor.model.events import Event
from noetl.executor.stores.interface import Store

EVENTS_PER_READ = 1000


def read_events(store: Store, run_id: str, after: str | None = None) -> Iterator[Event]:
    """Yield the events of a run after the one with the id `after`, or all of them."""
    while True:
        events = store.runs.events(run_id, after, EVENTS_PER_READ)
        yield from events
        if len(events) < EVENTS_PER_READ:
            return
        after = events[-1].id
