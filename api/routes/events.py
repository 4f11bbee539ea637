"""Route of the history of a run: pages of JSON, or a stream of server-sent events that ends with the run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from noetl.api.http.event_stream import EventStreamResponse, StreamRequest
from noetl.api.http.negotiation import accepted_media_type
from noetl.api.http.openapi import JSON_TYPE, problems, response_body
from noetl.api.http.parameters import EventQuery, LastEventId
from noetl.api.http.responses import EventTicket, JsonResponse, LargeJsonResponse
from noetl.api.routes.dependencies import (
    ReadServices,
    RunId,
    StreamServices,
    opened_services,
    read_values,
)
from noetl.api.service.views import EventPage
from noetl.executor.model.events import timestamp

router = APIRouter(prefix="/workflows", tags=["workflows"], default_response_class=JsonResponse)


@router.get(
    "/{workflow_id}/events",
    responses={
        200: response_body(
            EventPage,
            EventStreamResponse.media_type,
            description="A page of events, or the stream of all events until the run ends.",
        ),
        204: {"description": "The stream has ended with the event `Last-Event-ID`."},
    },
    openapi_extra=problems("not-found", "invalid-cursor", "quota-exceeded", "too-many-streams"),
)
async def get_run_events(
    workflow_id: RunId,
    request: Request,
    services: StreamServices,
    query: Annotated[EventQuery, Query()],
    last_event: LastEventId = None,
) -> Response:
    """Return the events after the one whose id is `cursor` (in a stream, also `Last-Event-ID`)."""
    media_types = (JSON_TYPE, EventStreamResponse.media_type)
    if accepted_media_type(request, media_types) == JSON_TYPE:

        def read() -> Response:
            return LargeJsonResponse(services.runs.events(workflow_id, query.cursor, query.limit))

        return await read_values(request, services, read)
    state = request.app.state
    stream = StreamRequest(
        workflow_id, last_event or query.cursor, bool(last_event), state.stream_seconds, state.stream_bytes
    )
    opened = opened_services(request)
    return EventStreamResponse(stream, services.runs, opened.watchers.current(), opened.open_streams)


@router.post(
    "/{workflow_id}/events/ticket",
    responses={200: response_body(EventTicket, description="The ticket.")},
    openapi_extra=problems("not-found"),
)
def create_event_ticket(workflow_id: RunId, request: Request, services: ReadServices) -> Response:
    """Return a ticket with which a browser opens the event stream of the run within 60 seconds."""
    run = services.runs.summary(workflow_id)
    text, claims = opened_services(request).authenticator.tickets.issue(run.tenant, run.id)
    body = EventTicket(ticket=text, expires_at=timestamp(float(claims.expires_at)))
    return JsonResponse(body, headers={"Cache-Control": "no-store"})
