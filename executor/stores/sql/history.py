"""The history of a run in a SQL store: one row for the events of each transaction."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.model.events import Event
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.rows import encode_events


def append_events(db: Writer, run_id: str, seq: int, events: Sequence[Event]) -> None:
    """Append an entry to the history of a run. `seq` is the number of the transaction."""
    db.execute("history.append", run_id=run_id, seq=seq, events=encode_events(events))


def append_to_history(db: Writer, run_id: str, event: Event) -> None:
    """Append an event to the history of a run that the transaction has not locked, unless it is deleted."""
    row = db.execute("queue.next_seq", run_id=run_id).fetchone()
    if row is not None:
        append_events(db, run_id, row["seq"], [event])
