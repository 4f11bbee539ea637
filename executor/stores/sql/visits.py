"""Visits of a run in a SQL store, read one at a time, and the latest visits of the runs of a page.

Problem: a run may have thousands of visits and a history of megabytes. A page that shows one visit must not
read the others.

Algorithm: the column `position` of a visit holds the number of the transaction that created it. The row of
the history with its first event has this number, or a greater one. The event `step.completed` is the last one
of a visit that has succeeded. So the rows between both are read. Visits of a step are numbered in the order
of creation, so an index leads to the visit with a number.

Cost: a visit is one look-up, and a count of the visits of its step in an index. Its events are the rows of
the history from its begin to its end.

Limits: the events of a visit that has failed or has not ended are looked for up to the end of the history.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from noetl.executor.errors import DamagedRunError
from noetl.executor.model.durations import RunTimes
from noetl.executor.model.events import Event
from noetl.executor.model.run import Visit, VisitStatus
from noetl.executor.model.run_summary import (
    ResultText,
    RunOverview,
    RunSummary,
    StartedVisit,
    StepVisits,
    VisitPlace,
)
from noetl.executor.model.stored_json import encode_json
from noetl.executor.precedence import wait_for_slice
from noetl.executor.stores.cursors import read_event_id, write_event_id
from noetl.executor.stores.damage import decode_readable, reading_run
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.latest_visits import read_latest_visits
from noetl.executor.stores.sql.rows import (
    Row,
    decode_event,
    decode_json,
    result_text_from_row,
    summary_from_row,
    visit_from_row,
    visit_summary_from_row,
)
from noetl.executor.stores.sql.run_times import read_times

_MAX_NUMBER = (1 << 31) - 1
_MAX_SEQ = (1 << 63) - 1
_POSITION_BITS = 12
"""The bits of `position` below the number of the transaction that has created a visit."""


class SqlVisits:
    """The visits of the runs of a SQL store."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context

    def find(self, run_id: str, step: str, number: int | None = None) -> StartedVisit | None:
        key = {"run_id": run_id, "step": step}
        if number is None:
            return _started_visit(self._fetch("visits.find_latest", **key))
        if number > _MAX_NUMBER:
            return None
        rows = self._fetch("visits.find", **key, number=number, before=number - 1)
        if rows and rows[0]["is_copy"]:
            rows = self._fetch("visits.find_newest", **key, number=number)
        return _started_visit(rows)

    def events(
        self, run_id: str, step: str, number: int, types: Collection[str] | None = None
    ) -> list[Event]:
        rows = self._fetch("visits.events", **self._place_of_events(run_id, step, number))
        return [
            decode_event(encoded, write_event_id(run_id, (row["seq"], index)))
            for row in rows
            for index, encoded in enumerate(json.loads(row["events"]))
            if (encoded[2], encoded[3]) == (step, number) and (types is None or encoded[0] in types)
        ]

    def events_of_types(
        self, run_id: str, types: Collection[str], limit: int, max_characters: int
    ) -> tuple[Iterable[Event], bool]:
        ids = self._context.database.encode_list(list(types))
        rows = self._fetch(
            "visits.events_of_types", run_id=run_id, ids=ids, limit=limit + 1, most=max_characters
        )
        chosen = [row for row in rows[:limit] if row["event"] is not None]
        return _decode_one_by_one(run_id, chosen), len(chosen) < len(rows)

    def outputs(
        self, run_id: str, places: Collection[VisitPlace], until: str, max_characters: int
    ) -> dict[VisitPlace, Visit]:
        seq, _ = read_event_id(run_id, until)
        before = (seq + 1) << _POSITION_BITS
        visits = json.dumps(list(places))
        rows = self._fetch("visits.outputs", run_id=run_id, visits=visits, before=before, most=max_characters)
        with reading_run(run_id):
            return {(row["step"], row["number"]): visit_from_row(row) for row in rows}

    def times(self, run_id: str, created_at: float, now: float) -> RunTimes:
        return read_times(self._context, run_id, created_at, now)

    def result_text(self, tenant: str, run_id: str) -> ResultText | None:
        rows = self._context.database.fetch_all("runs.result_text", tenant=tenant, run_id=run_id)
        with reading_run(run_id):
            return result_text_from_row(run_id, rows[0]) if rows else None

    def overviews(self, tenant: str, run_ids: Sequence[str]) -> dict[str, RunOverview]:
        database = self._context.database
        ids = database.encode_list(run_ids)
        rows = {row["id"]: row for row in database.fetch_all("runs.summaries", ids=ids, tenant=tenant)}
        visits = read_latest_visits(database, list(rows.values()))
        overviews = {}
        for run_id, row in rows.items():
            wait_for_slice()
            if any(visit["is_long"] for visit in visits.get(run_id, ())):
                continue
            with suppress(DamagedRunError), reading_run(run_id):
                steps = {
                    visit["step"]: StepVisits(visit_summary_from_row(visit), visit["started"])
                    for visit in visits.get(run_id, ())
                }
                error = decode_json(row["error"])
                overviews[run_id] = RunOverview(summary_from_row(row), error, steps, row["damage"])
        return overviews

    def summaries(self, tenant: str, run_ids: Sequence[str]) -> dict[str, RunSummary]:
        ids = self._context.database.encode_list(run_ids)
        rows = self._fetch("runs.summaries", ids=ids, tenant=tenant) if run_ids else []
        runs = decode_readable(rows, summary_from_row, lambda row: str(row["id"]))
        return {run.id: run for _, run in runs}

    def newest_runs(self, tenant: str, playbooks: Sequence[str], limit: int) -> dict[str, list[RunSummary]]:
        ids = self._context.database.encode_list(playbooks)
        rows = self._fetch("runs.find_newest", ids=ids, tenant=tenant, limit=limit) if playbooks else []
        found = defaultdict[str, list[RunSummary]](list)
        for _, run in decode_readable(rows, summary_from_row, lambda row: str(row["id"])):
            found[run.playbook].append(run)
        return found

    def failures_text(self, run_id: str, visit_id: str, start: int, length: int) -> str:
        return self._context.database.failures_part(run_id, visit_id, start, length)

    def _place_of_events(self, run_id: str, step: str, number: int) -> dict[str, Any]:
        """Return the values that select the rows of the history with the events of a visit."""
        rows = self._fetch("visits.find_place", run_id=run_id, step=step, number=number, before=number - 1)
        first = rows[0]["position"] >> _POSITION_BITS if rows else 0
        # Postgres writes some names itself, and escapes fewer characters. Then all events are read.
        if encode_json(step) != f'"{step}"':
            return {"run_id": run_id, "first": first, "last": _MAX_SEQ, "needle": ""}
        needle, last = f'"{step}",{number},', []
        if rows and rows[0]["status"] == VisitStatus.SUCCEEDED:
            end = f'["step.completed",{encode_json(rows[0]["finished_at"])},{needle}'
            last = self._fetch("visits.find_last_row", run_id=run_id, first=first, end=end)
        return {
            "run_id": run_id,
            "first": first,
            "last": last[0]["seq"] if last else _MAX_SEQ,
            "needle": needle,
        }

    def _fetch(self, query: str, **values: Any) -> list[Row]:
        return self._context.database.fetch_all(query, **values)


def _decode_one_by_one(run_id: str, rows: list[Any]) -> Iterator[Event]:
    """Yield the events of rows, and remove the rows from the list."""
    rows.reverse()
    while rows:
        row = rows.pop()
        yield decode_event(json.loads(row["event"]), write_event_id(run_id, (row["seq"], row["place"])))


def _started_visit(rows: Sequence[Row]) -> StartedVisit | None:
    if not rows:
        return None
    return StartedVisit(visit_from_row(rows[0]), rows[0]["started"], rows[0]["entered_at"])
