"""Visits of a run in DynamoDB, read one at a time.

Problem: a run may have thousands of visits, and a page that shows one must not read the others.

Algorithm: `step_visits.py` finds a visit by its step and its number. Its events are in its item, and in those
that begin with its id. The times of a run are those that its latest visit carries, or `measured_times.py`
measures them.

Cost: constant, except for the times of a run that has forked.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from noetl.executor.errors import DamagedRunError, PayloadLostError
from noetl.executor.model.durations import RunTimes, begin_times
from noetl.executor.model.events import Event
from noetl.executor.model.json_values import take_up_to
from noetl.executor.model.run import Visit
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import (
    ResultText,
    RunOverview,
    RunSummary,
    StartedVisit,
    VisitPlace,
    has_started,
    write_result,
)
from noetl.executor.model.special_visits import finally_visit_id
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.damage import reading_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.blobs import PART_CHARACTERS
from noetl.executor.stores.dynamo.carried_times import current_times
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.history import RunHistory
from noetl.executor.stores.dynamo.measured_times import MeasuredTimes
from noetl.executor.stores.dynamo.run_items import SUMMARY_ATTRIBUTES
from noetl.executor.stores.dynamo.run_list import RunList
from noetl.executor.stores.dynamo.run_overview import read_latest_visits
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot
from noetl.executor.stores.dynamo.runs import DynamoRuns
from noetl.executor.stores.dynamo.step_visits import find_visit, read_visit
from noetl.executor.stores.dynamo.visit_items import VISIT_ATTRIBUTES, decode_visit, without_outputs
from noetl.planner.frozen import replace

MEASURED_ATTRIBUTES = tuple(name for name in VISIT_ATTRIBUTES if name != "told")
"""The attributes of a visit from which the times of its run follow."""


class DynamoVisits:
    """The visits of the runs of a DynamoDB store."""

    def __init__(self, context: DynamoContext, runs: DynamoRuns) -> None:
        self._context = context
        self._runs = runs
        self._history = RunHistory(context)
        self._measured = MeasuredTimes(context, self._history)
        self._list = RunList(context)

    def find(self, run_id: str, step: str, number: int | None = None) -> StartedVisit | None:
        """Return the visit of a step with a number, or the latest."""
        with reading_run(run_id):
            found = find_visit(self._context, run_id, step, number)
        if found is None:
            return None
        visit, origin = found.item.visit, found.item.origin
        self._context.visit_ids.remember(visit)
        entered_at = origin.entered_at if origin.cause or origin.causes else None
        return StartedVisit(without_outputs(visit), found.started, entered_at)

    def events(
        self, run_id: str, step: str, number: int, types: Collection[str] | None = None
    ) -> list[Event]:
        """Return the events of one visit. Their ids are not those of the history."""
        with reading_run(run_id):
            item = read_visit(self._context, run_id, step, number)
            events = [] if item is None else self._history.visit_events(item)
        return [event for event in events if types is None or event.type in types]

    def events_of_types(
        self, run_id: str, types: Collection[str], limit: int, max_characters: int
    ) -> tuple[Iterable[Event], bool]:
        """Return the first events of some types. All visits are read, as for any page of events."""
        history = self._history.events(run_id, None, sys.maxsize)
        chosen = [event for event in history if event.type in types]
        events = list(take_up_to(chosen[:limit], lambda event: event.payload, max_characters))
        return events, len(events) < len(chosen)

    def outputs(
        self, run_id: str, places: Collection[VisitPlace], until: str, max_characters: int
    ) -> dict[VisitPlace, Visit]:
        """Return visits with their outputs. All visits are read without theirs, and then one at a time."""
        started = {
            (visit.step, visit.number): visit.id
            for visit in self._runs.visits(run_id)
            if has_started(visit) or visit.finished_at is not None
        }
        ids = (started[place] for place in places if place in started)
        visits = (visit for id in ids for visit in self._runs.visits_with_outputs(run_id, [id]))
        read = take_up_to(visits, lambda visit: [visit.saved, visit.result], max_characters)
        return {(visit.step, visit.number): replace(visit, failures=()) for visit in read}

    def times(self, run_id: str, created_at: float, now: float) -> RunTimes | None:
        """Return the times of a run, or None if all of its visits on cycles would have to be read."""
        head = self._context.table.get(keys.head(run_id), (*SUMMARY_ATTRIBUTES, "told", "shifts"))
        if head is None:
            return begin_times(created_at)
        self._context.heads.remember(head)
        with reading_run(run_id):
            snapshot = read_latest_visits(self._context, head, MEASURED_ATTRIBUTES)
            times = current_times(self._context, snapshot, self._final_events(snapshot), now)
            if times is not None:
                return times
            return self._measured.measure(head, snapshot, created_at, now)

    def result_text(self, tenant: str, run_id: str) -> ResultText | None:
        """Return the result of a run of a tenant, or None if the tenant has no such run."""
        run = self._list.get(tenant, run_id)
        return None if run is None else write_result(run)

    def overviews(self, tenant: str, run_ids: Sequence[str]) -> dict[str, RunOverview]:
        """Return the overviews of runs. Each takes requests of its own, of which several run in parallel."""

        def read(run_id: str) -> RunOverview | None:
            with suppress(DamagedRunError):
                return self._list.overview(tenant, run_id)
            return None

        found = zip(run_ids, self._context.in_parallel(read, run_ids), strict=True)
        return {run_id: overview for run_id, overview in found if overview is not None}

    def summaries(self, tenant: str, run_ids: Sequence[str]) -> dict[str, RunSummary]:
        """Return the summaries of runs. Each takes requests of its own, of which several run in parallel."""

        def read(run_id: str) -> RunSummary | None:
            with suppress(DamagedRunError):
                return self._list.summary(tenant, run_id)
            return None

        found = self._context.in_parallel(read, run_ids)
        return {run.id: run for run in found if run is not None}

    def newest_runs(self, tenant: str, playbooks: Sequence[str], limit: int) -> dict[str, list[RunSummary]]:
        """Return the newest runs of playbooks. Each playbook takes the requests of a list."""
        filters = {name: RunFilter(tenant, playbook=name, limit=limit) for name in playbooks}
        return {name: self._list.find(wanted)[0] for name, wanted in filters.items()}

    def failures_text(self, run_id: str, visit_id: str, start: int, length: int) -> str:
        """Return a part of the JSON of the failed items of a visit. Of an object, only this part is read."""
        with reading_run(run_id), suppress(PayloadLostError):
            key, blobs = self._context.heads.visit_key(run_id, visit_id), self._context.blobs
            first, last = start // PART_CHARACTERS, -(-(start + length) // PART_CHARACTERS)
            parts = self._context.table.get(key, ("fails",))
            text = blobs.load_parts(parts["fails"], first, last) if parts else None
            if text is not None:
                return text[start - first * PART_CHARACTERS :][:length]
            item = self._context.table.get(key)
            found = None if item is None else decode_visit(run_id, item, blobs)
            if found is not None and found.visit.failures:
                return encode_json(list(found.visit.failures))[start : start + length]
        return ""

    def _final_events(self, snapshot: RunSnapshot) -> list[Event]:
        """Return the events of the finally step of a run, which is visited once."""
        id = finally_visit_id(snapshot.head.get("resumes", 0))
        visit = next((item.visit for item in snapshot.items if item.visit.id == id), None)
        item = None if visit is None else read_visit(self._context, visit.run_id, visit.step, visit.number)
        return [] if item is None else self._history.visit_events(item)
