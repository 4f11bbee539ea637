"""The steps of several runs of a list, and what they wait for at limits, read together.

Problem: a page of runs shows what follows from their steps. Two statements for each run, and more for a run
that waits at a limit, take most of its time.

Algorithm: runs are read in batches of at most MAX_READ_STEPS steps, in the order of the page. A batch is read
when the first run of it is needed, and replaces the one before. So memory does not grow with the page.

Cost: for each batch two statements on SQL stores, and two for its runs that wait at limits. On DynamoDB,
requests for each run.

Limits: a reader reads those runs one by one that are damaged, or have much data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from noetl.api.service.step_reports import QueuedSlots, find_queued_slots, has_waiting_step
from noetl.api.service.tenant import TenantContext
from noetl.executor.errors import DamagedRunError
from noetl.executor.model.run_summary import RunOverview, RunSummary
from noetl.planner.frozen import frozen

MAX_READ_STEPS = 10_000
"""How many steps runs may have that are read together."""


@frozen
class ReadRun:
    """The overview of a run, and its slots that wait."""

    overview: RunOverview
    queued: QueuedSlots


class RunReader:
    """Reader of the runs of a page, which are requested in the order of the page."""

    def __init__(self, context: TenantContext, runs: Sequence[RunSummary] = ()) -> None:
        self._context = context
        self._batches = _divide(context, runs)
        self._batch_of = {id: number for number, batch in enumerate(self._batches) for id in batch}
        self._number: int | None = None
        self._read: Mapping[str, ReadRun] = {}

    def get(self, run_id: str) -> ReadRun | None:
        """Return a run, or None if it must be read by itself."""
        number = self._batch_of.get(run_id)
        if number is not None and number != self._number:
            self._number, self._read = number, _read_runs(self._context, self._batches[number])
        return self._read.get(run_id)


def _divide(context: TenantContext, runs: Sequence[RunSummary]) -> list[list[str]]:
    """Return the ids of runs in batches. Those whose plan cannot be read are left out."""
    batches: list[list[str]] = []
    free = 0
    for run in runs:
        with suppress(DamagedRunError):
            context.store.plans.header(run.plan_hash)  # fails if the plan is missing
            steps = len(context.step_names(run.plan_hash))
            if not batches or steps > free:
                batches.append([])
                free = MAX_READ_STEPS
            batches[-1].append(run.id)
            free -= steps
    return batches


def _read_runs(context: TenantContext, run_ids: Sequence[str]) -> dict[str, ReadRun]:
    """Return those runs of a tenant that were read together, by id."""
    found = context.store.visits.overviews(context.tenant, run_ids)
    overviews = {id: overview for id, overview in found.items() if overview.damage is None}
    plans = {
        id: overview.summary.plan_hash for id, overview in overviews.items() if has_waiting_step(overview)
    }
    queued = find_queued_slots(context.store, plans)
    return {id: ReadRun(overview, queued.get(id, {})) for id, overview in overviews.items()}
