"""Route of the graph of a run: its plan with the states of its steps."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api import graphviz
from noetl.api.compute.jobs import GraphJob, LayoutJob, graph_key, layout_key, pack_plan
from noetl.api.http.negotiation import accepted_media_type
from noetl.api.http.openapi import JSON_TYPE, problems, response_body
from noetl.api.http.problems import Problem
from noetl.api.http.request_shares import place_of
from noetl.api.http.responses import JsonResponse
from noetl.api.pictures import MAX_PICTURE_SIZE, PictureError
from noetl.api.routes.dependencies import ReadServices, RunId, opened_services, perform
from noetl.api.service.errors import WorkLimitError
from noetl.api.service.views import PlanGraph, StepState
from noetl.planner.draw.folding import FOLD_FROM
from noetl.planner.draw.run_marks import DrawnRun

router = APIRouter(prefix="/workflows", tags=["workflows"], default_response_class=JsonResponse)

_INERT = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
"""Headers of the picture. Its words are from the playbook, so nothing in it may run as script."""


class GraphFormat(StrEnum):
    SVG = "svg"
    MERMAID = "mermaid"
    JSON = "json"


Format = Annotated[GraphFormat | None, Query(description="The format, whatever media types `Accept` allows.")]

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
        "graph-too-large",
        "too-much-work",
        "tenant-busy",
        "service-busy",
        "not-supported",
    ),
)
async def get_run_graph(
    workflow_id: RunId, request: Request, services: ReadServices, format: Format = None
) -> Response:
    """Return the plan with the states of the run's steps: JSON, a picture or Mermaid text."""
    if format is None:
        format = _FORMATS[accepted_media_type(request, tuple(_FORMATS))]
    header = await run_in_threadpool(services.runs.header, workflow_id)
    compute = opened_services(request).compute

    def read_run() -> tuple[str, DrawnRun, str]:
        is_picture = format is GraphFormat.SVG
        plan_hash, run = services.runs.drawn_run(workflow_id, counts_visits=is_picture)
        return plan_hash, run, graph_key(plan_hash, run, format)

    async def read_plan() -> bytes:
        return await compute.read(lambda: pack_plan(services.runs.plan(workflow_id)), services.tenant)

    async with place_of(request).given_up():
        plan_hash, run, key = await compute.read(read_run, services.tenant)
    drawing = compute.cached(key)
    if drawing is None:
        # A plan of 1 MiB takes a second to read.
        async with place_of(request).given_up():
            packed_plan = await compute.remembered(f"plan:{plan_hash}", read_plan)
        try:
            layout = None
            if format is GraphFormat.SVG:
                failed = _failed_steps(run)
                job = LayoutJob(layout_key(plan_hash, failed), packed_plan, failed)
                layout = await perform(request, services, job)
            graph = GraphJob(key, header.statistics["edges"], packed_plan, run, format, layout)
            drawing = await perform(request, services, graph)
        except (graphviz.GraphvizTimeoutError, WorkLimitError):
            raise _too_large(f"takes more than {GraphJob.seconds:g} s to draw, or too much memory") from None
        except PictureError:
            raise _too_large(f"has more than {MAX_PICTURE_SIZE:,} nodes and edges") from None
        except graphviz.GraphvizError as error:
            detail = f"{str(error)[0].upper()}{str(error)[1:]}."
            raise Problem(501, detail, slug="not-supported") from error
    return Response(drawing, media_type=_MEDIA_TYPES[format], headers=_HEADERS.get(format))


def _failed_steps(run: DrawnRun) -> tuple[str, ...]:
    """Return the failed steps of a run that is large enough for a folded picture."""
    if len(run.states) < FOLD_FROM:
        return ()
    return tuple(sorted(name for name, state in run.states.items() if state is StepState.FAILED))


def _too_large(problem: str) -> Problem:
    detail = f"The graph {problem}. Request it with `format=mermaid` or `format=json`."
    return Problem(422, detail, slug="graph-too-large")
