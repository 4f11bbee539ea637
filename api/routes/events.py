"""The history of a run: pages of JSON, or a stream that ends when the run does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from noetl.api.http.problems import Problem
from noetl.api.http.requests import accepts, known_query
from noetl.api.http.responses import JSON, shaped
from noetl.api.routes.dependencies import PROBLEMS, ToRead, is_stopping
from noetl.api.service.runs import EVENTS_PER_PAGE, Service
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

router = APIRouter(prefix="/workflows", tags=["workflows"], responses=PROBLEMS, default_response_class=JSON)

MAX_STREAMS = 64
"""How many streams are open at once in a process. Each asks the store again and again, for as long as a run may last."""

_EVENT_STREAM = "text/event-stream"
_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_COMMENT_AFTER_SECONDS = 15.0
"""How long a stream is silent at most: proxies cut silent connections, and a reader that left is noticed by a write."""


@router.get(
    "/{workflow_id}/events",
    responses={200: shaped("EventPage", _EVENT_STREAM)},
)
async def events(
    workflow_id: str,
    request: Request,
    service: ToRead,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=EVENTS_PER_PAGE)] = EVENTS_PER_PAGE,
) -> Response:
    """What has happened, behind the event whose id is `cursor` (or `Last-Event-ID`, in a stream)."""
    known_query(request, ("cursor", "limit"))
    if not accepts(request, _EVENT_STREAM):
        return JSON(await run_in_threadpool(service.events, workflow_id, cursor, limit))
    after = request.headers.get("last-event-id") or cursor
    # Asked before the stream begins, because only then can an unknown id or cursor be answered with a problem.
    await run_in_threadpool(service.events, workflow_id, after, 1)
    return _EventStream(
        _stream(request, service, workflow_id, after),
        media_type=_EVENT_STREAM,
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


class _EventStream(StreamingResponse):
    """A stream that is counted for as long as it is open, or a problem where too many are."""

    open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _EventStream.open >= MAX_STREAMS:
            detail = f"{MAX_STREAMS} streams of events are open here, which is all there may be. The pages are served."
            problem = Problem(503, detail, slug="too-many-streams", headers={"Retry-After": "5"})
            await problem.response(scope["path"])(scope, receive, send)
            return
        _EventStream.open += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            _EventStream.open -= 1


async def _stream(
    request: Request, service: Service, workflow_id: str, after: str | None
) -> AsyncIterator[str]:
    pause = _SHORTEST_PAUSE_SECONDS
    silence = 0.0
    ends_at = time.monotonic() + request.app.state.stream_seconds
    left = request.app.state.stream_bytes
    while not is_stopping(request) and time.monotonic() < ends_at:
        # The run is looked at first: what a finished run has written by then is all there is.
        run = await run_in_threadpool(service.run, workflow_id)
        page = await run_in_threadpool(service.events, workflow_id, after)
        for event in page["items"]:
            after = event["id"]
            frame = _frame(event["type"], event, after)
            yield frame
            left -= len(frame)
            if left <= 0:
                return
        if page["items"]:
            pause, silence = _SHORTEST_PAUSE_SECONDS, 0.0
        if page["next_cursor"] is not None:
            continue
        if run.status.is_final:
            yield _frame("end", {"workflow_id": run.id, "status": run.status.value})
            return
        await asyncio.sleep(pause)
        silence += pause
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
        if silence >= _COMMENT_AFTER_SECONDS:
            silence = 0.0
            yield ": still there\n\n"


def _frame(kind: str, body: object, event_id: str | None = None) -> str:
    # ASCII, because some readers take U+2028 for the end of a line.
    identity = "" if event_id is None else f"id: {event_id}\n"
    return f"{identity}event: {kind}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n"
