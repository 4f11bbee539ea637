"""The data of two runs that are compared, read from a store or a service up to a limit.

Cost: the text, the input and the events of both runs, at most MAX_READ_EVENTS of each. Of the events, only
what is compared is kept. Outputs are read of MAX_READ_OUTPUTS visits of each, and of fewer in a long run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from noetl.api.service.run_diff import ComparedPair, ComparedRun, VisitKey, read_visits
from noetl.api.service.views import members
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    from noetl.api.service.data_views import RunInput, RunSource, StepData
    from noetl.api.service.run_data import RunDataService
    from noetl.api.service.runs import RunService
    from noetl.api.service.views import EventPage
    from noetl.executor.model.run import Run

MAX_READ_OUTPUTS = 50
"""Of how many visits of each run the results and the saved values are read. Each takes a request."""

MAX_SEARCHED_VISITS = 10_000
"""How many visits are read at most to find those outputs: a request for one reads all visits of its run."""

MAX_READ_EVENTS = 50_000
"""How many events of each run are read."""


class ComparableRuns(Protocol):
    """Access to the data of runs that are compared: in a store, or in a service over HTTP."""

    def source(self, run_id: str) -> RunSource:
        """Return the text of the playbook of a run."""
        ...

    def input(self, run_id: str) -> RunInput:
        """Return the input of a run."""
        ...

    def step(self, run_id: str, name: str, visit: int | None) -> StepData:
        """Return a visit of a step with its data."""
        ...

    def events(self, run_id: str, after: str | None) -> EventPage:
        """Return one page of the events of a run."""
        ...


def read_pair(runs: ComparableRuns, a: Run, b: Run) -> ComparedPair:
    """Return what is compared of two runs, with the outputs of their first common visits."""
    first, second = _read_run(runs, a), _read_run(runs, b)
    common = [key for key in first.visits if key in second.visits]
    visits = max(len(first.visits), len(second.visits), 1)
    chosen = common[: min(MAX_READ_OUTPUTS, MAX_SEARCHED_VISITS // visits)]
    for run in (first, second):
        for key in chosen:
            run.visits[key].outputs = _read_outputs(runs, run.workflow_id, key)
    return ComparedPair(first, second, len(common) - len(chosen))


def _read_run(runs: ComparableRuns, run: Run) -> ComparedRun:
    source = runs.source(run.id)
    # A service sends times in whole microseconds, so those of a store are rounded, too.
    seconds = None
    if run.started_at is not None and run.finished_at is not None:
        seconds = round(run.finished_at, 6) - round(run.started_at, 6)
    events = CountedEvents(runs, run.id)
    return ComparedRun(
        workflow_id=run.id,
        playbook=run.playbook,
        version=run.version,
        plan_hash=source.plan_hash,
        status=run.status.value,
        duration_ms=None if seconds is None else round(seconds * 1000, 3),
        source=source.source,
        input=runs.input(run.id).input,
        visits=read_visits(events),
        result=run.result,
        is_cut=events.count >= MAX_READ_EVENTS,
    )


def _read_outputs(runs: ComparableRuns, run_id: str, key: VisitKey) -> dict[str, Any]:
    step, number = key
    data = runs.step(run_id, step, number)
    return {"result": data.result, **{f"saved.{entry.name}": entry.value for entry in data.saved}}


class CountedEvents:
    """The first events of a run, one page at a time. `count` is how many were read."""

    def __init__(self, runs: ComparableRuns, run_id: str) -> None:
        self._runs = runs
        self._run_id = run_id
        self.count = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cursor = None
        while self.count < MAX_READ_EVENTS:
            page = self._runs.events(self._run_id, cursor)
            self.count += len(page.items)
            yield from map(members, page.items)
            cursor = page.next_cursor
            if cursor is None:
                return


@frozen
class ComparisonService:
    """Comparisons of two runs of one tenant."""

    runs: RunService
    data: RunDataService

    def read(self, a: str, b: str) -> ComparedPair:
        """Return what is compared of two runs.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        return read_pair(self, self.runs.get(a), self.runs.get(b))

    def source(self, run_id: str) -> RunSource:
        return self.data.source(run_id)

    def input(self, run_id: str) -> RunInput:
        return self.data.input(run_id)

    def step(self, run_id: str, name: str, visit: int | None) -> StepData:
        return self.data.step(run_id, name, visit)

    def events(self, run_id: str, after: str | None) -> EventPage:
        return self.runs.events(run_id, after)
