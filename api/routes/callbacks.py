"""Callbacks: what the outside sends to a step that waits for it.

The token in the address is the credential, and whoever holds it holds no other: no authentication of any kind may be put
before these two routes. It is shown in no answer and no log (`problems.shown`).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from noetl.api.http.requests import read_answer
from noetl.api.http.responses import JSON, shaped
from noetl.api.routes.dependencies import PROBLEMS, ForAll
from noetl.executor.engine.external import CALLBACKS
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

router = APIRouter(
    prefix=CALLBACKS.rstrip("/"), tags=["callbacks"], responses=PROBLEMS, default_response_class=JSON
)

_OPEN: dict[str, Any] = {"security": []}
"""OpenAPI's word for: no authentication, whatever the rest of the service asks for."""

_ANSWER: dict[str, Any] = _OPEN | {
    "requestBody": {"content": {"application/json": {"schema": {"description": "Any value; none is null."}}}}
}


@router.post("/{token}", status_code=202, responses={202: shaped("Taken")}, openapi_extra=_ANSWER)
async def answer(token: str, request: Request, service: ForAll) -> Response:
    """The body is the answer that a step waits for. The same answer again changes nothing."""
    body = await read_answer(request)
    await run_in_threadpool(service.answer, token, body)
    return _taken()


@router.post("/{token}/heartbeat", status_code=202, responses={202: shaped("Taken")}, openapi_extra=_OPEN)
def heartbeat(token: str, service: ForAll) -> Response:
    """Whoever is to answer is still at work. The body is not read."""
    service.hear(token)
    return _taken()


def _taken() -> Response:
    return JSON({"status": "accepted"}, 202, headers={"Cache-Control": "no-store"})
