"""Route of the calendar of schedules."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from noetl.api.http.openapi import problems, response_body
from noetl.api.http.parameters import CalendarQuery
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, read_values
from noetl.api.service.calendar_views import CalendarPage

router = APIRouter(tags=["triggers"], default_response_class=JsonResponse)


@router.get(
    "/triggers/calendar",
    responses={200: response_body(CalendarPage, description="A page of the calendar.")},
    openapi_extra=problems("invalid-cursor"),
)
async def read_calendar(
    request: Request, services: ReadServices, query: Annotated[CalendarQuery, Query()]
) -> Response:
    """Return schedules with their firings of a time: those that were performed, and those to come."""
    read = partial(services.calendar.read, query.to_request())
    return JsonResponse(await read_values(request, services, read))
