"""The times of runs in a SQL store: what was measured up to an entry of the history is kept.

Problem: the times of a run follow from its history, which may have thousands of entries.

Algorithm: checkpoints of a log (Gray and Reuter 1993). About every EVERY transactions of a run, its commit
measures the entries since the last checkpoint, and writes the next one in the same transaction. A reader
measures the entries since then. If there are many, it writes a checkpoint, too.

Cost: a commit that writes a checkpoint reads up to MAX_ENTRIES entries. A reader reads about EVERY entries,
and the visits that have not ended, up to MAX_ACTIVE.

Limits: the steps of a long chain without a cycle are single statements of Postgres, which write none. Nor
have runs of earlier versions any. Then the first reader measures all entries.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from noetl.executor.errors import StoreError
from noetl.executor.model.durations import MAX_ACTIVE, RunTimes, begin_times, extend_times
from noetl.executor.model.events import Event
from noetl.executor.model.run import Visit
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.rows import Row, decode_events, visit_from_row

EVERY = 16
MAX_ENTRIES = 4 * EVERY
"""How many entries a commit measures. It leaves more of them to a reader."""

_ALL = 1 << 30


def read_times(context: SqlContext, run_id: str, created_at: float, now: float) -> RunTimes:
    """Return the times of a run up to `now`, and keep them if they were measured from many entries."""
    database = context.database
    rows = database.fetch_all("times.find", run_id=run_id)
    if not rows:
        return begin_times(created_at)
    before = _decode(rows[0])
    entries = database.fetch_all("history.find", run_id=run_id, seq=before.place + 1, limit=_ALL)
    active = database.fetch_all("times.find_active", run_id=run_id, limit=MAX_ACTIVE)
    times = _extend(before, entries, active, rows[0]["seq"], now)
    if len(entries) > 2 * EVERY:
        with database.transaction() as db:
            db.lock_run(run_id)
            row = db.execute("times.find", run_id=run_id).fetchone()
            if row is not None and row["seq"] == times.place:
                _write(db, run_id, times)
    return times


def keep_times(db: Writer, run_id: str, seq: int, now: float) -> None:
    """Write a checkpoint of a run, if it is time. The transaction `seq` of the run has locked it."""
    if seq < EVERY or seq % EVERY > 1:
        return
    before = _decode(db.execute("times.find", run_id=run_id).fetchone())
    if seq < before.place + EVERY // 2:
        return
    found = db.execute("history.find", run_id=run_id, seq=before.place + 1, limit=MAX_ENTRIES + 1)
    entries = found.fetchall()
    if len(entries) <= MAX_ENTRIES:
        active = db.execute("times.find_active", run_id=run_id, limit=MAX_ACTIVE).fetchall()
        _write(db, run_id, _extend(before, entries, active, seq, now))


def _decode(row: Row) -> RunTimes:
    if row["body"] is not None:
        with suppress(ValueError, TypeError):
            return RunTimes.from_json(json.loads(row["body"]))
    return begin_times(row["created_at"])


def _extend(before: RunTimes, entries: Any, active: Any, place: int, now: float) -> RunTimes:
    events: list[Event] = []
    for row in entries:
        # A damaged row must stop neither the run nor its readers.
        with suppress(ValueError, TypeError):
            events += decode_events("", row["seq"], row["events"]) if row["seq"] <= place else ()
    visits: list[Visit] = []
    for row in active:
        with suppress(ValueError, TypeError, LookupError, AttributeError, StoreError):
            visits.append(visit_from_row(row))
    return extend_times(before, events, visits, place, now)


def _write(db: Writer, run_id: str, times: RunTimes) -> None:
    db.execute("times.write", run_id=run_id, body=encode_json(times.to_json()))
