"""Route of the graph of a run: its plan with the states of its steps."""

from __future__ import annotations

from enum import StrEnum

from fastapi import APIRouter, Request
from starlette.responses import Response

from noetl.api import graphviz
from noetl.api.http.negotiation import FORMAT_PARAMETER, accepted_media_type
from noetl.api.http.openapi import PROBLEMS, response_body
from noetl.api.http.problems import Problem
from noetl.api.http.requests import JSON_TYPE, check_query_names
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices
from noetl.api.service.views import PlanGraph, plan_graph

router = APIRouter(
    prefix="/workflows", tags=["workflows"], responses=PROBLEMS, default_response_class=JsonResponse
)

_INERT = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
"""Headers of the picture. Its words are from the playbook, so nothing in it may run as script."""


class GraphFormat(StrEnum):
    SVG = "svg"
    MERMAID = "mermaid"
    JSON = "json"


_FORMATS = {
    JSON_TYPE: GraphFormat.JSON,
    "image/svg+xml": GraphFormat.SVG,
    "text/plain": GraphFormat.MERMAID,
}
"""The formats by their media types. A client that accepts any receives the first."""


@router.get(
    "/{workflow_id}/graph",
    responses={200: response_body(PlanGraph, "image/svg+xml", "text/plain")},
)
def graph(
    workflow_id: str, request: Request, services: ReadServices, format: GraphFormat | None = None
) -> Response:
    """Return the plan with the states of the run's steps: JSON, a picture or Mermaid text."""
    from noetl.executor.actions import catalogue
    from noetl.planner.draw import dot, mermaid

    check_query_names(request, (FORMAT_PARAMETER,))
    if format is None:
        format = _FORMATS[accepted_media_type(request, tuple(_FORMATS))]
    plan, states = services.runs.plan(workflow_id), services.runs.step_states(workflow_id)
    match format:
        case GraphFormat.MERMAID:
            return Response(mermaid.draw(plan, catalogue(), states), media_type="text/plain")
        case GraphFormat.JSON:
            return JsonResponse(plan_graph(plan, states))
        case GraphFormat.SVG:
            try:
                picture = graphviz.render(dot.draw(plan, catalogue(), states), "svg")
            except graphviz.GraphvizError as error:
                detail = f"{str(error)[0].upper()}{str(error)[1:]}."
                raise Problem(501, detail, slug="not-supported") from error
            return Response(picture, media_type="image/svg+xml", headers=_INERT)
