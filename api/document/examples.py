"""Examples of requests, responses and headers in `/openapi.json`.

Those of responses are the views that routes return, so the type checker compares them.
"""

from __future__ import annotations

import json
from typing import Any

from noetl.api.http.responses import (
    AcceptedRun,
    CallbackReceipt,
    EventTicket,
    HealthReport,
    JsonResponse,
    PlaybookDocument,
    PlaybookLinks,
    RunLinks,
    WebhookReceipt,
)
from noetl.api.service.backfill_views import (
    BackfillEntry,
    BackfillNumbers,
    BackfillPage,
    PartitionRun,
)
from noetl.api.service.cached_results import CachedEntry, CachePage, ClearReport
from noetl.api.service.calendar_views import CalendarPage, CalendarTrigger, PastFiring
from noetl.api.service.channel_views import (
    ChannelEntry,
    ChannelPage,
    ChannelTest,
    NotificationEntry,
    NotificationPage,
    StoredChannel,
)
from noetl.api.service.data_views import (
    ActionReport,
    AttemptReport,
    LogLine,
    LogPage,
    LoopItem,
    LoopItems,
    RunDetails,
    RunInput,
    RunSource,
    StepData,
)
from noetl.api.service.draft_views import (
    CodeExplanation,
    DraftPartEntry,
    DraftScheduleEntry,
    DraftScope,
    LanguageWords,
    NextFiring,
    PlaybookDraft,
    ScopeNameEntry,
)
from noetl.api.service.graph_views import PlanDescription
from noetl.api.service.inbox_views import (
    AnswerChoice,
    CallbackQuestion,
    CaseEntry,
    InboxEntry,
    InboxPage,
)
from noetl.api.service.limit_views import LimitEntry, LimitPage, LimitQueue, LimitUse
from noetl.api.service.loop_states import ItemState
from noetl.api.service.preview_views import RepeatedAction, RepeatedStep, RepetitionState, ResumePreview
from noetl.api.service.run_diff import (
    ComparedHead,
    PlanDifference,
    RunDifference,
    ValueDifference,
    VisitDifference,
)
from noetl.api.service.statistics import DurationReport, PlaybookStatistics, StepStatistics
from noetl.api.service.trigger_views import (
    CatchUpEntry,
    FiringEntry,
    FiringPage,
    ScheduledFiring,
    ScheduleEntry,
    TriggerDetails,
    TriggerEntry,
    TriggerPage,
)
from noetl.api.service.views import (
    SCHEMA_NAMES,
    AliasEntry,
    AliasPage,
    BulkReport,
    CurrentStatus,
    DiagnosticEntry,
    EdgeEntry,
    EventEntry,
    EventPage,
    HistogramBucket,
    PlanGraph,
    PlaybookEntry,
    PlaybookPage,
    PlaybookSummary,
    RunEntry,
    RunHistogram,
    RunPage,
    RunProgress,
    RunReport,
    RunResult,
    RunTags,
    SkippedRun,
    StatusCounts,
    StepCounts,
    StepReport,
    StepState,
    View,
)
from noetl.executor.model.backfills import BackfillState
from noetl.executor.model.run import ErrorRecord, RunStatus
from noetl.executor.model.triggers import FiringOutcome
from noetl.planner.diagnostics.codes import Severity

_RUN = "7c0b1f2ad1f04b0d9f1e2a3c"
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_TIME = "2026-01-31T09:30:00.000000Z"
_TEXT = """\
name: greet
input: {who: string}
steps:
  - name: hello
    run: [{action: log, message: "Hello {{ who }}"}]
"""
_PLAYBOOK = {
    "name": "greet",
    "input": {"who": "string"},
    "steps": [{"name": "hello", "run": [{"action": "log", "message": "Hello {{ who }}"}]}],
}
_LINKS = RunLinks(
    run=f"/workflows/{_RUN}",
    status=f"/workflows/status/{_RUN}",
    result=f"/workflows/result/{_RUN}",
    events=f"/workflows/{_RUN}/events",
    graph=f"/workflows/{_RUN}/graph",
    cancel=f"/workflows/{_RUN}/cancel",
    pause=f"/workflows/{_RUN}/pause",
    unpause=f"/workflows/{_RUN}/unpause",
    resume=f"/workflows/{_RUN}/resume",
    tags=f"/workflows/{_RUN}/tags",
)
_ENTRY = RunEntry(
    workflow_id=_RUN,
    status=RunStatus.RUNNING,
    playbook="greet",
    version=None,
    created_at=_TIME,
    started_at=_TIME,
    finished_at=None,
    tags=["nightly"],
)
_COUNTS = {status: int(status is RunStatus.RUNNING) for status in RunStatus}
_LISTED = RunEntry(**{**vars(_ENTRY), "headline": "hello", "steps": StepCounts(done=0, total=1)})
_REGISTERED = PlaybookEntry(
    name="greet",
    version="1",
    plan_hash=_HASH,
    registered_at=_TIME,
    registered_by="key 0b5c2a7e",
    live_version="1",
    pinned=True,
    aliases={"stable": "1"},
)
_ALIAS = AliasEntry(name="live", version="1", pinned=True, changed_at=_TIME, changed_by="key 0b5c2a7e")
_SUMMARY = PlaybookSummary(
    runs=3,
    more=False,
    success_rate=0.6667,
    median_ms=4.1,
    p95_ms=5.2,
    last_run=_TIME,
    last_status=RunStatus.SUCCEEDED,
)
_LISTED_PLAYBOOK = PlaybookEntry(**{**vars(_REGISTERED), "statistics": _SUMMARY})
_GRAPH = PlanGraph(
    start="hello",
    steps={"hello": {"name": "hello"}},
    edges=[EdgeEntry(source="hello", target="bye", guard="default", case=0)],
)
_LINE = LogLine(
    id=f"3-1-{_RUN}",
    logged_at=_TIME,
    step="hello",
    visit=1,
    attempt=1,
    action="greet",
    position="run.0",
    stream="line",
    level="info",
    text="Hello you",
)
_FAILURE = ErrorRecord(
    type="CommandFailed",
    message="item 17 of 500: the command ended with exit code 3",
    action="greet",
    step="hello",
    attempt=1,
    retryable=True,
    status=None,
    details=None,
    line=5,
    item={"number": 17, "total": 500, "value": '"you"'},
)
_LIMIT = LimitEntry(
    id="api", name="api", kind="steps", key=None, units=5, held=5, waiting=2, shared=False, per=None
)
_LIMIT_USE = LimitUse(
    workflow_id=_RUN,
    visit="6e9f1c7c0b1f2ad1f04b",
    units=1,
    flow="import",
    priority=5.0,
    queued_at="2026-01-30T01:30:00.000000Z",
    held_at=None,
    begins_at=None,
)
_CHANNEL = ChannelEntry(
    name="ops",
    type="webhook",
    url="https://hooks.example.com/…",
    events=["failed", "late"],
    signed=True,
    paused=False,
    paused_reason=None,
    retry_at=None,
    created_at="2026-01-29T10:00:00.000000Z",
)
_NOTIFICATION = NotificationEntry(
    id="5f1c7c0b1f2ad1f04b0d9f1e",
    channel="ops",
    event="failed",
    workflow_id=_RUN,
    playbook="greet",
    version="1",
    status="timed_out",
    state="pending",
    attempts=2,
    created_at="2026-01-30T01:30:00.000000Z",
    due_at="2026-01-30T01:35:05.000000Z",
    expires_at=None,
    failed_at="2026-01-30T01:30:05.000000Z",
    problem="`hooks.example.com` answered 503",
)
_NEXT = "2026-02-02T01:30:00.000000Z"
_BACKFILL = BackfillEntry(
    id="5d1f0a7c3b9e4f2aa1c47e60",
    playbook="greet",
    trigger="nightly",
    version="1",
    state=BackfillState.RUNNING,
    created_at="2026-01-31T09:30:00.000000Z",
    finished_at=None,
    start_at="2025-12-31T23:00:00.000000Z",
    end_at="2026-01-30T23:00:00.000000Z",
    every_seconds=None,
    partitions=30,
    limit=1,
    redo=None,
    retry=None,
    counts=BackfillNumbers(passed=4, started=3, succeeded=1, failed=1, skipped=1, filtered=0, rejected=0),
    open=[PartitionRun(partition="2026-01-04T01:30:00Z", workflow_id=_RUN)],
    failures=[PartitionRun(partition="2026-01-02T01:30:00Z", workflow_id="8d1c2e3bd1f04b0d9f1e2a3c")],
    reason=None,
)
_TRIGGER = TriggerEntry(
    playbook="greet",
    name="nightly",
    type="schedule",
    version="1",
    paused=False,
    summary="cron 30 2 * * MON-FRI, Europe/Berlin",
    schedule="cron 30 2 * * MON-FRI, Europe/Berlin",
    next_at=_NEXT,
    due_at=_NEXT,
    last_at="2026-01-30T01:30:00.000000Z",
    last_outcome=FiringOutcome.STARTED,
    last_run=_RUN,
    last_by=None,
    changed_at="2026-01-29T10:00:00.000000Z",
)
_VIEWS: tuple[View, ...] = (
    AcceptedRun(workflow_id=_RUN, status=RunStatus.QUEUED, playbook="greet", plan_hash=_HASH, links=_LINKS),
    CallbackReceipt(status="accepted"),
    WebhookReceipt(outcome=FiringOutcome.STARTED, workflow_id=_RUN),
    EventPage(
        items=[
            EventEntry(
                id=f"1-1-{_RUN}",
                type="workflow.started",
                at=_TIME,
                step=None,
                visit=None,
                attempt=None,
                duration_ms=None,
                payload={"playbook": "greet"},
            )
        ],
        next_cursor=None,
    ),
    EventTicket(ticket="WyJkZWZhdWx0Il0.c2ln", expires_at=_TIME),
    HealthReport(status="ok"),
    PlaybookDraft(
        is_parsed=True,
        name="greet",
        version=None,
        hash=None,
        diagnostics=[],
        steps=[DraftPartEntry(name="hello", line=3)],
        tasks=[],
        schedules=[
            DraftScheduleEntry(
                trigger="nightly",
                line=4,
                timezone="Europe/Berlin",
                firings=[
                    NextFiring(
                        scheduled_at="2026-02-02T01:30:00Z", local="2026-02-02T02:30:00+01:00", note=None
                    )
                ],
            )
        ],
        scope=DraftScope(
            step="hello",
            task=None,
            names=[ScopeNameEntry(name="who", kind="input", step=None, line=2, may_lack=False)],
        ),
        drawing=None,
        drawing_problem=None,
    ),
    LanguageWords(
        playbook_schema={"properties": {"name": {"type": "string"}}},
        attributes={"loop": ["first", "index", "last"]},
        trigger_attributes={"schedule": ["local", "scheduled_at"]},
        trigger_names=["trigger", "now", "uuid"],
        filters=["length"],
        tests=["defined"],
        functions=["now"],
    ),
    CodeExplanation(code="NP101", title="unknown step", severity="error", text="# NP101: unknown step"),
    PlanDescription(
        name="greet",
        version=None,
        hash=_HASH,
        diagnostics=[
            DiagnosticEntry(
                code="NP302",
                severity=Severity.WARNING,
                message="`who` may be undefined",
                line=5,
                column=10,
                end_line=5,
                end_column=20,
                hint=None,
            )
        ],
        graph=_GRAPH,
        inputs={"who": {"type": "string"}},
        statistics={"steps": 2, "edges": 1},
    ),
    _GRAPH,
    PlaybookDocument(
        name="greet",
        version="1",
        plan_hash=_HASH,
        registered_at=_TIME,
        registered_by="key 0b5c2a7e",
        live_version="1",
        pinned=True,
        aliases={"stable": "1"},
        source=_TEXT,
        links=PlaybookLinks(self="/playbooks/greet/versions/1", versions="/playbooks/greet/versions"),
    ),
    _REGISTERED,
    PlaybookPage(items=[_LISTED_PLAYBOOK], next_cursor=None),
    RunDifference(
        runs=[
            ComparedHead(workflow_id=_RUN, playbook="greet", version="1", status=status, duration_ms=duration)
            for status, duration in ((RunStatus.SUCCEEDED, 4.1), (RunStatus.FAILED, 5.2))
        ],
        run=[ValueDifference(name="status", values=["succeeded", "failed"])],
        plan=PlanDifference(changed_lines=1),
        input=[ValueDifference(name="who", only="a", values=["you", None])],
        steps=[
            VisitDifference(
                step="hello",
                visit=1,
                changes=[ValueDifference(name="state", values=["succeeded", "failed"])],
                duration_ms=[0.4, 0.5],
            )
        ],
        equal_visits=0,
        cut=False,
        outputs_not_compared=0,
    ),
    _ENTRY,
    RunPage(items=[_LISTED], next_cursor=None),
    BulkReport(
        accepted=1,
        skipped=[SkippedRun(workflow_id=_RUN, reason="finished", detail="the run has already ended")],
        next_cursor=None,
    ),
    StatusCounts(total=1, more=False, statuses=_COUNTS),
    RunHistogram(
        step_seconds=900.0,
        total=1,
        more=False,
        buckets=[HistogramBucket(start="2026-01-31T09:30:00.000000Z", statuses=_COUNTS)],
    ),
    RunReport(
        workflow_id=_RUN,
        status=RunStatus.RUNNING,
        playbook="greet",
        version=None,
        created_at=_TIME,
        started_at=_TIME,
        finished_at=None,
        steps={"hello": StepReport(status=StepState.RUNNING, visits=1, attempt=1, case=None, error=None)},
        progress=RunProgress(steps=1, finished=0, running=1),
        error=None,
    ),
    RunResult(workflow_id=_RUN, status=RunStatus.SUCCEEDED, result={"greeting": "Hello you"}, errors=[]),
    CurrentStatus(workflow_id=_RUN, status=RunStatus.RUNNING),
    ResumePreview(
        workflow_id=_RUN,
        starts_new_run=False,
        steps=[
            RepeatedStep(
                step="load",
                visit=1,
                reason="failed",
                actions=[
                    RepeatedAction(
                        position="run.0", action="greet", line=9, done=RepetitionState.YES, idempotent=False
                    )
                ],
            )
        ],
    ),
    RunTags(workflow_id=_RUN, tags=["nightly", "env=prod"]),
    CallbackQuestion(
        title="Pay the invoice?",
        answer={"approved": {"type": "boolean"}},
        expires_at=_TIME,
        choices=[AnswerChoice(field="approved", value=True, case=0, targets=["pay"])],
    ),
    InboxPage(
        items=[
            InboxEntry(
                workflow_id=_RUN,
                playbook="pay",
                step="ask",
                visit=1,
                position="run.0",
                opened_at=_TIME,
                expires_at=None,
                title="Pay the invoice?",
                cases=[CaseEntry(case=0, guard=None, targets=["pay"])],
            )
        ],
        next_cursor=None,
    ),
    CachePage(
        items=[
            CachedEntry(
                digest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                label="customer 4711",
                playbook="nightly",
                step="load",
                workflow_id=_RUN,
                created_at=_TIME,
                expires_at=_TIME,
                size=1024,
            )
        ],
        has_more=False,
    ),
    ClearReport(cleared=3),
    _LIMIT,
    LimitPage(items=[_LIMIT], next_cursor=None),
    LimitQueue(items=[_LIMIT_USE], next_cursor=None),
    _CHANNEL,
    ChannelPage(items=[_CHANNEL]),
    _ALIAS,
    AliasPage(items=[_ALIAS]),
    StoredChannel(**vars(_CHANNEL), secret="whsec_MDEyMzQ1Njc4OWFiY2RlZg=="),  # noqa: S106
    ChannelTest(delivered=False, problem="`hooks.example.com` answered 404"),
    _NOTIFICATION,
    NotificationPage(items=[_NOTIFICATION], next_cursor=None),
    _TRIGGER,
    TriggerPage(items=[_TRIGGER], next_cursor=None),
    TriggerDetails(
        **vars(_TRIGGER),
        definition=ScheduleEntry(
            cron="30 2 * * MON-FRI",
            every_seconds=None,
            timezone="Europe/Berlin",
            start_at=None,
            end_at=None,
            catch_up=CatchUpEntry(mode="last", within_seconds=2592000.0, limit=1000),
            jitter_seconds=0.0,
            overlap="skip",
        ),
        input={"who": "{{ trigger.scheduled_at }}"},
        condition=None,
        key=None,
        inputs={"who": {"type": "string"}},
        line=3,
        firings=[ScheduledFiring(scheduled_at=_NEXT, local="2026-02-02T02:30:00+01:00", due_at=_NEXT)],
    ),
    FiringPage(
        items=[
            FiringEntry(
                id=_RUN,
                key="2026-01-30T01:30:00Z",
                version="1",
                outcome=FiringOutcome.STARTED,
                fired_at="2026-01-30T01:30:00.012000Z",
                scheduled_at="2026-01-30T01:30:00.000000Z",
                count=1,
                workflow_id=_RUN,
                reason=None,
            )
        ],
        next_cursor=None,
    ),
    _BACKFILL,
    BackfillPage(items=[_BACKFILL], next_cursor=None),
    CalendarPage(
        since="2026-01-25T23:00:00.000000Z",
        until="2026-03-01T23:00:00.000000Z",
        items=[
            CalendarTrigger(
                playbook="greet",
                name="nightly",
                paused=False,
                schedule="cron 30 2 * * MON-FRI, Europe/Berlin",
                timezone="Europe/Berlin",
                firings=[
                    PastFiring(
                        fired_at="2026-01-30T01:30:00.012000Z",
                        scheduled_at="2026-01-30T01:30:00.000000Z",
                        outcome=FiringOutcome.STARTED,
                        count=1,
                        workflow_id=_RUN,
                        status=RunStatus.SUCCEEDED,
                        reason=None,
                    )
                ],
                has_earlier=False,
                planned=[
                    ScheduledFiring(scheduled_at=_NEXT, local="2026-02-02T02:30:00+01:00", due_at=_NEXT)
                ],
                has_later=False,
            )
        ],
        next_cursor=None,
    ),
    LogPage(items=[_LINE], next_cursor=None, last_event=f"3-1-{_RUN}"),
    RunDetails(
        workflow_id=_RUN,
        status=RunStatus.RUNNING,
        headline="hello",
        playbook="greet",
        version=None,
        plan_hash=_HASH,
        tags=["nightly"],
        created_at=_TIME,
        started_at=_TIME,
        finished_at=None,
        duration_ms=12.5,
        work_ms=11.0,
        waiting_ms=0.0,
        queued_ms=1.5,
        steps={"hello": StepReport(status=StepState.RUNNING, visits=1, attempt=1, case=None, error=None)},
        progress=RunProgress(steps=1, finished=0, running=1),
        error=None,
    ),
    PlaybookStatistics(
        playbook="greet",
        runs=3,
        since=_TIME,
        statuses={"succeeded": 2, "failed": 1},
        success_rate=0.6667,
        duration=DurationReport(count=2, median_ms=4.1, p95_ms=5.2, max_ms=5.2),
        steps={
            "hello": StepStatistics(
                runs=3,
                visits=3,
                failed=1,
                retried=0,
                duration=DurationReport(count=3, median_ms=0.4, p95_ms=0.5, max_ms=0.5),
            )
        },
    ),
    LoopItems(
        workflow_id=_RUN,
        step="hello",
        visit=1,
        status=StepState.SUCCEEDED,
        loop="run",
        total=500,
        counts={"succeeded": 499, "failed": 1},
        items=[
            LoopItem(
                number=17,
                state=ItemState.FAILED,
                value='"you"',
                attempts=1,
                error=_FAILURE,
                input={"message": "Hello you"},
            )
        ],
        next_cursor=None,
    ),
    RunInput(workflow_id=_RUN, input={"who": "you"}),
    RunSource(workflow_id=_RUN, playbook="greet", version=None, plan_hash=_HASH, source=_TEXT),
    StepData(
        workflow_id=_RUN,
        step="hello",
        line=4,
        visit=1,
        visits=1,
        status=StepState.SUCCEEDED,
        attempt=1,
        started_at=_TIME,
        finished_at=_TIME,
        duration_ms=12.5,
        work_ms=12.5,
        waiting_ms=0.0,
        queued_ms=1.5,
        error=None,
        case=None,
        guards=[],
        targets=[],
        result=None,
        saved=[],
        failures=[],
        attempts=[
            AttemptReport(
                attempt=1,
                worker="w1",
                started_at=_TIME,
                finished_at=_TIME,
                error=None,
                actions=[
                    ActionReport(
                        action="greet",
                        position="run.0",
                        status=StepState.SUCCEEDED,
                        started_at=_TIME,
                        duration_ms=0.4,
                        input={"message": "Hello you"},
                    )
                ],
            )
        ],
        lines=[_LINE],
    ),
)


def _to_json(view: View) -> Any:
    return json.loads(bytes(JsonResponse(view).body))


RESPONSE_EXAMPLES = {SCHEMA_NAMES[type(view)]: _to_json(view) for view in _VIEWS}
"""Examples of responses by the names of their schemas."""

TEXT_EXAMPLES = {
    "image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg"/>',
    "text/event-stream": f'id: 1-1-{_RUN}\nevent: workflow.started\ndata: {{"type": "workflow.started"}}\n\n',
    "text/html": "<!doctype html>",
    "text/plain": "flowchart TD\n    hello\n",
}
"""Examples of responses that are text, by their media types."""

BODY_EXAMPLES: dict[str, Any] = {
    "Playbook": _PLAYBOOK,
    "PlaybookBody": {"playbook": _PLAYBOOK},
    "DraftBody": {"text": "name: greet\nsteps: []\n", "line": 1},
    "BulkBody": {"ids": [_RUN]},
    "MigrationBody": {"playbook": {"name": "greet", "version": "2"}, "ids": [_RUN]},
    "TagsBody": {"add": ["env=prod"], "remove": ["draft"]},
    "FireBody": {"input": {"who": "you"}},
    "TriggerResumeBody": {"catch_up": "last"},
    "AliasBody": {"version": "1"},
    "LimitBody": {"units": 5, "kind": "steps"},
    "ChannelBody": {"url": "https://hooks.example.com/noetl", "events": ["failed", "late"]},
    "BackfillBody": {
        "playbook": "greet",
        "trigger": "nightly",
        "from": "2026-01-01",
        "to": "2026-01-31",
        "limit": 2,
    },
    "BackfillCancelBody": {"runs": True},
    "BackfillRetryBody": {"fresh": False},
    "AnswerBody": {"step": "ask", "answer": {"approved": True}},
    "ResumeBody": {"input": {"who": "you"}},
    "SubmissionBody": {"playbook": _PLAYBOOK, "input": {"who": "you"}, "tags": ["nightly"]},
}
"""Examples of the bodies of requests by the names of their schemas."""


def _header(
    description: str, example: str, kind: str = "string", *, required: bool = False
) -> dict[str, Any]:
    return {
        "description": description,
        "schema": {"type": kind},
        "required": required,
        "example": int(example) if kind == "integer" else example,
    }


COMMON_HEADERS: dict[str, dict[str, Any]] = {
    "Cache-Control": _header("`no-cache` with a tag, `no-store` where a body has credentials.", "no-cache"),
    "Connection": _header("`close`, if the rest of a body was not read.", "close"),
    "Content-Encoding": _header("`gzip`, if the body is compressed.", "gzip"),
    "Content-Security-Policy": _header("What a browser may load for it.", "default-src 'none'"),
    "Referrer-Policy": _header("What a browser tells the next page.", "no-referrer"),
    "Vary": _header("The headers of the request on which the body depends.", "Accept"),
    "X-Accel-Buffering": _header("`no`: proxies pass a stream on as it arrives.", "no"),
    "X-Content-Type-Options": _header("Browsers do not guess the media type.", "nosniff"),
}
"""Descriptions of the headers that any response may have. No program reads them to use the service."""

HEADERS: dict[str, dict[str, Any]] = {
    "Accept-Post": _header("The media types that the call takes.", "application/yaml, application/json"),
    "Allow": _header("The methods of the path.", "GET, HEAD, OPTIONS", required=True),
    "Debounced": _header("`true`, if the start has joined a run that waits.", "true"),
    "ETag": _header("The tag of the body.", 'W/"5f3b2c1d0e9f8a7b6c5d4e3f2a1b0c9d"'),
    "Idempotency-Replayed": _header("`true`, if an earlier request had the same `Idempotency-Key`.", "true"),
    "Location": _header("The path of the result of the request.", f"/workflows/status/{_RUN}", required=True),
    "Preference-Applied": _header("The preference that was honoured.", "wait=10"),
    "RateLimit": _header("What is left of the limit (IETF draft).", '"key";r=0;t=3'),
    "RateLimit-Policy": _header("The limit (IETF draft).", '"key";q=600;w=60'),
    "Retry-After": _header("The seconds after which to try again.", "5", "integer"),
    "WWW-Authenticate": _header("The credentials that are needed (RFC 6750).", 'Bearer realm="noetl"'),
}
"""Descriptions of the headers of responses by name."""
