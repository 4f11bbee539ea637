"""Routes of the data of a run: the run at a glance, one visit of a step, the log, the input and the text."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from noetl.api.http.openapi import problems, response_body
from noetl.api.http.parameters import LogQuery, StepQuery
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, RunId
from noetl.api.service.data_views import LogPage, RunDetails, RunInput, RunSource, StepData

router = APIRouter(prefix="/workflows", tags=["workflows"], default_response_class=JsonResponse)


@router.get(
    "/{workflow_id}",
    responses={200: response_body(RunDetails, description="The run at a glance.")},
    openapi_extra=problems("not-found"),
)
def get_run(workflow_id: RunId, services: ReadServices) -> Response:
    """Return the run at a glance: its status and that of its steps, its tags, and a headline."""
    return JsonResponse(services.data.details(workflow_id))


@router.get(
    "/{workflow_id}/step",
    responses={200: response_body(StepData, description="The visit with its data.")},
    openapi_extra=problems("not-found"),
)
def get_step(workflow_id: RunId, services: ReadServices, query: Annotated[StepQuery, Query()]) -> Response:
    """Return one visit of a step: what it received, did, saved and wrote, and which case followed."""
    return JsonResponse(services.data.step(workflow_id, query.name, query.visit))


@router.get(
    "/{workflow_id}/logs",
    responses={200: response_body(LogPage, description="A page of lines.")},
    openapi_extra=problems("not-found", "invalid-cursor"),
)
def get_log(workflow_id: RunId, services: ReadServices, query: Annotated[LogQuery, Query()]) -> Response:
    """Return the lines that the run has written, in order: of the action `log` and of commands."""
    return JsonResponse(services.data.log(workflow_id, query.step, query.cursor, query.limit))


@router.get(
    "/{workflow_id}/input",
    responses={200: response_body(RunInput, description="The input of the run.")},
    openapi_extra=problems("not-found"),
)
def get_input(workflow_id: RunId, services: ReadServices) -> Response:
    """Return the input of the run."""
    return JsonResponse(services.data.input(workflow_id))


@router.get(
    "/{workflow_id}/source",
    responses={200: response_body(RunSource, description="The text of the playbook.")},
    openapi_extra=problems("not-found"),
)
def get_source(workflow_id: RunId, services: ReadServices) -> Response:
    """Return the text of the playbook that the run executes."""
    return JsonResponse(services.data.source(workflow_id))
