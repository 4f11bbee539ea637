"""The drawing of a run: what the routes of its graph and of its data have in common."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from noetl.api import graphviz
from noetl.api.compute.jobs import GraphJob, LayoutJob, graph_key, layout_key, pack_plan
from noetl.api.http.problems import Problem
from noetl.api.http.request_shares import place_of
from noetl.api.pictures import MAX_PICTURE_SIZE, PictureError
from noetl.api.routes.dependencies import opened_services, perform
from noetl.api.service.errors import WorkLimitError
from noetl.api.service.services import TenantServices
from noetl.api.service.views import StepState
from noetl.planner.draw.folding import FOLD_FROM
from noetl.planner.draw.run_marks import DrawnRun


class GraphFormat(StrEnum):
    SVG = "svg"
    MERMAID = "mermaid"
    JSON = "json"


COORDINATES = "coordinates"
"""The format of the drawing for programs: coordinates and marks as JSON."""


async def draw_run(
    request: Request, services: TenantServices, workflow_id: str, format: str, opened: Collection[str] = ()
) -> bytes:
    """Return the drawing of a run in a format of `GraphFormat`, or as COORDINATES.

    Groups of a large plan with a step of `opened` are not folded.

    Raises:
        NotFoundError: the tenant has no such run.
        Problem: 422, `graph-too-large`; 501, `not-supported`.
        ServiceBusyError, TenantBusyError: too many jobs wait.
    """
    header = await run_in_threadpool(services.runs.header, workflow_id)
    compute = opened_services(request).compute
    is_picture = format in (GraphFormat.SVG, COORDINATES)

    shown = tuple(sorted(set(opened)))

    def read_run() -> tuple[str, DrawnRun, str]:
        plan_hash, run = services.data.drawn_run(workflow_id, counts_visits=is_picture)
        return plan_hash, run, graph_key(plan_hash, run, format, shown)

    async def read_plan() -> bytes:
        return await compute.read(lambda: pack_plan(services.runs.plan(workflow_id)), services.tenant)

    async with place_of(request).given_up():
        plan_hash, run, key = await compute.read(read_run, services.tenant)
    drawing: bytes | None = compute.cached(key)
    if drawing is None:
        # A plan of 1 MiB takes a second to read.
        async with place_of(request).given_up():
            packed_plan = await compute.remembered(f"plan:{plan_hash}", read_plan)
        try:
            layout = None
            if is_picture:
                failed = _failed_steps(run)
                job = LayoutJob(layout_key(plan_hash, failed, shown), packed_plan, failed, shown)
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
    return drawing


def _failed_steps(run: DrawnRun) -> tuple[str, ...]:
    """Return the failed steps of a run that is large enough for a folded picture."""
    if len(run.states) < FOLD_FROM:
        return ()
    return tuple(sorted(name for name, state in run.states.items() if state is StepState.FAILED))


def _too_large(problem: str) -> Problem:
    detail = f"The graph {problem}. Request it with `format=mermaid` or `format=json`."
    return Problem(422, detail, slug="graph-too-large")
