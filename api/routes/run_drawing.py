"""The drawing of a run: what the routes of its graph and of its data have in common."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from functools import partial

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from noetl.api import graphviz
from noetl.api.compute.jobs import GraphJob, LayoutJob, graph_key, layout_key, pack_plan
from noetl.api.http.problems import Problem
from noetl.api.pictures import MAX_PICTURE_SIZE, PictureError
from noetl.api.routes.dependencies import opened_services, perform, read_for_job, waiting_elsewhere
from noetl.api.service.errors import WorkLimitError
from noetl.api.service.past_runs import PastMoment
from noetl.api.service.services import TenantServices
from noetl.api.service.views import StepState
from noetl.planner.draw.folding import FOLD_FROM
from noetl.planner.draw.run_marks import DrawnRun
from noetl.planner.frozen import frozen


class GraphFormat(StrEnum):
    SVG = "svg"
    MERMAID = "mermaid"
    JSON = "json"


COORDINATES = "coordinates"
"""The format of the drawing for programs: coordinates and marks as JSON."""


@frozen
class DrawingRequest:
    """A drawing of a run in a format of `GraphFormat`, or as COORDINATES.

    Groups of a large plan with a step of `opened` are not folded. With a moment, the run is drawn as it was.
    """

    workflow_id: str
    format: str
    opened: Collection[str] = ()
    moment: PastMoment | None = None

    def read(self, services: TenantServices) -> tuple[str, DrawnRun]:
        """Return the hash of the plan of the run, and what the drawing shows of the run."""
        if self.moment is not None:
            return services.past_runs.drawn_run(self.moment)
        return services.data.drawn_run(self.workflow_id, counts_visits=self.is_picture)

    @property
    def is_picture(self) -> bool:
        return self.format in (GraphFormat.SVG, COORDINATES)


async def find_moment(
    request: Request, services: TenantServices, workflow_id: str, place: str | None
) -> PastMoment | None:
    """Return the run after an event, or None without a place in its history.

    Raises:
        NotFoundError: the tenant has no such run.
        RejectedError: `unknown_event`; `no_past`.
    """
    if place is None:
        return None
    return await read_for_job(request, services, partial(services.past_runs.find, workflow_id, place))


async def draw_run(request: Request, services: TenantServices, wanted: DrawingRequest) -> bytes:
    """Return the drawing of a run.

    Raises:
        NotFoundError: the tenant has no such run.
        Problem: 422, `graph-too-large`; 501, `not-supported`.
        ServiceBusyError, TenantBusyError: too many jobs wait.
    """
    workflow_id, format = wanted.workflow_id, wanted.format
    header = await run_in_threadpool(services.runs.header, workflow_id)
    compute = opened_services(request).compute
    shown = tuple(sorted(set(wanted.opened)))

    def read_run() -> tuple[str, DrawnRun, str]:
        plan_hash, run = wanted.read(services)
        return plan_hash, run, graph_key(plan_hash, run, format, shown)

    async def read_plan() -> bytes:
        return await compute.read(lambda: pack_plan(services.runs.plan(workflow_id)), services.tenant)

    plan_hash, run, key = await read_for_job(request, services, read_run)
    drawing: bytes | None = compute.cached(key)
    if drawing is None:
        # A plan of 1 MiB takes a second to read.
        async with waiting_elsewhere(request):
            packed_plan = await compute.remembered(f"plan:{plan_hash}", read_plan)
        try:
            layout = None
            if wanted.is_picture:
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
