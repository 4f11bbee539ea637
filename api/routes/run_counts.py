"""Routes that count runs: by status, and by the time of their creation."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from noetl.api.http.openapi import problems, response_body
from noetl.api.http.parameters import HistogramQuery, RunConditions
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, read_values
from noetl.api.service.views import RunHistogram, StatusCounts

router = APIRouter(prefix="/workflows", tags=["workflows"], default_response_class=JsonResponse)


@router.get(
    "/counts",
    responses={200: response_body(StatusCounts, description="The numbers of runs.")},
)
async def count_runs(
    request: Request, services: ReadServices, query: Annotated[RunConditions, Query()]
) -> Response:
    """Return the numbers of the runs of a filter by status, of the newest runs if there are many."""
    return JsonResponse(
        await read_values(request, services, partial(services.lists.counts, query.to_filter()))
    )


@router.get(
    "/histogram",
    responses={200: response_body(RunHistogram, description="The numbers of runs of each interval.")},
    openapi_extra=problems("invalid-interval"),
)
async def get_histogram(
    request: Request, services: ReadServices, query: Annotated[HistogramQuery, Query()]
) -> Response:
    """Return the numbers of the runs of a filter by status, for each interval of their creation."""
    read = partial(services.lists.histogram, query.to_filter(), query.step_seconds)
    return JsonResponse(await read_values(request, services, read))
