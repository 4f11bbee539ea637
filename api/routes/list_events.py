"""Route of the event stream of a list of runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from noetl.api.http.list_stream import ListStreamRequest, ListStreamResponse
from noetl.api.http.openapi import problems, stream_body
from noetl.api.http.parameters import ListStreamQuery
from noetl.api.http.problems import Problem
from noetl.api.routes.dependencies import ReadServices, opened_services

router = APIRouter(tags=["workflows"])

_EXAMPLE = """\
retry: 2000

event: run
data: {"workflow_id":"7c0b1f2ad1f04b0d9f1e2a3c","status":"running","playbook":"greet","version":null,\
"created_at":"2026-01-31T09:30:00.000000Z","started_at":"2026-01-31T09:30:00.000000Z","finished_at":null,\
"tags":["nightly"],"headline":"hello","steps":{"done":0,"total":1}}

event: ready
data: {"runs":1,"more":false}

event: gone
data: {"workflow_id":"7c0b1f2ad1f04b0d9f1e2a3c"}

"""


@router.get(
    "/events",
    responses={
        200: stream_body(
            description="The stream: `run` for each run, `ready`, then `run` and `gone` for each change.",
            example=_EXAMPLE,
        )
    },
    response_class=Response,
    openapi_extra=problems("quota-exceeded", "too-many-streams", "not-supported"),
)
async def follow_runs(
    request: Request, services: ReadServices, query: Annotated[ListStreamQuery, Query()]
) -> Response:
    """Return the newest runs of a filter as a stream of events, and each change of this list."""
    state = request.app.state
    if not state.has_streams:
        raise Problem(
            501,
            "The service answers through a gateway, which cannot send a stream that stays open. Request"
            " `GET /workflows` with the same parameters every few seconds instead.",
            slug="not-supported",
        )
    opened = opened_services(request)
    stream = ListStreamRequest(query.to_filter(), state.list_stream_seconds)
    return ListStreamResponse(stream, services.lists, opened.list_watchers.current(), opened.open_streams)
