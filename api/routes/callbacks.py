"""Routes of callbacks: an external system or a person completes a waiting step, or reports a heartbeat.

The token in the path is the credential, and its holder has no other. So no authentication may be required on
these routes. No response and no log contains the token (`problems.redact_path`).

A browser that opens the address receives a form. It changes nothing, because programs open links in messages
before a person does. The form is sent to the same address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.access import peer_address
from noetl.api.callback_form.fields import answer_from_form
from noetl.api.callback_form.page import accepted_page, problem_page, question_page
from noetl.api.http.negotiation import choose_media_type
from noetl.api.http.openapi import (
    FORM_TYPE,
    HTML_TYPE,
    JSON_TYPE,
    NO_SECURITY,
    PROBLEM_PAGES,
    problems,
    response_body,
)
from noetl.api.http.problems import problem_from
from noetl.api.http.request_shares import place_of
from noetl.api.http.requests import FormBody, read_callback_answer
from noetl.api.http.responses import CallbackReceipt, JsonResponse
from noetl.api.routes.dependencies import PublicTenantServices, opened_services
from noetl.api.service.inbox_views import CallbackQuestion
from noetl.api.service.services import TenantServices
from noetl.executor.engine.external import CALLBACK_PATH
from noetl.executor.errors import RejectedError
from noetl.executor.precedence import without_precedence

router = APIRouter(
    prefix=CALLBACK_PATH.rstrip("/"),
    tags=["callbacks"],
    default_response_class=JsonResponse,
)

Token = Annotated[
    str, Path(description="The token of the wait. It is the credential.", examples=["c2VjcmV0LXRva2Vu"])
]

Found = TypeVar("Found")

_RECEIPT = response_body(CallbackReceipt, description="It was accepted.")
_ANSWERED = response_body(CallbackReceipt, HTML_TYPE, description="It was accepted.")
_ANSWER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            JSON_TYPE: {
                "schema": {"description": "Any value; none is null."},
                "example": {"approved": True},
            },
            FORM_TYPE: {
                "schema": {"type": "object", "additionalProperties": {"type": "string"}},
                "example": {"approved": "true"},
            },
        },
    }
}


@router.get(
    "/{token}",
    responses={200: response_body(CallbackQuestion, HTML_TYPE, description="The question.")},
    openapi_extra={
        **NO_SECURITY,
        **PROBLEM_PAGES,
        **problems("unknown-token", "payload-lost", "closed", "too-many-requests"),
    },
)
async def get_callback_form(token: Token, request: Request, services: PublicTenantServices) -> Response:
    """Return the question of a waiting step: a form for browsers, else JSON. It never answers."""

    async def show() -> Response:
        question = await _with_limits(request, token, services.callbacks.question)
        # A plan chooses how much there is to write.
        if _prefers_page(request):
            return await run_in_threadpool(question_page, question)
        return await run_in_threadpool(JsonResponse, question, headers={"Cache-Control": "no-store"})

    return await _with_problem_page(request, show)


@router.post(
    "/{token}",
    status_code=202,
    responses={202: _ANSWERED},
    openapi_extra={
        **NO_SECURITY,
        **PROBLEM_PAGES,
        **_ANSWER_BODY,
        **problems(
            "unknown-token",
            "answered-otherwise",
            "payload-lost",
            "closed",
            "too-large",
            "invalid-answer",
            "malformed-form",
            "too-many-requests",
        ),
    },
)
async def answer_callback(token: Token, request: Request, services: PublicTenantServices) -> Response:
    """Accept the body as the answer of a waiting step. The same answer again changes nothing."""

    async def accept() -> Response:
        await _check_token(request, services, token)
        body = await read_callback_answer(request)
        if body is None and _prefers_page(request):
            body = FormBody({})  # A browser sends a form without a choice as an empty body.
        if isinstance(body, FormBody):
            return await run_in_threadpool(_answer_by_form, request, services, token, body)
        await run_in_threadpool(services.callbacks.answer, token, body)
        return _accepted()

    return await _with_problem_page(request, accept)


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


def _answer_by_form(request: Request, services: TenantServices, token: str, form: FormBody) -> Response:
    """Answer with a form. If its answer is invalid, a browser receives the form again, with what was typed.

    Raises:
        RejectedError: as `CallbackService.answer` does.
    """
    try:
        answer = answer_from_form(form.texts, services.callbacks.declared_answer(token))
        services.callbacks.answer(token, answer)
    except RejectedError as error:
        if error.reason != "invalid_answer" or not _prefers_page(request):
            raise
        problem = problem_from(request, error)
        return question_page(services.callbacks.question(token), problem.status, form.texts, problem)
    return accepted_page() if _prefers_page(request) else _accepted()


async def _check_token(request: Request, services: TenantServices, token: str) -> None:
    """Count a request of its address, and raise unless its token was given out.

    Raises:
        Problem: 429.
        RejectedError: `unknown_token`.
    """
    await _with_limits(request, token, services.callbacks.check_token)


async def _with_limits(request: Request, token: str, find: Callable[[str], Found]) -> Found:
    """Count a request of its address, and return find(token).

    Tokens that were found lately are looked up whatever others at the address have sent.

    Raises:
        Problem: 429.
        RejectedError: as `find`. An unknown token is counted once more. Beyond the limit it is 429, and far
            beyond it no token is looked up that was not found lately.
    """
    limits, address = opened_services(request).limits, peer_address(request.scope)
    is_familiar = limits.familiar_tokens.tenant_of(token) is not None
    # What is not looked up is not counted, because it would take the requests of others at the address.
    attempt = None if is_familiar else limits.unknown_tokens.begin(address)
    with attempt or nullcontext():
        limits.callbacks.take(address)
        try:
            if attempt is None or attempt.refusal is None:
                found = await run_in_threadpool(find, token)
            else:
                async with place_of(request).given_up(), limits.spare_checks.place(address, attempt.refusal):
                    found = await run_in_threadpool(without_precedence()(find), token)
        except RejectedError as error:
            if error.reason == "unknown_token" and attempt is not None:
                attempt.fail()
            elif error.reason == "unknown_token":
                limits.familiar_tokens.forget(token)  # Its run was deleted.
                limits.unknown_tokens.take(address)
            raise
    limits.familiar_tokens.add(token)
    return found


def _prefers_page(request: Request) -> bool:
    return choose_media_type(request.headers.getlist("accept"), (JSON_TYPE, HTML_TYPE)) == HTML_TYPE


async def _with_problem_page(request: Request, respond: Callable[[], Awaitable[Response]]) -> Response:
    """Return the response, or the page of its problem if the client prefers pages.

    Raises:
        Exception: the problem, for another client; an unexpected error.
    """
    try:
        return await respond()
    except Exception as error:
        if not _prefers_page(request):
            raise
        return problem_page(problem_from(request, error))


def _accepted() -> Response:
    return JsonResponse(CallbackReceipt(status="accepted"), 202, headers={"Cache-Control": "no-store"})
