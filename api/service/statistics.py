"""Statistics of the latest runs of a playbook: how they ended, and how long they and their steps took.

Problem: a person wants to know whether a failure is new, and which step makes runs slow.

Algorithm: the newest runs and the latest visit of each of their steps are read and counted. Percentiles are
nearest ranks (Hyndman and Fan 1996, definition 1): each is a duration that was measured.

Cost: one page of the list of runs, and one read of those that have ended, at most MAX_RUNS. The summaries of
a page of the registry read SUMMARY_RUNS runs of each playbook together, and not their steps. Memory is
bounded by MAX_STEPS, or by one run.

Limits: older runs of large plans do not count for steps. Of a step that was visited several times in a run,
only the latest visit has a duration here. Metrics count all visits (`noetl.executor.model.metrics`), but not
by step.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from math import ceil

from noetl.api.service.overviews import RunReader
from noetl.api.service.tenant import TenantContext
from noetl.api.service.views import PlaybookEntry, PlaybookPage, PlaybookSummary, Timestamp, View
from noetl.executor.errors import DamagedRunError
from noetl.executor.model.events import timestamp
from noetl.executor.model.run import RunStatus, VisitStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunSummary, StepVisits
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.planner.frozen import frozen, replace

DEFAULT_RUNS = 50
MAX_RUNS = 200
"""How many runs are read at most."""

MAX_STEPS = 20_000
"""How many steps the plans have together whose runs count for steps. One run may have more."""

SUMMARY_RUNS = 100
SUMMARY_SECONDS = 30 * 86_400
"""A summary in the registry counts at most this many of the newest runs, and none that is older."""


class DurationReport(View, schema_name="DurationReport"):
    """Durations in milliseconds: how many there are, their median, 95th percentile and maximum."""

    count: int
    median_ms: float | None
    p95_ms: float | None
    max_ms: float | None


class StepStatistics(View, schema_name="StepStatistics"):
    """Statistics of a step over the ended runs that have visited it.

    `failed` counts the runs in which its latest visit failed, `retried` those in which this visit took
    several attempts. `visits` is the number of all visits.
    """

    runs: int
    visits: int
    failed: int
    retried: int
    duration: DurationReport


class PlaybookStatistics(View, schema_name="PlaybookStatistics"):
    """Statistics of the latest runs of a playbook. `since` is the time of the oldest of them.

    `success_rate` is the part of the ended runs that have succeeded, from 0 to 1. Runs that were cancelled do
    not count. `duration` is that of the runs which have succeeded. Steps are in the order of the newest run.
    They count the newest runs whose plans have 20,000 steps together.
    """

    playbook: str
    runs: int
    since: Timestamp | None
    statuses: Mapping[str, int]
    success_rate: float | None
    duration: DurationReport
    steps: Mapping[str, StepStatistics]


@frozen
class StatisticsService:
    """The statistics of the playbooks of one tenant."""

    context: TenantContext

    def describe(self, playbook: str, limit: int = DEFAULT_RUNS) -> PlaybookStatistics:
        """Return the statistics of the newest runs with a name of a playbook, at most `limit`.

        They are empty if it has no runs.
        """
        run_filter = RunFilter(tenant=self.context.tenant, playbook=playbook, limit=limit)
        runs, _ = self.context.store.runs.find(run_filter)
        statuses = Counter(run.status for run in runs)
        return PlaybookStatistics(
            playbook=playbook,
            runs=len(runs),
            since=timestamp(runs[-1].created_at) if runs else None,
            statuses={status.value: count for status, count in statuses.items()},
            success_rate=_success_rate(statuses),
            duration=describe_durations(
                _seconds(run.started_at, run.finished_at) for run in runs if run.status is RunStatus.SUCCEEDED
            ),
            steps=self._describe_steps(runs),
        )

    def summarize(self, page: PlaybookPage) -> PlaybookPage:
        """Return a page of the registry with a summary of the latest runs of each playbook."""
        names = [entry.name for entry in page.items]
        runs_of = self.context.store.visits.newest_runs(self.context.tenant, names, SUMMARY_RUNS)
        items = [
            PlaybookEntry(**{**vars(entry), "statistics": self._summarize(runs_of.get(entry.name, ()))})
            for entry in page.items
        ]
        return PlaybookPage(items=items, next_cursor=page.next_cursor)

    def _summarize(self, found: Sequence[RunSummary]) -> PlaybookSummary:
        """Return the summary of a playbook, from its newest runs."""
        since = self.context.clock() - SUMMARY_SECONDS
        runs = [run for run in found if run.created_at >= since]
        duration = describe_durations(
            _seconds(run.started_at, run.finished_at) for run in runs if run.status is RunStatus.SUCCEEDED
        )
        return PlaybookSummary(
            runs=len(runs),
            more=len(runs) == SUMMARY_RUNS,
            success_rate=_success_rate(Counter(run.status for run in runs)),
            median_ms=duration.median_ms,
            p95_ms=duration.p95_ms,
            last_run=timestamp(found[0].created_at) if found else None,
            last_status=found[0].status if found else None,
        )

    def _describe_steps(self, runs: Sequence[RunSummary]) -> dict[str, StepStatistics]:
        # The cache of the context has fewer plans than the runs may have.
        context = replace(self.context, step_names=cache(self.context.step_names))
        found: defaultdict[str, list[StepVisits]] = defaultdict(list)
        for name in context.step_names(runs[0].plan_hash) if runs else ():
            found[name] = []
        ended = _newest_ended(context, runs)
        reader = RunReader(context, ended)
        for run in ended:
            read = reader.get(run.id)
            overview = None if read is None else read.overview
            if overview is None:
                overview = context.store.runs.overview(context.tenant, run.id)
            for name, visits in () if overview is None else overview.steps.items():
                if not is_pseudo_step(name):
                    found[name].append(visits)
        return {name: _describe_step([visits for visits in found[name] if visits.started]) for name in found}


def _newest_ended(context: TenantContext, runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Return the newest runs that have ended. Their plans have at most MAX_STEPS steps together."""
    chosen, free = list[RunSummary](), MAX_STEPS
    for run in runs:
        if not run.status.is_final:
            continue
        with suppress(DamagedRunError):  # It cannot be read.
            free -= len(context.step_names(run.plan_hash))
            if chosen and free < 0:
                break
            chosen.append(run)
    return chosen


def _success_rate(statuses: Mapping[RunStatus, int]) -> float | None:
    """Return the part of the ended runs that have succeeded. Cancelled and skipped runs do not count."""
    judged = sum(count for status, count in statuses.items() if status.is_final)
    judged -= statuses.get(RunStatus.CANCELLED, 0) + statuses.get(RunStatus.SKIPPED, 0)
    return round(statuses.get(RunStatus.SUCCEEDED, 0) / judged, 4) if judged else None


def _describe_step(visits: Sequence[StepVisits]) -> StepStatistics:
    latest = [entry.latest for entry in visits]
    return StepStatistics(
        runs=len(visits),
        visits=sum(entry.started for entry in visits),
        failed=sum(visit.status is VisitStatus.FAILED for visit in latest),
        retried=sum(visit.attempt > 1 for visit in latest),
        duration=describe_durations(_seconds(visit.started_at, visit.finished_at) for visit in latest),
    )


def describe_durations(seconds: Iterable[float | None]) -> DurationReport:
    """Return a report of durations in seconds. None is a duration that is not known, and is left out.

    >>> vars(describe_durations([0.5, None, 0.1, 0.2]))
    {'count': 3, 'median_ms': 200.0, 'p95_ms': 500.0, 'max_ms': 500.0}
    """
    known = sorted(duration for duration in seconds if duration is not None)
    median, p95, longest = (_percentile(known, part) for part in (0.5, 0.95, 1.0))
    return DurationReport(count=len(known), median_ms=median, p95_ms=p95, max_ms=longest)


def _percentile(ordered: Sequence[float], part: float) -> float | None:
    """Return the smallest value, in milliseconds, that at least `part` of the values do not exceed."""
    return round(ordered[ceil(part * len(ordered)) - 1] * 1000, 3) if ordered else None


def _seconds(started_at: float | None, finished_at: float | None) -> float | None:
    """Return the time between two times, or None if one is not known. Clocks of machines may differ."""
    return None if started_at is None or finished_at is None else max(finished_at - started_at, 0.0)
