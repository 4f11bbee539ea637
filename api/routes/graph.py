"""Route of the graph of a run: its plan with the states of its steps."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from noetl.api.http.negotiation import accepted_media_type
from noetl.api.http.openapi import JSON_TYPE, problems, response_body
from noetl.api.http.parameters import EVENT_DESCRIPTION
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, RunId
from noetl.api.routes.run_drawing import DrawingRequest, GraphFormat, draw_run, find_moment
from noetl.api.service.views import PlanGraph

router = APIRouter(prefix="/workflows", tags=["workflows"], default_response_class=JsonResponse)

_INERT = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
"""Headers of the picture. Its words are from the playbook, so nothing in it may run as script."""


Format = Annotated[GraphFormat | None, Query(description="The format, whatever media types `Accept` allows.")]
Event = Annotated[str | None, Query(alias="at", max_length=60, description=EVENT_DESCRIPTION, examples=["1"])]

_FORMATS = {
    JSON_TYPE: GraphFormat.JSON,
    "image/svg+xml": GraphFormat.SVG,
    "text/plain": GraphFormat.MERMAID,
}
"""The formats by their media types. A client that accepts any receives the first."""
_MEDIA_TYPES = {format: media_type for media_type, format in _FORMATS.items()}
_HEADERS = {GraphFormat.SVG: _INERT}


@router.get(
    "/{workflow_id}/graph",
    responses={
        200: response_body(
            PlanGraph, "image/svg+xml", "text/plain", description="The graph in the requested format."
        )
    },
    openapi_extra=problems(
        "not-found",
        "unknown-event",
        "no-past",
        "graph-too-large",
        "too-much-work",
        "tenant-busy",
        "service-busy",
        "not-supported",
    ),
)
async def get_run_graph(
    workflow_id: RunId,
    request: Request,
    services: ReadServices,
    format: Format = None,
    event: Event = None,
) -> Response:
    """Return the plan with the states of the run's steps: JSON, a picture or Mermaid text."""
    if format is None:
        format = _FORMATS[accepted_media_type(request, tuple(_FORMATS))]
    moment = await find_moment(request, services, workflow_id, event)
    drawing = await draw_run(request, services, DrawingRequest(workflow_id, format, moment=moment))
    return Response(drawing, media_type=_MEDIA_TYPES[format], headers=_HEADERS.get(format))
