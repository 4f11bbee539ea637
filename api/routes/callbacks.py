"""Routes of callbacks: an external system completes a waiting step or reports a heartbeat.

The token in the path is the credential, and its holder has no other. So no authentication may be required on
these two routes. No response and no log contains the token (`problems.redact_path`).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.requests import read_callback_answer
from noetl.api.http.responses import JsonResponse, body_schema
from noetl.api.routes.dependencies import PROBLEMS, PublicService
from noetl.executor.engine.external import CALLBACK_PATH

router = APIRouter(
    prefix=CALLBACK_PATH.rstrip("/"),
    tags=["callbacks"],
    responses=PROBLEMS,
    default_response_class=JsonResponse,
)

_NO_SECURITY: dict[str, Any] = {"security": []}
"""OpenAPI description of a route without authentication."""

_ANSWER_BODY: dict[str, Any] = _NO_SECURITY | {
    "requestBody": {"content": {"application/json": {"schema": {"description": "Any value; none is null."}}}}
}


@router.post("/{token}", status_code=202, responses={202: body_schema("Taken")}, openapi_extra=_ANSWER_BODY)
async def answer(token: str, request: Request, service: PublicService) -> Response:
    """Accept the body as the answer of a waiting step. The same answer again changes nothing."""
    body = await read_callback_answer(request)
    await run_in_threadpool(service.answer, token, body)
    return _accepted()


@router.post(
    "/{token}/heartbeat",
    status_code=202,
    responses={202: body_schema("Taken")},
    openapi_extra=_NO_SECURITY,
)
def heartbeat(token: str, service: PublicService) -> Response:
    """Record that the answer is still being worked on. The body is not read."""
    service.record_heartbeat(token)
    return _accepted()


def _accepted() -> Response:
    return JsonResponse({"status": "accepted"}, 202, headers={"Cache-Control": "no-store"})
