"""Routes of limits: how many runs or steps may be in progress at once, or begin in a time.

Only an administrator changes them. The id of a playbook's or a step's own rate has a slash.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.openapi import problems, required_body, response_body
from noetl.api.http.parameters import LimitListQuery, LimitQueueQuery
from noetl.api.http.requests import read_limit_request
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import AdminServices, ReadServices
from noetl.api.service.limit_views import LimitEntry, LimitPage, LimitQueue

router = APIRouter(prefix="/limits", tags=["limits"], default_response_class=JsonResponse)

Limit = Annotated[
    str, Path(description="The name of a limit, or the id of a playbook's or a step's own.", examples=["api"])
]

Force = Annotated[bool, Query(description="Remove it although live versions of playbooks name it.")]


@router.get(
    "",
    responses={200: response_body(LimitPage, description="A page of limits.")},
    openapi_extra=problems("invalid-cursor"),
)
def list_limits(services: ReadServices, query: Annotated[LimitListQuery, Query()]) -> Response:
    """Return the limits of operators, or those of playbooks and steps that are in use, by their ids."""
    return JsonResponse(services.limits.find(in_use=query.in_use, limit=query.limit, cursor=query.cursor))


@router.get(
    "/{limit_name:path}/queue",
    responses={200: response_body(LimitQueue, description="What holds units, and what waits.")},
    openapi_extra=problems("not-found", "invalid-cursor"),
)
def get_queue(
    limit_name: Limit, services: ReadServices, query: Annotated[LimitQueueQuery, Query()]
) -> Response:
    """Return the runs and steps that hold units of a limit, then those that wait, in their order."""
    return JsonResponse(services.limits.queue(limit_name, limit=query.limit, cursor=query.cursor))


@router.get(
    "/{limit_name:path}",
    responses={200: response_body(LimitEntry, description="The limit.")},
    openapi_extra=problems("not-found"),
)
def get_limit(limit_name: Limit, services: ReadServices) -> Response:
    """Return a limit: how many units it has, how many are held, and how many runs and steps wait."""
    return JsonResponse(services.limits.get(limit_name))


@router.put(
    "/{limit_name}",
    responses={
        200: response_body(LimitEntry, description="The limit was changed."),
        201: response_body(LimitEntry, description="The limit was made."),
    },
    openapi_extra={
        **required_body("LimitBody"),
        **problems("invalid-limit", "too-many-limits", "shared-limit"),
    },
)
async def put_limit(limit_name: Limit, request: Request, services: AdminServices) -> Response:
    """Make a limit or a rate, or change how many units it has. What is held or reserved stays so."""
    units, kind, per = await read_limit_request(request)
    stored, is_new = await run_in_threadpool(services.limits.put, limit_name, units, kind, per=per)
    return JsonResponse(stored, 201 if is_new else 200)


@router.delete(
    "/{limit_name}",
    status_code=204,
    responses={204: {"description": "The limit was removed."}},
    openapi_extra=problems("not-found", "limit-in-use", "shared-limit"),
)
def remove_limit(limit_name: Limit, services: AdminServices, force: Force = False) -> Response:
    """Remove a limit that nothing holds or waits for, unless live versions of playbooks name it."""
    services.limits.remove(limit_name, is_forced=force)
    return Response(status_code=204)
