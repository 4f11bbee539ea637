"""Route of drafts: what an editor shows of a text, which may have errors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from noetl.api.compute.draft_job import DraftJob
from noetl.api.http.openapi import playbook_body, problems, response_body
from noetl.api.http.parameters import WholeNumber
from noetl.api.http.requests import read_playbook
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, perform
from noetl.api.service.draft_views import PlaybookDraft
from noetl.api.service.errors import WorkLimitError

router = APIRouter(tags=["plans"], default_response_class=JsonResponse)

Line = Annotated[
    WholeNumber | None,
    Query(
        ge=1, le=2_000_000, description="A line of the text, from 1. The answer has the names in scope there."
    ),
]


@router.post(
    "/plan/draft",
    responses={200: response_body(PlaybookDraft, description="The draft, also if it has errors.")},
    openapi_extra={
        **playbook_body("PlaybookBody"),
        **problems("too-much-work", "tenant-busy", "service-busy"),
    },
)
async def check_draft(request: Request, services: ReadServices, line: Line = None) -> Response:
    """Return findings with their fixes, the drawing, and the names in scope at a line of the text."""
    text = await read_playbook(request)
    try:
        draft = await perform(request, services, DraftJob(text, line))
    except WorkLimitError:
        # The drawing took too long. The findings are worth more.
        draft = await perform(request, services, DraftJob(text, line, draws=False))
    return Response(draft, media_type=JsonResponse.media_type)
