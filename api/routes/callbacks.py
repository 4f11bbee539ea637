"""Routes of callbacks: an external system completes a waiting step or reports a heartbeat.

The token in the path is the credential, and its holder has no other. So no authentication may be required on
these two routes. No response and no log contains the token (`problems.redact_path`).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.access import peer_address
from noetl.api.http.openapi import NO_SECURITY, problems, response_body
from noetl.api.http.requests import read_callback_answer
from noetl.api.http.responses import CallbackReceipt, JsonResponse
from noetl.api.routes.dependencies import PublicTenantServices, opened_services
from noetl.api.service.services import TenantServices
from noetl.executor.engine.external import CALLBACK_PATH

router = APIRouter(
    prefix=CALLBACK_PATH.rstrip("/"),
    tags=["callbacks"],
    default_response_class=JsonResponse,
)

Token = Annotated[
    str, Path(description="The token of the wait. It is the credential.", examples=["c2VjcmV0LXRva2Vu"])
]

_RECEIPT = response_body(CallbackReceipt, description="It was accepted.")
_ANSWER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {"description": "Any value; none is null."},
                "example": {"approved": True},
            }
        },
    }
}


@router.post(
    "/{token}",
    status_code=202,
    responses={202: _RECEIPT},
    openapi_extra={
        **NO_SECURITY,
        **_ANSWER_BODY,
        **problems(
            "unknown-token",
            "answered-otherwise",
            "payload-lost",
            "closed",
            "too-large",
            "invalid-answer",
            "too-many-requests",
        ),
    },
)
async def answer_callback(token: Token, request: Request, services: PublicTenantServices) -> Response:
    """Accept the body as the answer of a waiting step. The same answer again changes nothing."""
    await _check_token(request, services, token)
    body = await read_callback_answer(request)
    await run_in_threadpool(services.callbacks.answer, token, body)
    return _accepted()


@router.post(
    "/{token}/heartbeat",
    status_code=202,
    responses={202: _RECEIPT},
    openapi_extra={**NO_SECURITY, **problems("unknown-token", "closed", "too-many-requests")},
)
async def record_heartbeat(token: Token, request: Request, services: PublicTenantServices) -> Response:
    """Record that the answer is still being worked on. The body is not read."""
    await _check_token(request, services, token)
    await run_in_threadpool(services.callbacks.record_heartbeat, token)
    return _accepted()


async def _check_token(request: Request, services: TenantServices, token: str) -> None:
    """Count a request of its address, and raise unless its token was given out.

    Raises:
        Problem: 429.
        RejectedError: `unknown_token`.
    """
    limits, address = opened_services(request).limits, peer_address(request.scope)
    limits.callbacks.take(address)
    limits.unknown_tokens.take(address)
    await run_in_threadpool(services.callbacks.check_token, token)
    limits.unknown_tokens.give_back(address)


def _accepted() -> Response:
    return JsonResponse(CallbackReceipt(status="accepted"), 202, headers={"Cache-Control": "no-store"})
