"""The data of two runs that are compared, read from a store up to a limit.

Cost: the text, the input and the events of visits of both runs, at most MAX_READ_EVENTS of each. Outputs are
read of MAX_READ_OUTPUTS visits of each. On SQL stores it is a constant number of statements. Their events are
decoded one by one, and only what is compared of them stays in memory. It may be some megabytes, so the
service has few comparisons in memory at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from noetl.api.service.run_diff import (
    COMPARED_EVENTS,
    ComparedPair,
    ComparedRun,
    read_visits,
    to_milliseconds,
)
from noetl.executor.precedence import wait_for_slice
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    from noetl.api.service.run_data import RunDataService
    from noetl.api.service.runs import RunService
    from noetl.executor.model.events import Event
    from noetl.executor.model.run import Run, Visit
    from noetl.executor.model.run_summary import VisitPlace

MAX_READ_OUTPUTS = 50
"""Of how many visits of each run the results and the saved values are read."""

MAX_OUTPUT_CHARACTERS = 4 * 1024 * 1024
"""How many characters of JSON these values of a run may have. Those of further visits are not compared."""

MAX_READ_EVENTS = 50_000
"""How many events of each run are read."""

MAX_EVENT_CHARACTERS = 8 * 1024 * 1024
"""How many characters of JSON these events may have."""


@frozen
class ComparisonService:
    """Comparisons of two runs of one tenant."""

    runs: RunService
    data: RunDataService

    def read(self, a: str, b: str) -> ComparedPair:
        """Return what is compared of two runs, with the outputs of their first common visits.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        first, second = (self._read_run(run) for run in [self.runs.get(a), self.runs.get(b)])
        common = [place for place in first.visits if place in second.visits]
        chosen = common[:MAX_READ_OUTPUTS]
        outputs = [self._read_outputs(run, chosen) for run in (first, second)]
        known = [place for place in chosen if all(place in found for found in outputs)]
        for run, found in zip((first, second), outputs, strict=True):
            for place in known:
                run.visits[place].outputs = _compared_outputs(found[place])
        return ComparedPair(first, second, len(common) - len(known))

    def _read_run(self, run: Run) -> ComparedRun:
        source = self.data.source(run.id)
        seconds = None
        if run.started_at is not None and run.finished_at is not None:
            seconds = run.finished_at - run.started_at
        found, has_more_events = self.runs.context.store.visits.events_of_types(
            run.id, COMPARED_EVENTS, MAX_READ_EVENTS, MAX_EVENT_CHARACTERS
        )
        events = _EventReader(found)
        visits = read_visits(events)
        return ComparedRun(
            workflow_id=run.id,
            playbook=run.playbook,
            version=run.version,
            plan_hash=source.plan_hash,
            status=run.status.value,
            duration_ms=to_milliseconds(seconds),
            source=source.source,
            input=run.input,
            visits=visits,
            last_event=events.last,
            result=run.result,
            is_cut=has_more_events,
        )

    def _read_outputs(self, run: ComparedRun, places: Sequence[VisitPlace]) -> dict[VisitPlace, Visit]:
        if not places or run.last_event is None:
            return {}
        visits = self.runs.context.store.visits
        return dict(visits.outputs(run.workflow_id, places, run.last_event, MAX_OUTPUT_CHARACTERS))


class _EventReader:
    """Events that are iterated over once, with slices for other threads. `last` is the id of the latest."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events
        self.last: str | None = None

    def __iter__(self) -> Iterator[Event]:
        for event in self._events:
            wait_for_slice()
            self.last = event.id
            yield event


def _compared_outputs(visit: Visit) -> dict[str, Any]:
    return {"result": visit.result, **{f"saved.{name}": value for name, value in visit.saved.items()}}
