"""Visits in the store in memory, read one at a time.

The author of a store decides how one visit and its events are found among those of a long run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from noetl.executor.model.durations import RunTimes, begin_times, extend_times
from noetl.executor.model.events import Event
from noetl.executor.model.json_values import take_up_to
from noetl.executor.model.run import Visit
from noetl.executor.model.run_summary import (
    ResultText,
    RunOverview,
    RunSummary,
    StartedVisit,
    VisitPlace,
    latest_visits,
    summarize,
    write_result,
)
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.memory.state import MemoryState, shown_run
from noetl.planner.frozen import replace


class MemoryVisits:
    """The visits of the runs of a store in memory. Another store keeps what it has measured."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def find(self, run_id: str, step: str, number: int | None = None) -> StartedVisit | None:
        with self._state.lock:
            record = self._state.runs.get(run_id)
            visits = [] if record is None else [v for v in record.visits.values() if v.step == step]
            started = [visit for visit in visits if _has_started(visit)]
            found = next((visit for visit in reversed(started) if number in (None, visit.number)), None)
            if record is None or found is None:
                return None
            entered_at = record.entered_at.get(found.id)
            return StartedVisit(replace(found, saved={}, result=None, failures=()), len(started), entered_at)

    def events(
        self, run_id: str, step: str, number: int, types: Collection[str] | None = None
    ) -> list[Event]:
        with self._state.lock:
            record = self._state.runs.get(run_id)
            history = [] if record is None else list(record.history)
        return [
            event
            for event in history
            if (event.step, event.visit) == (step, number) and (types is None or event.type in types)
        ]

    def events_of_types(
        self, run_id: str, types: Collection[str], limit: int, max_characters: int
    ) -> tuple[Iterable[Event], bool]:
        with self._state.lock:
            record = self._state.runs.get(run_id)
            history = [] if record is None else list(record.history)
        chosen = [event for event in history if event.type in types]
        events = list(take_up_to(chosen[:limit], lambda event: event.payload, max_characters))
        return events, len(events) < len(chosen)

    def outputs(
        self, run_id: str, places: Collection[VisitPlace], until: str, max_characters: int
    ) -> dict[VisitPlace, Visit]:
        with self._state.lock:
            record = self._state.runs.get(run_id)
            visits = [] if record is None else list(record.visits.values())
        started = {(visit.step, visit.number): visit for visit in visits if _has_started(visit)}
        chosen = (replace(started[place], failures=()) for place in places if place in started)
        return {
            (visit.step, visit.number): visit
            for visit in take_up_to(chosen, lambda visit: [visit.saved, visit.result], max_characters)
        }

    def times(self, run_id: str, created_at: float, now: float) -> RunTimes:
        with self._state.lock:
            record = self._state.runs.get(run_id)
            history = [] if record is None else list(record.history)
            active = [] if record is None else record.find_active()
        return extend_times(begin_times(created_at), history, active, len(history), now)

    def result_text(self, tenant: str, run_id: str) -> ResultText | None:
        with self._state.lock:
            record = self._state.runs.get(run_id)
            run = None if record is None or record.run.tenant != tenant else shown_run(record)
        return None if run is None else write_result(run)

    def overviews(self, tenant: str, run_ids: Sequence[str]) -> dict[str, RunOverview]:
        with self._state.lock:
            records = {id: self._state.runs[id] for id in run_ids if id in self._state.runs}
            return {
                id: RunOverview(
                    summarize(shown_run(record)),
                    record.run.error,
                    latest_visits(list(record.visits.values())),
                    record.damage,
                )
                for id, record in records.items()
                if record.run.tenant == tenant
            }

    def summaries(self, tenant: str, run_ids: Sequence[str]) -> dict[str, RunSummary]:
        with self._state.lock:
            records = {id: self._state.runs[id] for id in run_ids if id in self._state.runs}
            return {
                id: summarize(shown_run(record))
                for id, record in records.items()
                if record.run.tenant == tenant
            }

    def newest_runs(self, tenant: str, playbooks: Sequence[str], limit: int) -> dict[str, list[RunSummary]]:
        with self._state.lock:
            runs = [summarize(shown_run(record)) for record in self._state.runs.values()]
        runs.sort(key=lambda run: (run.created_at, run.id), reverse=True)
        return {
            name: [run for run in runs if (run.tenant, run.playbook) == (tenant, name)][:limit]
            for name in playbooks
        }

    def failures_text(self, run_id: str, visit_id: str, start: int, length: int) -> str:
        with self._state.lock:
            record = self._state.runs.get(run_id)
            visit = None if record is None else record.visits.get(visit_id)
        if visit is None or not visit.failures:
            return ""
        return encode_json(list(visit.failures))[start : start + length]


def _has_started(visit: Visit) -> bool:
    return visit.started_at is not None or visit.finished_at is not None or visit.progress is not None
