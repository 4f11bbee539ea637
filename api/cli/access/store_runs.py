"""Access of commands to the runs of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noetl.api.cli.user_name import user_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from noetl.api.cli.display.event_follower import EventReader
    from noetl.api.service.cached_results import CachePage, CacheQuery, ClearReport
    from noetl.api.service.changed_restarts import ChangedRestart
    from noetl.api.service.data_views import LogPage, LoopItems, RunDetails, RunInput, RunSource, StepData
    from noetl.api.service.inbox import AnswerRequest
    from noetl.api.service.inbox_views import InboxPage
    from noetl.api.service.loop_items import ItemQuery
    from noetl.api.service.past_restarts import PastRestart
    from noetl.api.service.preview_views import ResumePreview
    from noetl.api.service.runs import ResumeRequest
    from noetl.api.service.services import TenantServices
    from noetl.api.service.switches import PlaybookChange
    from noetl.api.service.views import (
        BulkReport,
        CurrentStatus,
        EventPage,
        RunEntry,
        RunHistogram,
        RunPage,
        RunReport,
        RunResult,
        RunTags,
        StatusCounts,
    )
    from noetl.executor.model.run import Run
    from noetl.executor.model.run_filter import RunFilter
    from noetl.executor.model.run_tags import TagChange
    from noetl.planner.draw.run_marks import DrawnRun
    from noetl.planner.plan import Plan

_POLL_SECONDS = 0.2


class StoreRuns:
    """The runs of a store (implements `RunAccess`)."""

    place = "this store"

    def __init__(self, services: TenantServices) -> None:
        self.services = services
        self._change_count = services.store.changes.count

    @property
    def reader(self) -> EventReader:
        return self.services.store.runs

    def current_time(self) -> float:
        return self.services.store.clock()

    def find(self, run_filter: RunFilter) -> RunPage:
        return self.services.runs.find(run_filter)

    def page(self, run_filter: RunFilter) -> RunPage:
        return self.services.lists.page(run_filter)

    def counts(self, run_filter: RunFilter) -> StatusCounts:
        return self.services.lists.counts(run_filter)

    def histogram(self, run_filter: RunFilter, step_seconds: float) -> RunHistogram:
        return self.services.lists.histogram(run_filter, step_seconds)

    def get(self, run_id: str) -> Run:
        self._change_count = self.services.store.changes.count
        return self.services.runs.get(run_id)

    def report(self, run_id: str) -> RunReport:
        return self.services.items.report(run_id)

    def result(self, run_id: str) -> RunResult:
        return self.services.runs.result(run_id)

    def plan(self, run_id: str) -> Plan:
        return self.services.runs.plan(run_id)

    def source(self, run_id: str) -> RunSource:
        return self.services.data.source(run_id)

    def input(self, run_id: str) -> RunInput:
        return self.services.data.input(run_id)

    def compare(self, a: str, b: str) -> dict[str, Any]:
        from noetl.api.service.run_diff import compare_runs

        return compare_runs(self.services.comparison.read(a, b))

    def drawn_run(self, run_id: str, event: str | None = None) -> DrawnRun:
        if event is not None:
            return self.services.past_runs.drawn_run(self.services.past_runs.find(run_id, event))[1]
        return self.services.data.drawn_run(run_id)[1]

    def details(self, run_id: str, event: str | None = None) -> RunDetails:
        if event is not None:
            return self.services.past_runs.details(self.services.past_runs.find(run_id, event))
        return self.services.items.details(run_id)

    def items(self, run_id: str, query: ItemQuery) -> LoopItems:
        return self.services.items.page(run_id, query)

    def step(self, run_id: str, name: str, visit: int | None, event: str | None = None) -> StepData:
        if event is not None:
            return self.services.past_runs.step(self.services.past_runs.find(run_id, event), name, visit)
        return self.services.data.step(run_id, name, visit)

    def log(self, run_id: str, step: str | None, after: str | None) -> LogPage:
        return self.services.data.log(run_id, step, after)

    def events(self, run_id: str, after: str | None) -> EventPage:
        return self.services.runs.events(run_id, after)

    def cached(self, query: CacheQuery, limit: int) -> CachePage:
        return self.services.cache.find(query, limit)

    def clear_cache(self, query: CacheQuery) -> ClearReport:
        return self.services.cache.clear(query)

    def questions(self, cursor: str | None = None) -> InboxPage:
        from noetl.api.service.inbox import MAX_QUESTIONS

        return self.services.inbox.find(cursor, MAX_QUESTIONS)

    def answer_step(self, run_id: str, request: AnswerRequest) -> None:
        from noetl.api.cli.callback_answer import answer_step

        answer_step(self.services, run_id, request)

    def answer_token(self, token: str, answer: Any, *, heartbeat: bool) -> None:
        from noetl.api.cli.callback_answer import answer_in_store

        answer_in_store(self.services, token, answer, heartbeat=heartbeat)

    def cancel(self, run_id: str) -> CurrentStatus:
        from noetl.api.cli.local.run_to_end import wait_until_stopped
        from noetl.api.service.views import CurrentStatus

        run = self.services.runs.cancel(run_id)
        if run.origin == "local":
            # No service executes such a run, and the process that did may be gone.
            run = wait_until_stopped(self.services.store, run)
        ending = None if run.status.is_final else run.ending
        return CurrentStatus(workflow_id=run.id, status=run.status, ending=ending)

    def change_tags(self, run_id: str, change: TagChange) -> RunTags:
        return self.services.runs.change_tags(run_id, change)

    def delete(self, run_id: str) -> None:
        self.services.runs.delete(run_id)

    def pause(self, run_id: str) -> CurrentStatus:
        from noetl.api.service.views import CurrentStatus

        return CurrentStatus(workflow_id=run_id, status=self.services.runs.pause(run_id).status)

    def unpause(self, run_id: str) -> CurrentStatus:
        from noetl.api.service.views import CurrentStatus

        return CurrentStatus(workflow_id=run_id, status=self.services.runs.unpause(run_id).status)

    def resume(self, run_id: str, request: ResumeRequest | PastRestart | ChangedRestart) -> RunEntry:
        from noetl.api.service.changed_restarts import ChangedRestart
        from noetl.api.service.runs import ResumeRequest
        from noetl.api.service.views import RunEntry
        from noetl.executor.model.run_summary import summarize

        if isinstance(request, ResumeRequest):
            run = self.services.runs.resume(run_id, request)
        elif isinstance(request, ChangedRestart):
            run, _ = self.services.changed_restarts.start(run_id, request)
        else:
            run = self.services.past_restarts.start(run_id, request)
        return RunEntry.from_summary(summarize(run))

    def preview_resume(
        self, run_id: str, request: ResumeRequest | PastRestart | ChangedRestart
    ) -> ResumePreview:
        from noetl.api.service.changed_restarts import ChangedRestart
        from noetl.api.service.runs import ResumeRequest

        if isinstance(request, ChangedRestart):
            return self.services.changed_restarts.preview(run_id, request)
        if not isinstance(request, ResumeRequest):
            return self.services.past_restarts.preview(run_id, request)
        return self.services.previews.preview(run_id, request)

    def preview_switch(self, run_id: str, change: PlaybookChange) -> ResumePreview:
        return self.services.switches.preview(run_id, change)

    def switch(self, run_id: str, change: PlaybookChange) -> RunEntry:
        from noetl.api.service.views import RunEntry
        from noetl.executor.model.run_summary import summarize

        return RunEntry.from_summary(summarize(self.services.switches.switch(run_id, change)[0]))

    def migrate(self, ids: Sequence[str], change: PlaybookChange | None, *, is_dry_run: bool) -> BulkReport:
        if change is None:
            return self.services.bulk.undo_migration(ids, user_name(), is_dry_run=is_dry_run)
        return self.services.bulk.migrate(ids, change, is_dry_run=is_dry_run)

    def outlast_outages(self, check: Callable[[], object]) -> None:
        """Return at once: the connections of a store try again themselves."""

    def wait_for_change(self) -> None:
        self.services.store.changes.wait(self._change_count, _POLL_SECONDS)

    def is_abandoned(self, run: Run) -> bool:
        from noetl.api.cli.local.run_to_end import is_abandoned

        is_open = run.origin == "local" and not run.status.is_final
        return is_open and is_abandoned(self.services.store, run)
