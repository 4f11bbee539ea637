"""Plans: compile a playbook and say what it would do, with nothing run or stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from noetl.api.http.requests import Reference, read_submission
from noetl.api.http.responses import JSON, shaped
from noetl.api.routes.dependencies import PROBLEMS, ToRead
from noetl.api.routes.workflows import SUBMISSION
from noetl.api.service.errors import PlaybookError
from noetl.api.service.runs import Service
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

if TYPE_CHECKING:
    from noetl.planner.compile import Compilation

router = APIRouter(tags=["plans"], responses=PROBLEMS, default_response_class=JSON)


@router.post("/plan", responses={200: shaped("PlanAnswer")}, openapi_extra=SUBMISSION)
async def plan(request: Request, service: ToRead) -> Response:
    """Diagnostics, graph and statistics of the playbook in the body."""
    submission = await read_submission(request)
    compilation = await run_in_threadpool(_compile, service, submission.playbook)
    if compilation.plan is None:
        raise PlaybookError(compilation.diagnostics)
    described = compilation.plan.to_json()
    return JSON(
        {
            "name": described["name"],
            "version": described["version"],
            "hash": described["hash"],
            "diagnostics": [diagnostic.to_json() for diagnostic in compilation.diagnostics],
            "graph": {key: described[key] for key in ("start", "steps", "edges")},
            "inputs": described["inputs"],
            "statistics": described["statistics"],
        }
    )


def _compile(service: Service, playbook: str | bytes | Reference) -> Compilation:
    if isinstance(playbook, Reference):
        source: str = service.playbook(playbook.name, playbook.version)["source"]
        return service.compile(source)
    return service.compile(playbook)
