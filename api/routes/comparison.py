"""Route of the comparison of two runs."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from noetl.api.compute.jobs import CompareJob
from noetl.api.http.openapi import problems, response_body
from noetl.api.http.parameters import ComparisonQuery
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, large_job, perform, read_for_job
from noetl.api.service.run_diff import RunDifference

router = APIRouter(prefix="/workflows", tags=["workflows"], default_response_class=JsonResponse)


@router.get(
    "/comparison",
    responses={200: response_body(RunDifference, description="The differences.")},
    openapi_extra=problems("not-found", "too-much-work", "tenant-busy", "service-busy"),
)
async def compare_runs(
    request: Request, services: ReadServices, query: Annotated[ComparisonQuery, Query()]
) -> Response:
    """Return what differs between two runs: playbook, input, and the visits of their steps."""
    async with large_job(request, services):
        pair = await read_for_job(request, services, partial(services.comparison.read, query.a, query.b))
        body = await perform(request, services, CompareJob(pair))
    return Response(body, media_type=JsonResponse.media_type)
