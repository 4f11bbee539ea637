"""Routes of the data of a run: at a glance, visits of steps, items, the log, the input and the text."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.openapi import problems, response_body
from noetl.api.http.parameters import DrawingQuery, ItemsQuery, LogQuery, StepQuery
from noetl.api.http.problems import Problem
from noetl.api.http.responses import JsonResponse, LargeJsonResponse
from noetl.api.routes.dependencies import ReadServices, RunId, read_values
from noetl.api.routes.run_drawing import COORDINATES, DrawingRequest, draw_run, find_moment
from noetl.api.service.data_views import LogPage, LoopItems, RunDetails, RunInput, RunSource, StepData

router = APIRouter(prefix="/workflows", tags=["workflows"], default_response_class=JsonResponse)


@router.get(
    "/{workflow_id}",
    responses={200: response_body(RunDetails, description="The run at a glance.")},
    openapi_extra=problems("not-found", "unknown-event", "no-past", "tenant-busy", "service-busy"),
)
async def get_run(
    workflow_id: RunId, request: Request, services: ReadServices, query: Annotated[DrawingQuery, Query()]
) -> Response:
    """Return the run at a glance: its status and that of its steps, its tags, and a headline."""
    moment = await find_moment(request, services, workflow_id, query.event)

    def read_details() -> RunDetails:
        return services.items.details(workflow_id) if moment is None else services.past_runs.details(moment)

    if query.include is None:
        return await read_values(request, services, lambda: LargeJsonResponse(read_details()))
    # Events that follow the cursor may be in the rest already. None is missing.
    cursor = None
    if moment is None:
        cursor = await run_in_threadpool(services.runs.last_event, workflow_id)
    details = await read_values(request, services, read_details)
    drawing, problem = None, None
    try:
        drawing = await draw_run(
            request, services, DrawingRequest(workflow_id, COORDINATES, query.open, moment)
        )
    except Problem as error:
        if error.slug not in ("graph-too-large", "not-supported"):
            raise
        problem = error.detail

    def respond() -> Response:
        shown = services.data.with_graph(details, drawing, problem, cursor or details.cursor)
        return LargeJsonResponse(shown)

    return await read_values(request, services, respond)


@router.get(
    "/{workflow_id}/step",
    responses={200: response_body(StepData, description="The visit with its data.")},
    openapi_extra=problems("not-found", "unknown-event", "no-past"),
)
async def get_step(
    workflow_id: RunId, request: Request, services: ReadServices, query: Annotated[StepQuery, Query()]
) -> Response:
    """Return one visit of a step: what it received, did, saved and wrote, and which case followed."""

    def read() -> Response:
        if query.event is not None:
            moment = services.past_runs.find(workflow_id, query.event)
            data = services.past_runs.step(moment, query.name, query.visit, is_complete=query.complete)
        else:
            data = services.data.step(workflow_id, query.name, query.visit, is_complete=query.complete)
        return LargeJsonResponse(data)

    return await read_values(request, services, read)


@router.get(
    "/{workflow_id}/items",
    responses={200: response_body(LoopItems, description="A page of items.")},
    openapi_extra=problems("not-found", "no-loop", "invalid-cursor"),
)
async def get_items(
    workflow_id: RunId, request: Request, services: ReadServices, query: Annotated[ItemsQuery, Query()]
) -> Response:
    """Return items of a loop with their states and errors, and the counts of all states."""

    def read() -> Response:
        return LargeJsonResponse(services.items.page(workflow_id, query.to_query()))

    return await read_values(request, services, read)


@router.get(
    "/{workflow_id}/logs",
    responses={200: response_body(LogPage, description="A page of lines.")},
    openapi_extra=problems("not-found", "invalid-cursor"),
)
async def get_log(
    workflow_id: RunId, request: Request, services: ReadServices, query: Annotated[LogQuery, Query()]
) -> Response:
    """Return the lines that the run has written, in order: of the action `log` and of commands."""

    def read() -> Response:
        page = services.data.log(workflow_id, query.step, query.cursor, query.limit, text=query.q)
        return LargeJsonResponse(page)

    return await read_values(request, services, read)


@router.get(
    "/{workflow_id}/input",
    responses={200: response_body(RunInput, description="The input of the run.")},
    openapi_extra=problems("not-found"),
)
async def get_input(workflow_id: RunId, request: Request, services: ReadServices) -> Response:
    """Return the input of the run."""

    def read() -> Response:
        return LargeJsonResponse(services.data.input(workflow_id))

    return await read_values(request, services, read)


@router.get(
    "/{workflow_id}/source",
    responses={200: response_body(RunSource, description="The text of the playbook.")},
    openapi_extra=problems("not-found"),
)
def get_source(workflow_id: RunId, services: ReadServices) -> Response:
    """Return the text of the playbook that the run executes."""
    return JsonResponse(services.data.source(workflow_id))
