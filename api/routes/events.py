"""Route of the history of a run: pages of JSON, or a stream of server-sent events that ends with the run."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from noetl.api.http.openapi import PROBLEMS, response_body
from noetl.api.http.problems import Problem
from noetl.api.http.requests import accepts, check_query_names
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, is_stopping
from noetl.api.service.runs import EVENTS_PER_PAGE, RunService
from noetl.api.service.views import CurrentStatus, EventPage, View, members

router = APIRouter(
    prefix="/workflows", tags=["workflows"], responses=PROBLEMS, default_response_class=JsonResponse
)

MAX_STREAMS = 64
"""Open streams of a process. Each polls the store for as long as its run lasts."""

_EVENT_STREAM = "text/event-stream"
_MIN_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 15.0
"""Longest time without a write: proxies close idle connections, and only a write detects a lost client."""


@router.get(
    "/{workflow_id}/events",
    responses={200: response_body(EventPage, _EVENT_STREAM)},
)
async def events(
    workflow_id: str,
    request: Request,
    services: ReadServices,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=EVENTS_PER_PAGE)] = EVENTS_PER_PAGE,
) -> Response:
    """Return the events after the one whose id is `cursor` (in a stream, also `Last-Event-ID`)."""
    check_query_names(request, ("cursor", "limit"))
    if not accepts(request, _EVENT_STREAM):
        return JsonResponse(await run_in_threadpool(services.runs.events, workflow_id, cursor, limit))
    after = request.headers.get("last-event-id") or cursor
    # Only before the stream begins can an unknown id or cursor be answered with a problem.
    await run_in_threadpool(services.runs.events, workflow_id, after, 1)
    return _EventStreamResponse(
        _stream(request, services.runs, workflow_id, after),
        media_type=_EVENT_STREAM,
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


class _EventStreamResponse(StreamingResponse):
    """A streaming response that counts as open while it is sent. Too many are answered with a problem."""

    open_count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _EventStreamResponse.open_count >= MAX_STREAMS:
            detail = (
                f"{MAX_STREAMS} event streams are open, which is the limit. Request pages of JSON instead."
            )
            problem = Problem(503, detail, slug="too-many-streams", headers={"Retry-After": "5"})
            await problem.response(scope["path"])(scope, receive, send)
            return
        _EventStreamResponse.open_count += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            _EventStreamResponse.open_count -= 1


async def _stream(
    request: Request, runs: RunService, workflow_id: str, after: str | None
) -> AsyncIterator[str]:
    pause = _MIN_PAUSE_SECONDS
    idle_seconds = 0.0
    ends_at = time.monotonic() + request.app.state.stream_seconds
    remaining = request.app.state.stream_bytes
    while not is_stopping(request) and time.monotonic() < ends_at:
        # The run is read before its events: if it has finished, the events read next are complete.
        run = await run_in_threadpool(runs.get, workflow_id)
        page = await run_in_threadpool(runs.events, workflow_id, after)
        for event in page.items:
            after = event.id
            frame = _frame(event.type, event, after)
            yield frame
            remaining -= len(frame)
            if remaining <= 0:
                return
        if page.items:
            pause, idle_seconds = _MIN_PAUSE_SECONDS, 0.0
        if page.next_cursor is not None:
            continue
        if run.status.is_final:
            yield _frame("end", CurrentStatus(workflow_id=run.id, status=run.status))
            return
        await asyncio.sleep(pause)
        idle_seconds += pause
        pause = min(pause * 1.5, _MAX_PAUSE_SECONDS)
        if idle_seconds >= _KEEP_ALIVE_SECONDS:
            idle_seconds = 0.0
            yield ": still there\n\n"


def _frame(event_type: str, body: View, event_id: str | None = None) -> str:
    # ASCII, because some clients read U+2028 as the end of a line.
    id_line = "" if event_id is None else f"id: {event_id}\n"
    return (
        f"{id_line}event: {event_type}\ndata: {json.dumps(body, separators=(',', ':'), default=members)}\n\n"
    )
