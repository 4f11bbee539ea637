"""The steps of several runs of a list, and what they wait for at limits, read together.

Problem: a page of runs shows what follows from their steps. Two statements for each run, and more for a run
that waits at a limit, take most of its time.

Algorithm: runs are read together, as long as they have at most MAX_READ_STEPS steps.

Cost: two statements on SQL stores, and two for the runs that wait at limits. On DynamoDB, requests for each
run.

Limits: a reader reads the other runs one by one, and those with much data or with damage.
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


def read_runs(context: TenantContext, runs: Sequence[RunSummary]) -> Mapping[str, ReadRun]:
    """Return those runs of a tenant that were read together, by id."""
    overviews = read_overviews(context, runs)
    plans = {id: found.summary.plan_hash for id, found in overviews.items() if has_waiting_step(found)}
    queued = find_queued_slots(context.store, plans)
    return {id: ReadRun(overview, queued.get(id, {})) for id, overview in overviews.items()}


def read_overviews(context: TenantContext, runs: Sequence[RunSummary]) -> Mapping[str, RunOverview]:
    """Return the overviews of those runs of a tenant that were read together, by id."""
    wanted, steps = [], 0
    for run in runs:
        with suppress(DamagedRunError):
            context.store.plans.header(run.plan_hash)  # fails if the plan is missing
            own_steps = len(context.step_names(run.plan_hash))
            if steps + own_steps <= MAX_READ_STEPS:
                steps += own_steps
                wanted.append(run.id)
    found = context.store.visits.overviews(context.tenant, wanted) if wanted else {}
    return {id: overview for id, overview in found.items() if overview.damage is None}
