"""Route of the graph of a run: its plan with the states of its steps."""

from __future__ import annotations

from enum import StrEnum

from fastapi import APIRouter, Request
from starlette.responses import Response

from noetl.api import graphviz
from noetl.api.http.problems import Problem
from noetl.api.http.requests import check_query_names
from noetl.api.http.responses import JsonResponse, body_schema
from noetl.api.routes.dependencies import PROBLEMS, ReadService

router = APIRouter(
    prefix="/workflows", tags=["workflows"], responses=PROBLEMS, default_response_class=JsonResponse
)

_INERT = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
"""Headers of the picture. Its words are from the playbook, so nothing in it may run as script."""


class GraphFormat(StrEnum):
    SVG = "svg"
    MERMAID = "mermaid"
    JSON = "json"


@router.get(
    "/{workflow_id}/graph",
    responses={200: body_schema("Graph", "image/svg+xml", "text/plain")},
)
def graph(
    workflow_id: str, request: Request, service: ReadService, format: GraphFormat = GraphFormat.SVG
) -> Response:
    """Return the plan with the states of the run's steps: a picture, Mermaid text or JSON."""
    from noetl.executor.actions import catalogue
    from noetl.planner.draw import dot, mermaid

    check_query_names(request, ("format",))
    plan = service.plan(workflow_id)
    states = {name: step["status"] for name, step in service.status(workflow_id)["steps"].items()}
    match format:
        case GraphFormat.MERMAID:
            return Response(mermaid.draw(plan, catalogue(), states), media_type="text/plain")
        case GraphFormat.JSON:
            steps = {name: step.to_json() | {"status": states[name]} for name, step in plan.steps.items()}
            return JsonResponse({"start": plan.header.start, "steps": steps, "edges": list(plan.edges())})
        case GraphFormat.SVG:
            try:
                picture = graphviz.render(dot.draw(plan, catalogue(), states), "svg")
            except graphviz.GraphvizError as error:
                detail = f"{str(error)[0].upper()}{str(error)[1:]}."
                raise Problem(501, detail, slug="not-supported") from error
            return Response(picture, media_type="image/svg+xml", headers=_INERT)
