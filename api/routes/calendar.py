"""Route of the calendar of schedules."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from noetl.api.http.openapi import problems, response_body
from noetl.api.http.parameters import CalendarQuery
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices
from noetl.api.service.calendar_views import CalendarPage

router = APIRouter(tags=["triggers"], default_response_class=JsonResponse)


@router.get(
    "/triggers/calendar",
    responses={200: response_body(CalendarPage, description="A page of the calendar.")},
    openapi_extra=problems("invalid-cursor"),
)
def read_calendar(services: ReadServices, query: Annotated[CalendarQuery, Query()]) -> Response:
    """Return schedules with their firings of a time: those that were performed, and those to come."""
    return JsonResponse(services.calendar.read(query.to_request()))
