"""Route of plans: compile a playbook and describe it, without running or storing anything."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.compute.jobs import DescribeJob
from noetl.api.http.openapi import playbook_body, problems, response_body
from noetl.api.http.parameters import InputText
from noetl.api.http.requests import read_submission
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, perform, read_excerpt
from noetl.api.service.errors import WorkLimitError
from noetl.api.service.graph_views import PlanDescription
from noetl.planner.frozen import replace

Include = Annotated[
    Literal["drawing"] | None, Query(description="`drawing`: also the drawing of the plan in coordinates.")
]

router = APIRouter(tags=["plans"], default_response_class=JsonResponse)


@router.post(
    "/plan",
    responses={200: response_body(PlanDescription, description="The plan of the playbook.")},
    openapi_extra={
        **playbook_body("SubmissionBody"),
        **problems("not-found", "invalid-playbook", "too-much-work", "tenant-busy", "service-busy"),
    },
)
async def describe_plan(
    request: Request, services: ReadServices, input_text: InputText = None, include: Include = None
) -> Response:
    """Return diagnostics, graph and statistics of the playbook in the body."""
    playbook, _ = await read_submission(request, input_text)
    text = await run_in_threadpool(services.playbooks.text, playbook)
    registry = await read_excerpt(request, services, text)
    job = DescribeJob(text, draws=include is not None, registry=registry)
    try:
        description = await perform(request, services, job)
    except WorkLimitError:
        if include is None:
            raise
        # The drawing took too long. The rest is still worth having.
        description = await perform(request, services, replace(job, draws=False))
    return Response(description, media_type=JsonResponse.media_type)
