"""Access of commands to the runs of a service, over HTTP.

The plan of a run is compiled from its text, because a service sends no plan. So a drawing is made here, with
the same code as that of a store. The records of runs have only what the status and the result show.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from noetl.api.cli.access.service_client import RefusedRequestError, ServiceClient
from noetl.api.cli.access.view_requests import ViewRequests
from noetl.api.cli.display.console import EXIT_FAILED, CommandError, print_message
from noetl.api.cli.display.run_board import parse_time
from noetl.api.service.views import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from noetl.api.service.cached_results import CachePage, CacheQuery, ClearReport
    from noetl.api.service.changed_restarts import ChangedRestart
    from noetl.api.service.data_views import LogPage, LoopItems, RunDetails, RunInput, RunSource, StepData
    from noetl.api.service.inbox import AnswerRequest
    from noetl.api.service.inbox_views import InboxPage
    from noetl.api.service.loop_items import ItemQuery
    from noetl.api.service.past_restarts import PastRestart
    from noetl.api.service.preview_views import ResumePreview
    from noetl.api.service.runs import ResumeRequest
    from noetl.api.service.switches import PlaybookChange
    from noetl.api.service.views import (
        BulkReport,
        CurrentStatus,
        EventEntry,
        EventPage,
        RunEntry,
        RunHistogram,
        RunPage,
        RunReport,
        RunResult,
        RunTags,
        StatusCounts,
    )
    from noetl.executor.model.events import Event
    from noetl.executor.model.run import Run
    from noetl.executor.model.run_filter import RunFilter
    from noetl.executor.model.run_summary import RunSummary
    from noetl.executor.model.run_tags import TagChange
    from noetl.planner.draw.run_marks import DrawnRun
    from noetl.planner.plan import Plan

_POLL_SECONDS = 1.0
_END_WITHOUT_CASE = -1
_TENANT, _ORIGIN = "default", "service"

V = TypeVar("V", bound=View)


class ServiceRuns:
    """The runs of a service (implements `RunAccess`)."""

    place = "this service"
    services = None

    def __init__(self, client: ServiceClient) -> None:
        self._client = client
        self._requests = ViewRequests(client)

    @property
    def reader(self) -> ServiceReader:
        return ServiceReader(self)

    def current_time(self) -> float:
        return time.time()

    def find(self, run_filter: RunFilter) -> RunPage:
        return self.page(run_filter)

    def page(self, run_filter: RunFilter) -> RunPage:
        from noetl.api.service.views import RunPage

        order = "created_at" if run_filter.is_oldest_first else None
        query = {"sort": order, "limit": run_filter.limit, "cursor": run_filter.cursor}
        return self._get(RunPage, "/workflows", **_to_conditions(run_filter), **query)

    def counts(self, run_filter: RunFilter) -> StatusCounts:
        from noetl.api.service.views import StatusCounts

        return self._get(StatusCounts, "/workflows/counts", **_to_conditions(run_filter))

    def histogram(self, run_filter: RunFilter, step_seconds: float) -> RunHistogram:
        from noetl.api.service.views import RunHistogram

        step = f"{step_seconds:.0f}s"
        return self._get(RunHistogram, "/workflows/histogram", **_to_conditions(run_filter), step=step)

    def get(self, run_id: str) -> Run:
        from noetl.api.service.data_views import RunDetails

        details = self._get(RunDetails, _path(run_id))
        return _to_run(details, self.result(run_id) if details.status.is_final else None)

    def report(self, run_id: str) -> RunReport:
        from noetl.api.service.views import RunReport

        return self._get(RunReport, f"/workflows/status/{quote(run_id, safe='')}")

    def result(self, run_id: str) -> RunResult:
        from noetl.api.service.views import RunResult

        return self._get(RunResult, f"/workflows/result/{quote(run_id, safe='')}")

    def plan(self, run_id: str) -> Plan:
        from noetl.api.service.compiler import PlaybookCompiler
        from noetl.api.service.errors import PlaybookError
        from noetl.executor.actions import catalogue

        source = self.source(run_id)
        try:
            return PlaybookCompiler(catalogue()).plan(source.source)
        except PlaybookError as error:
            message = "this version of noetl cannot compile the playbook of the run; --json shows its status"
            raise CommandError(message, EXIT_FAILED) from error

    def source(self, run_id: str) -> RunSource:
        from noetl.api.service.data_views import RunSource

        return self._get(RunSource, _path(run_id, "source"))

    def input(self, run_id: str) -> RunInput:
        from noetl.api.service.data_views import RunInput

        return self._get(RunInput, _path(run_id, "input"))

    def compare(self, a: str, b: str) -> dict[str, Any]:
        from noetl.api.service.run_diff import RunDifference
        from noetl.api.service.views import to_json

        difference: dict[str, Any] = to_json(self._get(RunDifference, "/workflows/comparison", a=a, b=b))
        return difference

    def drawn_run(self, run_id: str, event: str | None = None) -> DrawnRun:
        from noetl.api.service.step_reports import drawn_loops, find_left_out_steps
        from noetl.planner.draw.run_marks import DrawnRun

        report = self.details(run_id, event)
        last = None if report.moment is None else report.moment.event.id
        cases: dict[tuple[str, int], int] = {}
        visits = set()
        last_visits: dict[str, int] = {}
        last_taken: dict[tuple[str, int], int] = {}
        for place, entry in enumerate(self._events_up_to(run_id, last)):
            if entry.step is None or entry.step.startswith("@"):
                continue
            visit = (entry.step, entry.visit or 1)
            if visit not in visits:
                visits.add(visit)
                last_visits[entry.step] = place
            if entry.type == "step.transition" and isinstance(entry.payload.get("case"), int):
                cases[visit] = entry.payload["case"]
                last_taken[entry.step, cases[visit]] = place
            elif entry.type == "step.completed":
                cases.setdefault(visit, _END_WITHOUT_CASE)
        for branch in () if report.moment is None else report.moment.branches:
            if branch.visit is not None and (branch.step, branch.visit) not in visits:
                visits.add((branch.step, branch.visit))  # It has no event yet.
                last_visits[branch.step] = sys.maxsize
        states = {name: step.status for name, step in report.steps.items()}
        taken = Counter((step, case) for (step, _), case in cases.items())
        counts = Counter(step for step, _ in visits)
        return DrawnRun(
            states,
            taken,
            counts,
            report.status.value,
            report.workflow_id,
            last_visits,
            last_taken,
            drawn_loops(report.steps),
            left_out=find_left_out_steps(report.steps),
        )

    def details(self, run_id: str, event: str | None = None) -> RunDetails:
        from noetl.api.service.data_views import RunDetails

        return self._get(RunDetails, _path(run_id), at=event)

    def items(self, run_id: str, query: ItemQuery) -> LoopItems:
        from noetl.api.service.data_views import LoopItems

        names = ("step", "visit", "loop", "state", "cursor", "limit")
        params = {name: getattr(query, name) for name in names}
        return self._get(LoopItems, _path(run_id, "items"), **params)

    def step(self, run_id: str, name: str, visit: int | None, event: str | None = None) -> StepData:
        from noetl.api.service.data_views import StepData

        return self._get(StepData, _path(run_id, "step"), name=name, visit=visit, at=event)

    def log(self, run_id: str, step: str | None, after: str | None) -> LogPage:
        from noetl.api.service.data_views import LogPage

        return self._get(LogPage, _path(run_id, "logs"), step=step, cursor=after)

    def events(self, run_id: str, after: str | None) -> EventPage:
        from noetl.api.service.views import EventPage

        return self._get(EventPage, _path(run_id, "events"), cursor=after)

    def _events_up_to(self, run_id: str, last: str | None) -> Iterator[EventEntry]:
        """Yield the events of a run up to one of them, or all."""
        for entry in self._all_events(run_id):
            yield entry
            if entry.id == last:
                return

    def _all_events(self, run_id: str) -> Iterator[EventEntry]:
        cursor = None
        while True:
            page = self.events(run_id, cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def cached(self, query: CacheQuery, limit: int) -> CachePage:
        from noetl.api.service.cached_results import CachePage

        return self._get(CachePage, "/cache", **_to_parameters(query), limit=limit)

    def clear_cache(self, query: CacheQuery) -> ClearReport:
        from noetl.api.service.cached_results import ClearReport

        return self._requests.delete(ClearReport, "/cache", _to_parameters(query))

    def questions(self, cursor: str | None = None) -> InboxPage:
        from noetl.api.service.inbox import MAX_QUESTIONS
        from noetl.api.service.inbox_views import InboxPage

        return self._get(InboxPage, "/inbox", limit=MAX_QUESTIONS, cursor=cursor)

    def answer_step(self, run_id: str, request: AnswerRequest) -> None:
        from noetl.api.service.views import CurrentStatus

        body = {"step": request.step, "answer": request.answer}
        body |= {} if request.visit is None else {"visit": request.visit}
        body |= {} if request.position is None else {"position": request.position}
        answered = self._answer(CurrentStatus, _path(run_id, "answer"), body)
        print_message(f"answered run {answered.workflow_id}")

    def answer_token(self, token: str, answer: Any, *, heartbeat: bool) -> None:
        from noetl.api.http.responses import CallbackReceipt

        end = "/heartbeat" if heartbeat else ""
        self._answer(CallbackReceipt, f"/workflows/callbacks/{quote(token, safe='')}{end}", answer)
        print_message("heartbeat recorded" if heartbeat else "answered")

    def _answer(self, view: type[V], path: str, answer: Any) -> V:
        """Send an answer. One that is refused has an exit code of its own, as in a store."""
        try:
            return self._send(view, path, answer)
        except RefusedRequestError as error:
            raise CommandError(str(error), EXIT_FAILED) from error

    def cancel(self, run_id: str) -> CurrentStatus:
        return self._change(run_id, "cancel")

    def pause(self, run_id: str) -> CurrentStatus:
        return self._change(run_id, "pause")

    def unpause(self, run_id: str) -> CurrentStatus:
        return self._change(run_id, "unpause")

    def _change(self, run_id: str, command: str) -> CurrentStatus:
        from noetl.api.service.views import CurrentStatus, RunEntry

        entry = self._send(RunEntry, _path(run_id, command))
        return CurrentStatus(workflow_id=entry.workflow_id, status=entry.status, ending=entry.ending)

    def change_tags(self, run_id: str, change: TagChange) -> RunTags:
        from noetl.api.service.views import RunTags

        body = {"add": list(change.add), "remove": list(change.remove)}
        return self._requests.send(RunTags, "PATCH", _path(run_id, "tags"), body)

    def delete(self, run_id: str) -> None:
        self._requests.remove(_path(run_id))

    def resume(self, run_id: str, request: ResumeRequest | PastRestart | ChangedRestart) -> RunEntry:
        from noetl.api.service.views import RunEntry

        return self._send(RunEntry, _path(run_id, "resume"), _resume_body(request) or None)

    def preview_resume(
        self, run_id: str, request: ResumeRequest | PastRestart | ChangedRestart
    ) -> ResumePreview:
        from noetl.api.service.preview_views import ResumePreview

        body = {**_resume_body(request), "dry_run": True}
        return self._send(ResumePreview, _path(run_id, "resume"), body)

    def preview_switch(self, run_id: str, change: PlaybookChange) -> ResumePreview:
        from noetl.api.service.preview_views import ResumePreview

        return self._send(ResumePreview, _path(run_id, "resume"), {**_change_body(change), "dry_run": True})

    def switch(self, run_id: str, change: PlaybookChange) -> RunEntry:
        from noetl.api.service.views import RunEntry

        body = _change_body(change)
        if change.wait_seconds:
            body["wait"] = change.wait_seconds
        return self._send(RunEntry, _path(run_id, "resume"), body)

    def migrate(self, ids: Sequence[str], change: PlaybookChange | None, *, is_dry_run: bool) -> BulkReport:
        from noetl.api.service.bulk import MAX_RUNS
        from noetl.api.service.views import BulkReport, SkippedRun

        accepted, skipped = 0, list[SkippedRun]()
        for start in range(0, len(ids), MAX_RUNS):
            body = {
                **({"undo": True} if change is None else _change_body(change)),
                "ids": list(ids[start : start + MAX_RUNS]),
            }
            report = self._send(BulkReport, "/workflows/bulk/migrate", body | {"dry_run": is_dry_run})
            accepted += report.accepted
            skipped += report.skipped
        return BulkReport(accepted=accepted, skipped=skipped, next_cursor=None)

    def outlast_outages(self, check: Callable[[], object]) -> None:
        self._client.outlast_outages(check)

    def wait_for_change(self) -> None:
        time.sleep(_POLL_SECONDS)

    def is_abandoned(self, run: Run) -> bool:
        return False

    def _get(self, view: type[V], path: str, **params: Any) -> V:
        return self._requests.get(view, path, **params)

    def _send(self, view: type[V], path: str, body: Any = None) -> V:
        return self._requests.send(view, "POST", path, body)


class ServiceReader:
    """The events of runs of a service, and the runs that they start (implements `EventReader`)."""

    def __init__(self, runs: ServiceRuns) -> None:
        self._runs = runs

    def events(self, run_id: str, after: str | None, limit: int) -> list[Event]:
        return [_to_event(entry) for entry in self._runs.events(run_id, after).items]

    def find(self, run_filter: RunFilter) -> tuple[list[RunSummary], str | None]:
        from noetl.executor.model.run_summary import summarize

        page = self._runs.find(run_filter)
        return [summarize(_to_run(entry)) for entry in page.items], page.next_cursor


def _to_parameters(query: CacheQuery) -> dict[str, Any]:
    """Return the parameters of a request for the cached results of a query."""
    age = None if query.older_than is None else f"{math.ceil(query.older_than)}s"
    return {"playbook": query.playbook, "step": query.step, "key": query.key, "older_than": age}


def _change_body(change: PlaybookChange) -> dict[str, Any]:
    """Return the members of a request that name another version, and what it needs."""
    from noetl.api.service.compiler import InlinePlaybook, PlaybookReference
    from noetl.api.service.switches import GIVEN_MEMBER

    body: dict[str, Any] = {GIVEN_MEMBER: dict(change.given), "map": dict(change.renamed)}
    if isinstance(change.playbook, InlinePlaybook):
        body["playbook"] = change.playbook.text
    elif isinstance(change.playbook, PlaybookReference):
        version = {} if change.playbook.version is None else {"version": change.playbook.version}
        body["playbook"] = {"name": change.playbook.name, **version}
    body |= {"skip": dict(change.skips)} if change.skips else {}
    return body | ({"all_items": True} if change.all_items else {})


def _path(run_id: str, part: str = "") -> str:
    return f"/workflows/{quote(run_id, safe='')}" + (f"/{part}" if part else "")


def _to_conditions(run_filter: RunFilter) -> dict[str, Any]:
    """Return the query parameters of lists of runs for the conditions of a filter."""
    from noetl.executor.model.events import timestamp

    return {
        "status": list(run_filter.statuses),
        "playbook": run_filter.playbook,
        "tag": list(run_filter.tags),
        "since": timestamp(run_filter.since),
        "until": timestamp(run_filter.until),
        "parent": run_filter.parent,
        "q": run_filter.text,
        "id": run_filter.id_prefix,
    }


def _to_event(entry: EventEntry) -> Event:
    from noetl.executor.model.events import Event

    seconds = None if entry.duration_ms is None else entry.duration_ms / 1000
    happened_at = parse_time(entry.at) or 0.0
    return Event(
        entry.type, happened_at, entry.step, entry.visit, entry.attempt, seconds, entry.payload, entry.id
    )


def _to_run(view: Any, result: RunResult | None = None) -> Run:
    """Return the record of a run, as far as an entry of a list or the details of a run show it."""
    from noetl.executor.model.run import Run, WaitKey

    parent = getattr(view, "parent", None)
    return Run(
        id=view.workflow_id,
        tenant=_TENANT,
        playbook=view.playbook,
        version=view.version,
        plan_hash=getattr(view, "plan_hash", ""),
        status=view.status,
        origin=_ORIGIN,
        queue="",
        input={},
        environment={},
        variables={},
        tags=view.tags,
        folder=None,
        created_at=parse_time(view.created_at) or 0.0,
        parent=None if parent is None else WaitKey(parent, "", ""),
        resumed_from=view.resumed_from,
        started_at=parse_time(view.started_at),
        finished_at=parse_time(view.finished_at),
        error=getattr(view, "error", None),
        errors=() if result is None else result.errors,
        result=None if result is None else result.result,
    )


def _resume_body(request: ResumeRequest | PastRestart | ChangedRestart) -> dict[str, Any]:
    """Return the body of a request to resume a run. It is empty if nothing is given."""
    from noetl.api.service.changed_restarts import ChangedRestart
    from noetl.api.service.past_restarts import PastRestart

    if isinstance(request, ChangedRestart):
        place = {"at": request.place} if request.step is None else {"from": request.step}
        alone = {"drop_siblings": True} if request.drops_siblings else {}
        return _change_body(request.change) | place | alone
    body: dict[str, Any] = {"input": dict(request.input)} if request.input else {}
    if isinstance(request, PastRestart):
        return body | {"at": request.place}
    body |= {} if request.step is None else {"from": request.step}
    body |= {"skip": dict(request.skips)} if request.skips else {}
    body |= {"all_items": True} if request.all_items else {}
    return body | ({"drop_siblings": True} if request.drops_siblings else {})
