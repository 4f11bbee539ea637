"""Route of drafts: what an editor shows of a text, which may have errors."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from noetl.api.compute.draft_job import DraftJob
from noetl.api.http.openapi import problems, required_body, response_body
from noetl.api.http.requests import read_draft_request
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, perform, read_excerpt
from noetl.api.service.draft_views import PlaybookDraft
from noetl.api.service.errors import WorkLimitError
from noetl.planner.frozen import replace

router = APIRouter(tags=["plans"], default_response_class=JsonResponse)


@router.post(
    "/plan/draft",
    responses={200: response_body(PlaybookDraft, description="The draft, also if it has errors.")},
    openapi_extra={
        **required_body("DraftBody"),
        **problems("too-much-work", "tenant-busy", "service-busy"),
    },
)
async def check_draft(request: Request, services: ReadServices) -> Response:
    """Return findings with their fixes, the drawing, and the names in scope at a line of the text."""
    text, line = await read_draft_request(request)
    registry = await read_excerpt(request, services, text)
    job = DraftJob(text, line, registry=registry)
    try:
        draft = await perform(request, services, job)
    except WorkLimitError:
        # The drawing took too long. The findings are worth more.
        draft = await perform(request, services, replace(job, draws=False))
    return Response(draft, media_type=JsonResponse.media_type)
