"""Routes that cancel, pause, unpause, resume or delete many runs with one request."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.access import caller_name
from noetl.api.http.openapi import optional_body, problems, response_body
from noetl.api.http.parameters import BulkQuery
from noetl.api.http.requests import read_run_selection
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import RunServices
from noetl.api.service.views import BulkReport

router = APIRouter(prefix="/workflows/bulk", tags=["workflows"], default_response_class=JsonResponse)

_REQUEST: dict[str, Any] = {**optional_body("BulkBody"), **problems("ambiguous-selection", "invalid-cursor")}


@router.post(
    "/cancel",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted are cancelled.")},
    openapi_extra=_REQUEST,
)
async def cancel_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Cancel the runs that the body names or the filter selects, up to 100, and continue at the cursor."""
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.cancel, selection), 202)


@router.post(
    "/pause",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted are paused.")},
    openapi_extra=_REQUEST,
)
async def pause_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Pause the runs that the body names or the filter selects, up to 100, and continue at the cursor."""
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.pause, selection, caller_name(request)), 202)


@router.post(
    "/unpause",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted continue.")},
    openapi_extra=_REQUEST,
)
async def unpause_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Continue the paused runs that the body names or the filter selects, and go on at the cursor."""
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.unpause, selection, caller_name(request)), 202)


@router.post(
    "/resume",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted continue.")},
    openapi_extra=_REQUEST,
)
async def resume_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Resume the runs that the body names or the filter selects, up to 100, and continue at the cursor."""
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.resume, selection), 202)


@router.post(
    "/delete",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted are deleted.")},
    openapi_extra=_REQUEST,
)
async def delete_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Delete the runs that the body names or the filter selects, up to 100, and continue at the cursor."""
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.delete, selection), 202)
