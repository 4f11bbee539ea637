"""The graph of a run: its plan, with the states of its steps."""

from __future__ import annotations

from enum import StrEnum

from fastapi import APIRouter, Request
from noetl.api.graphviz import NoGraphvizError, image
from noetl.api.http.problems import Problem
from noetl.api.http.requests import known_query
from noetl.api.http.responses import JSON, shaped
from noetl.api.routes.dependencies import PROBLEMS, ToRead
from starlette.responses import Response

router = APIRouter(prefix="/workflows", tags=["workflows"], responses=PROBLEMS, default_response_class=JSON)

_INERT = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
"""The words in the picture are a playbook's: nothing in it runs, wherever it is shown."""


class GraphFormat(StrEnum):
    SVG = "svg"
    MERMAID = "mermaid"
    JSON = "json"


@router.get(
    "/{workflow_id}/graph",
    responses={200: shaped("Graph", "image/svg+xml", "text/plain")},
)
def graph(
    workflow_id: str, request: Request, service: ToRead, format: GraphFormat = GraphFormat.SVG
) -> Response:
    """The plan with the run's states on it: a picture, Mermaid text, or the graph as JSON."""
    from noetl.planner.draw import dot, mermaid

    known_query(request, ("format",))
    plan = service.plan(workflow_id)
    states = {name: step["status"] for name, step in service.status(workflow_id)["steps"].items()}
    match format:
        case GraphFormat.MERMAID:
            return Response(mermaid.draw(plan, states), media_type="text/plain")
        case GraphFormat.JSON:
            steps = {name: step.to_json() | {"status": states[name]} for name, step in plan.steps.items()}
            return JSON({"start": plan.header.start, "steps": steps, "edges": list(plan.edges())})
        case GraphFormat.SVG:
            try:
                return Response(
                    image(dot.draw(plan, states), "svg"), media_type="image/svg+xml", headers=_INERT
                )
            except NoGraphvizError as error:
                raise Problem(
                    501, f"{str(error)[0].upper()}{str(error)[1:]}.", slug="not-supported"
                ) from error
