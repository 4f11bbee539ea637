"""The interface through which commands reach runs: those of a store, or those of a service over HTTP.

Problem: `noetl runs` must do the same for a store on this machine and for a service elsewhere.

Algorithm: a bridge (Gamma et al., 1994). A command has one `RunAccess` and does not know which. The views are
those of the service, so the output is the same.

Limits: only a store has runs of a local file that this process can execute: `services` is None over HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

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


class RunAccess(Protocol):
    """The runs that a command can reach. Methods about a run raise NotFoundError if there is no such run."""

    @property
    def place(self) -> str:
        """Words for where the runs are: `this store`, or `this service`."""
        ...

    @property
    def services(self) -> TenantServices | None:
        """Services of a store, with which this process can execute runs; None over HTTP."""
        ...

    @property
    def reader(self) -> EventReader:
        """Reader of the events of runs, and of the runs that they start."""
        ...

    def current_time(self) -> float:
        """Return the time, in seconds since the epoch."""
        ...

    def find(self, run_filter: RunFilter) -> RunPage:
        """Return one page of runs. Headlines may be missing."""
        ...

    def page(self, run_filter: RunFilter) -> RunPage:
        """Return one page of runs with their headlines."""
        ...

    def counts(self, run_filter: RunFilter) -> StatusCounts:
        """Return the numbers of the runs of a filter by status."""
        ...

    def histogram(self, run_filter: RunFilter, step_seconds: float) -> RunHistogram:
        """Return the numbers of the runs of a filter by status, for each interval of their creation."""
        ...

    def get(self, run_id: str) -> Run:
        """Return the record of a run. Over HTTP it has only what the status and the result show."""
        ...

    def report(self, run_id: str) -> RunReport:
        """Return the status of a run and of its steps."""
        ...

    def result(self, run_id: str) -> RunResult:
        """Return the result of a run."""
        ...

    def plan(self, run_id: str) -> Plan:
        """Return the plan of a run, with its source."""
        ...

    def source(self, run_id: str) -> RunSource:
        """Return the text of the playbook of a run."""
        ...

    def input(self, run_id: str) -> RunInput:
        """Return the input of a run."""
        ...

    def compare(self, a: str, b: str) -> dict[str, Any]:
        """Return the differences of two runs as the JSON object of `RunDifference`."""
        ...

    def drawn_run(self, run_id: str, event: str | None = None) -> DrawnRun:
        """Return what a drawing shows of a run, also as it was after an event."""
        ...

    def details(self, run_id: str, event: str | None = None) -> RunDetails:
        """Return a run at a glance, with the counts of its loops, also as it was after an event."""
        ...

    def items(self, run_id: str, query: ItemQuery) -> LoopItems:
        """Return one page of the items of a loop."""
        ...

    def step(self, run_id: str, name: str, visit: int | None, event: str | None = None) -> StepData:
        """Return a visit of a step with its data, also as it was after an event."""
        ...

    def log(self, run_id: str, step: str | None, after: str | None) -> LogPage:
        """Return one page of the lines of a run."""
        ...

    def events(self, run_id: str, after: str | None) -> EventPage:
        """Return one page of the events of a run."""
        ...

    def cached(self, query: CacheQuery, limit: int) -> CachePage:
        """Return the newest cached results of a query."""
        ...

    def clear_cache(self, query: CacheQuery) -> ClearReport:
        """Delete the cached results of a query."""
        ...

    def questions(self, cursor: str | None = None) -> InboxPage:
        """Return a page of what the waiting runs ask persons; what expires first comes first."""
        ...

    def answer_step(self, run_id: str, request: AnswerRequest) -> None:
        """Answer a question of a step, and print that."""
        ...

    def answer_token(self, token: str, answer: Any, *, heartbeat: bool) -> None:
        """Answer a callback, or record a heartbeat, and print that."""
        ...

    def cancel(self, run_id: str) -> CurrentStatus:
        """Cancel a run. A local run is then stopped as far as it can be."""
        ...

    def change_tags(self, run_id: str, change: TagChange) -> RunTags:
        """Change the tags of a run, and return them."""
        ...

    def delete(self, run_id: str) -> None:
        """Delete a run that has ended, and the runs that it has started."""
        ...

    def pause(self, run_id: str) -> CurrentStatus:
        """Pause a run."""
        ...

    def unpause(self, run_id: str) -> CurrentStatus:
        """Let a paused run continue."""
        ...

    def resume(self, run_id: str, request: ResumeRequest | PastRestart | ChangedRestart) -> RunEntry:
        """Resume a run of a service, or start a new run at a step or an event of it."""
        ...

    def preview_resume(
        self, run_id: str, request: ResumeRequest | PastRestart | ChangedRestart
    ) -> ResumePreview:
        """Return what a resume would do again. Nothing is changed."""
        ...

    def preview_switch(self, run_id: str, change: PlaybookChange) -> ResumePreview:
        """Return what a run would do again in another version of its playbook. Nothing is changed."""
        ...

    def switch(self, run_id: str, change: PlaybookChange) -> RunEntry:
        """Let a run continue in another version of its playbook."""
        ...

    def migrate(self, ids: Sequence[str], change: PlaybookChange | None, *, is_dry_run: bool) -> BulkReport:
        """Let runs continue in another version of their playbook, or count those that may.

        Without a `change`, they return to the version that they had before.
        """
        ...

    def outlast_outages(self, check: Callable[[], object]) -> None:
        """Repeat reads from now on while a service is away. `check` is called while they wait."""
        ...

    def wait_for_change(self) -> None:
        """Return when something may have changed."""
        ...

    def is_abandoned(self, run: Run) -> bool:
        """Return whether no live process holds an unfinished local run."""
        ...
