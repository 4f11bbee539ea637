"""Route of the statistics of a playbook."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from noetl.api.http.openapi import response_body
from noetl.api.http.parameters import StatisticsQuery
from noetl.api.http.responses import JsonResponse, LargeJsonResponse
from noetl.api.routes.dependencies import ReadServices, read_values
from noetl.api.service.statistics import PlaybookStatistics

router = APIRouter(prefix="/workflows", tags=["workflows"], default_response_class=JsonResponse)


@router.get("/statistics", responses={200: response_body(PlaybookStatistics, description="The statistics.")})
async def get_statistics(
    request: Request, services: ReadServices, query: Annotated[StatisticsQuery, Query()]
) -> Response:
    """Return how the latest runs of a playbook ended, and how long they and their steps took."""

    def read() -> Response:
        return LargeJsonResponse(services.statistics.describe(query.playbook, query.runs))

    return await read_values(request, services, read)
