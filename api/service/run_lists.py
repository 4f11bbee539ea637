"""The service of lists of runs: pages with headlines, a search for text, and counts of runs.

Problem: a headline follows from the steps of a run, and no store knows it. A list shows it for each run,
and a search looks into it.

Algorithm: a store excludes the runs that cannot match, and reads a bounded number of them (`RunFilter.text`).
The headlines of the others are computed, for a search up to MAX_HEADLINES. A cursor carries a checksum of the
filter of its list.

Cost: the steps of all runs with a headline are read together, and give the numbers of steps, too. So are the
slots of those that wait at limits. Runs with very long journals are read one by one. Runs that have succeeded
have no headline. The number of their steps is that of their plan. It is read once for each plan, and not for
more than MAX_PLANS plans of a page.

Limits: the page of a search ends early after MAX_HEADLINES headlines or MAX_READS reads; its cursor continues
there. `since` and `until` are not in the checksum, because they are bounds in the order of the list. A client
may compute them anew for each page.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from noetl.api.service.headlines import Headline
from noetl.api.service.list_cursors import CursorScope
from noetl.api.service.overviews import RunReader
from noetl.api.service.run_data import RunDataService
from noetl.api.service.tenant import TenantContext
from noetl.api.service.views import HistogramBucket, RunEntry, RunHistogram, RunPage, StatusCounts
from noetl.executor.errors import DamagedRunError, RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import (
    MAX_RUNS_PER_PAGE,
    WITHOUT_HEADLINE,
    RunCounts,
    RunFilter,
    fold_case,
    has_text,
)
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.stores.cursors import write_cursor
from noetl.planner.frozen import frozen, replace
from noetl.planner.syntax.durations import parse_duration

MAX_HEADLINES = 200
"""The number of headlines that are computed for one page of a search."""

MAX_PLANS = 20
"""The number of plans of which a page of runs shows how many steps they have."""

MAX_READS = 2
"""The number of times that one search reads runs of the store."""

MAX_COUNTED = 20_000
"""The number of runs that one request counts at most."""

MAX_BUCKETS = 500
"""The number of intervals of a histogram."""

DEFAULT_BUCKETS = 96
"""The number of intervals of a histogram without `since`."""

MAX_STEP_SECONDS = 366 * 86_400.0
"""The greatest length of an interval."""


@frozen
class ListedRun:
    """A run of a list with its headline."""

    summary: RunSummary
    headline: Headline

    @property
    def entry(self) -> RunEntry:
        """Return the entry of the list."""
        headline = self.headline
        return RunEntry.from_summary(self.summary, headline.text, headline.steps, headline.step_count)

    def has_text(self, text: str | None) -> bool:
        """Return whether the id, the playbook or the headline of the run has a text. None is in all."""
        if text is None or has_text(self.summary.id, self.summary.playbook, text):
            return True
        return fold_case(text) in fold_case(self.headline.text)


class HeadlineSource(Protocol):
    """Source of the headlines of a list."""

    def prepare(self, runs: Sequence[RunSummary]) -> None:
        """Let the next headlines be those of these runs."""
        ...

    def headline(self, run: RunSummary) -> Headline:
        """Return the headline of a run that may have one."""
        ...


class ComputedHeadlines:
    """The headlines of runs, each computed from the steps of its run."""

    def __init__(self, data: RunDataService) -> None:
        self._data = data
        self._reader = RunReader(data.runs.context)

    def prepare(self, runs: Sequence[RunSummary]) -> None:
        """Let the reader read these runs together."""
        self._reader = RunReader(self._data.runs.context, runs)

    def headline(self, run: RunSummary) -> Headline:
        return self._data.headline(run.id, self._reader.get(run.id))


@frozen
class RunListService:
    """The lists of the runs of one tenant."""

    context: TenantContext
    data: RunDataService

    def page(self, run_filter: RunFilter) -> RunPage:
        """Return one page of runs with their headlines, and the cursor of the next page.

        Raises:
            RejectedError: `invalid_cursor`, also if the cursor is one of another list, filter or order.
        """
        runs, cursor = self.find(run_filter)
        return RunPage(items=[run.entry for run in runs], next_cursor=cursor)

    def find(
        self, run_filter: RunFilter, headlines: HeadlineSource | None = None
    ) -> tuple[list[ListedRun], str | None]:
        """Return the runs of one page, and the cursor of the next page or None.

        Raises:
            RejectedError: as `page` does.
        """
        wanted, scope = self._open(run_filter)
        found, cursor = self._read(wanted, headlines or ComputedHeadlines(self.data))
        return found, scope.close(cursor)

    def find_ids(self, run_filter: RunFilter) -> tuple[list[str], str | None]:
        """Return the ids of one page. Headlines are computed only for a search.

        Raises:
            RejectedError: as `page` does.
        """
        if run_filter.text is not None:
            found, cursor = self.find(run_filter)
            return [run.summary.id for run in found], cursor
        wanted, scope = self._open(run_filter)
        runs, cursor = self.context.store.runs.find(wanted)
        return [run.id for run in runs], scope.close(cursor)

    def counts(self, run_filter: RunFilter) -> StatusCounts:
        """Return the numbers of the runs of a filter by status. Its page and order are ignored."""
        counts = self._count(run_filter, None)
        numbers: Counter[RunStatus] = Counter()
        for (_, status), number in counts.numbers.items():
            numbers[status] += number
        return StatusCounts(
            total=counts.total,
            more=not counts.is_complete,
            statuses={name: numbers[name] for name in RunStatus},
        )

    def histogram(self, run_filter: RunFilter, step_seconds: float) -> RunHistogram:
        """Return the numbers of the runs of a filter by status, for each interval of their creation.

        Intervals begin at multiples of `step_seconds` since the epoch. Without `until`, the last one is that
        of the present. Without `since`, there are DEFAULT_BUCKETS.

        Raises:
            RejectedError: `invalid_interval`, if there are none, or more than MAX_BUCKETS.
        """
        now = self.context.clock()
        end = math.floor(now / step_seconds) + 1
        if run_filter.until is not None:
            end = math.ceil(run_filter.until / step_seconds)
        first = end - DEFAULT_BUCKETS
        if run_filter.since is not None:
            first = math.floor(run_filter.since / step_seconds)
        first = max(first, 0)
        if not 0 < end - first <= MAX_BUCKETS:
            problem = "`since` must be before `until`" if end <= first else f"{end - first:,} intervals"
            raise RejectedError(
                "invalid_interval", f"{problem}; a histogram has 1 to {MAX_BUCKETS} intervals of `step`"
            )
        since, until = run_filter.since, run_filter.until
        wanted = replace(
            run_filter,
            since=first * step_seconds if since is None else since,
            until=end * step_seconds if until is None else until,
        )
        counts = self._count(wanted, step_seconds)
        filled = {number for number, _ in counts.numbers}
        none = dict.fromkeys(RunStatus, 0)  # Most intervals have no run.
        buckets = [
            HistogramBucket(
                start=timestamp(number * step_seconds),
                statuses={status: counts.numbers.get((number, status), 0) for status in RunStatus}
                if number in filled
                else none,
            )
            for number in range(first, end)
        ]
        return RunHistogram(
            step_seconds=step_seconds, total=counts.total, more=not counts.is_complete, buckets=buckets
        )

    def _open(self, run_filter: RunFilter) -> tuple[RunFilter, CursorScope]:
        """Return the filter of this tenant with the cursor of the store, and the scope of its cursors."""
        wanted = replace(run_filter, tenant=self.context.tenant)
        scope = _scope_of(wanted)
        return replace(wanted, cursor=scope.open(wanted.cursor)), scope

    def _count(self, run_filter: RunFilter, step_seconds: float | None) -> RunCounts:
        wanted = replace(run_filter, tenant=self.context.tenant, cursor=None)
        if wanted.text is None:
            return self.context.store.runs.count(wanted, step_seconds, MAX_COUNTED)
        newest = replace(wanted, is_oldest_first=False, limit=MAX_COUNTED)
        runs, cursor = self._read(newest, ComputedHeadlines(self.data))
        summaries = [run.summary for run in runs]
        numbers = Counter(
            (int(run.created_at // step_seconds) if step_seconds else 0, run.status) for run in summaries
        )
        return RunCounts(numbers, is_complete=cursor is None)

    def _read(self, wanted: RunFilter, headlines: HeadlineSource) -> tuple[list[ListedRun], str | None]:
        """Return the runs of one page, and the cursor of the store after them or None."""
        found: list[ListedRun] = []
        headline_count, last = 0, None
        max_headlines = wanted.limit if wanted.text is None else MAX_HEADLINES
        counts: dict[str, int | None] = {}
        batch = wanted
        if wanted.text is not None:
            batch = replace(wanted, limit=min(max(wanted.limit, MAX_HEADLINES), MAX_RUNS_PER_PAGE))
        for _ in range(MAX_READS):
            runs, cursor = self.context.store.runs.find(batch)
            with_headline = [run for run in runs if run.status not in WITHOUT_HEADLINE]
            headlines.prepare(with_headline[: max_headlines - headline_count])
            for position, run in enumerate(runs):
                has_headline = run.status not in WITHOUT_HEADLINE
                if has_headline and headline_count == max_headlines and last is not None:
                    return found, write_cursor(last.created_at, last.id)
                headline_count, last = headline_count + has_headline, run
                headline = headlines.headline(run) if has_headline else self._count_steps(run, counts)
                listed = ListedRun(run, headline)
                if listed.has_text(wanted.text):
                    found.append(listed)
                if len(found) == wanted.limit and (cursor is not None or position + 1 < len(runs)):
                    return found, write_cursor(run.created_at, run.id)
            if cursor is None or wanted.text is None:
                break
            batch = replace(batch, cursor=cursor)
        return found, cursor

    def _count_steps(self, run: RunSummary, counts: dict[str, int | None]) -> Headline:
        """Return the number of steps of a run that has succeeded. `counts` has those of plans of the page."""
        if run.plan_hash not in counts and len(counts) < MAX_PLANS:
            try:
                counts[run.plan_hash] = len(self.context.step_names(run.plan_hash)) or None
            except DamagedRunError:
                counts[run.plan_hash] = None
        return Headline(step_count=counts.get(run.plan_hash))


def parse_step(text: str) -> float:
    """Return the seconds of the step of a histogram.

    >>> parse_step("15m")
    900.0

    Raises:
        ValueError: it is no duration, or too short or too long.
    """
    seconds = parse_duration(text)
    if not 1 <= seconds <= MAX_STEP_SECONDS:
        raise ValueError("it must be at least 1 second and at most 366 days")
    return seconds


def _scope_of(run_filter: RunFilter) -> CursorScope:
    """Return what tells the cursors of lists with other filters apart."""
    return CursorScope.for_list(
        run_filter.tenant,
        sorted({status.value for status in run_filter.statuses}),
        run_filter.playbook,
        sorted(set(run_filter.tags)),
        run_filter.queue,
        run_filter.parent,
        None if run_filter.text is None else fold_case(run_filter.text),
        run_filter.id_prefix,
        run_filter.is_oldest_first,
    )
