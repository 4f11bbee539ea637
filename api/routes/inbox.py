"""Routes of the inbox: what runs ask persons, and answers of callers that have a key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.openapi import problems, required_body, response_body
from noetl.api.http.parameters import InboxQuery
from noetl.api.http.requests import read_answer_request
from noetl.api.http.responses import JsonResponse, LargeJsonResponse
from noetl.api.routes.dependencies import ReadServices, RunId, RunServices, read_values
from noetl.api.service.inbox_views import InboxPage
from noetl.api.service.views import CurrentStatus

router = APIRouter(tags=["workflows"], default_response_class=JsonResponse)


@router.get(
    "/inbox",
    responses={200: response_body(InboxPage, description="A page of questions.")},
    openapi_extra=problems("invalid-cursor"),
)
async def list_questions(
    request: Request, services: ReadServices, query: Annotated[InboxQuery, Query()]
) -> Response:
    """Return what runs ask persons. What expires first comes first."""

    def read() -> Response:
        return LargeJsonResponse(services.inbox.find(query.cursor, query.limit))

    return await read_values(request, services, read)


@router.post(
    "/workflows/{workflow_id}/answer",
    status_code=202,
    responses={202: response_body(CurrentStatus, description="The answer was accepted.")},
    openapi_extra={
        **required_body("AnswerBody"),
        **problems(
            "not-found",
            "ambiguous-question",
            "answered-otherwise",
            "payload-lost",
            "closed",
            "too-large",
            "invalid-answer",
        ),
    },
)
async def answer_question(workflow_id: RunId, request: Request, services: RunServices) -> Response:
    """Answer a question of a waiting step without its token. The same answer again changes nothing."""
    answer = await read_answer_request(request)

    def give() -> CurrentStatus:
        key = services.inbox.answer(workflow_id, answer)
        return CurrentStatus(workflow_id=key.run_id, status=services.runs.summary(key.run_id).status)

    return JsonResponse(await run_in_threadpool(give), 202)
