"""Visits of a run in DynamoDB, read one at a time."""

from __future__ import annotations

import sys
from collections.abc import Collection

from noetl.executor.model.durations import RunTimes, begin_times, extend_times
from noetl.executor.model.events import Event
from noetl.executor.model.run_summary import StartedVisit
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.history import RunHistory
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.visit_items import decode_visit, without_outputs
from noetl.executor.stores.sql.rows import encode_json


class DynamoVisits:
    """The visits of the runs of a DynamoDB store."""

    measures_long_runs = False

    def __init__(self, context: DynamoContext) -> None:
        self._context = context
        self._history = RunHistory(context)

    def find(self, run_id: str, step: str, number: int | None = None) -> StartedVisit | None:
        """Return the visit of a step with a number, or the latest. All visits of the run are read."""
        snapshot = read_snapshot(self._context, run_id)
        items = [] if snapshot is None else snapshot.current_items
        started = [
            item
            for item in items
            if item.visit.step == step
            and not (
                item.visit.started_at is None
                and item.visit.finished_at is None
                and item.visit.progress is None
            )
        ]
        found = next((item for item in reversed(started) if number in (None, item.visit.number)), None)
        if found is None:
            return None
        entered_at = found.origin.entered_at if found.origin.cause or found.origin.causes else None
        return StartedVisit(without_outputs(found.visit), len(started), entered_at)

    def events(
        self, run_id: str, step: str, number: int, types: Collection[str] | None = None
    ) -> list[Event]:
        """Return the events of one visit. All events of the run are read, as their order is that of all."""
        events = self._history.events(run_id, None, limit=sys.maxsize)
        return [
            event
            for event in events
            if (event.step, event.visit) == (step, number) and (types is None or event.type in types)
        ]

    def times(self, run_id: str, created_at: float, now: float) -> RunTimes:
        """Return the times of a run. All of its events are read."""
        events, active = self._history.read_all(run_id)
        return extend_times(begin_times(created_at), events, active, 0, now)

    def failures_text(self, run_id: str, visit_id: str, start: int, length: int) -> str:
        """Return a part of the JSON of the failed items of a visit. All outputs of the visit are read."""
        key = keys.visit(run_id, visit_id, self._context.heads.spread(run_id))
        item = self._context.table.get(key)
        found = None if item is None else decode_visit(run_id, item, self._context.blobs)
        if found is None or not found.visit.failures:
            return ""
        return encode_json(list(found.visit.failures))[start : start + length]
