"""Route of plans: compile a playbook and describe it, without running or storing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.requests import PlaybookReference, read_submission
from noetl.api.http.responses import JsonResponse, body_schema
from noetl.api.routes.dependencies import PROBLEMS, ReadService
from noetl.api.routes.workflows import SUBMISSION_BODY
from noetl.api.service.errors import PlaybookError
from noetl.api.service.runs import Service

if TYPE_CHECKING:
    from noetl.planner.compile import Compilation

router = APIRouter(tags=["plans"], responses=PROBLEMS, default_response_class=JsonResponse)


@router.post("/plan", responses={200: body_schema("PlanAnswer")}, openapi_extra=SUBMISSION_BODY)
async def plan(request: Request, service: ReadService) -> Response:
    """Return diagnostics, graph and statistics of the playbook in the body."""
    submission = await read_submission(request)
    compilation = await run_in_threadpool(_compile, service, submission.playbook)
    if compilation.plan is None:
        raise PlaybookError(compilation.diagnostics)
    document = compilation.plan.to_json()
    return JsonResponse(
        {
            "name": document["name"],
            "version": document["version"],
            "hash": document["hash"],
            "diagnostics": [diagnostic.to_json() for diagnostic in compilation.diagnostics],
            "graph": {key: document[key] for key in ("start", "steps", "edges")},
            "inputs": document["inputs"],
            "statistics": document["statistics"],
        }
    )


def _compile(service: Service, playbook: str | bytes | PlaybookReference) -> Compilation:
    if isinstance(playbook, PlaybookReference):
        source: str = service.playbook(playbook.name, playbook.version)["source"]
        return service.compile(source)
    return service.compile(playbook)
