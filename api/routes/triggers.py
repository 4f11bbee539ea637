"""Routes of triggers: read them and their firings, fire them by hand, pause and resume them.

The name of a playbook may contain slashes. That of a trigger may not, and is the last segment of its path.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response

from noetl.api.http.openapi import optional_body, problems, response_body
from noetl.api.http.parameters import FiringCount, FiringQuery, IdempotencyKey, TriggerListQuery
from noetl.api.http.requests import read_catch_up, read_fire_request
from noetl.api.http.responses import AcceptedRun, JsonResponse, RunLinks
from noetl.api.routes.dependencies import (
    ReadServices,
    RunServices,
    TenantThreads,
    evaluated_elsewhere,
    read_values,
)
from noetl.api.routes.waiting import RETRY_AFTER
from noetl.api.routes.workflows import DEBOUNCED, REPLAYED
from noetl.api.service.trigger_views import FiringPage, TriggerDetails, TriggerEntry, TriggerPage
from noetl.api.service.triggers import NEXT_FIRINGS
from noetl.planner.syntax.names import RESERVED_TRIGGER_NAMES

router = APIRouter(prefix="/triggers", tags=["triggers"], default_response_class=JsonResponse)

_starters = TenantThreads(2)
"""Threads that start runs by hand. Other processes evaluate their expressions."""


class _TriggerNameConvertor(StringConvertor):
    """The part of a path that names a trigger: no segment that other routes have."""

    regex = rf"(?!(?:{'|'.join(RESERVED_TRIGGER_NAMES)})(?:/|$))[^/]+"


register_url_convertor("trigger", _TriggerNameConvertor())

Playbook = Annotated[
    str, Path(description="The name of a playbook. A slash may stand as it is.", examples=["greet"])
]
Trigger = Annotated[str, Path(description="The name of a trigger of the playbook.", examples=["nightly"])]


@router.get(
    "",
    responses={200: response_body(TriggerPage, description="A page of triggers.")},
    openapi_extra=problems("invalid-cursor"),
)
async def list_triggers(
    request: Request, services: ReadServices, query: Annotated[TriggerListQuery, Query()]
) -> Response:
    """Return the triggers of the live versions of all playbooks, or of one, in the order of their names."""
    read = partial(services.triggers.find, query.playbook, limit=query.limit, cursor=query.cursor)
    return JsonResponse(await read_values(request, services, read))


@router.get(
    "/{playbook:path}/{trigger:trigger}/firings",
    responses={200: response_body(FiringPage, description="A page of firings.")},
    openapi_extra=problems("not-found", "invalid-cursor"),
)
def list_firings(
    playbook: Playbook, trigger: Trigger, services: ReadServices, query: Annotated[FiringQuery, Query()]
) -> Response:
    """Return the firings of a trigger, the newest first, also of one that was removed."""
    page = services.triggers.firings(playbook, trigger, limit=query.limit, cursor=query.cursor)
    return JsonResponse(page)


@router.post(
    "/{playbook:path}/{trigger:trigger}/fire",
    status_code=202,
    responses={
        202: response_body(
            AcceptedRun,
            description="The run was accepted.",
            headers=("Location", "Retry-After", "Idempotency-Replayed", "Debounced"),
        )
    },
    openapi_extra={
        **optional_body("FireBody"),
        **problems(
            "not-found",
            "not-scheduled",
            "invalid-input",
            "trigger-changed",
            "too-much-work",
            "tenant-busy",
            "service-busy",
        ),
    },
)
async def fire_trigger(
    playbook: Playbook,
    trigger: Trigger,
    request: Request,
    services: RunServices,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start the run of a firing by hand: now, or that of an instant of the schedule."""
    fire = await read_fire_request(request, idempotency_key)
    fire_now = evaluated_elsewhere(
        request, services, partial(services.triggers.fire, playbook, trigger, fire)
    )
    run, is_replay = await _starters.run(request, services.tenant, fire_now)
    links = RunLinks.of_run(request, run.id)
    headers = {"Location": links.status} | RETRY_AFTER | (REPLAYED if is_replay else {})
    headers |= DEBOUNCED if run.is_joined else {}
    return JsonResponse(AcceptedRun.from_run(run, links), 202, headers=headers)


@router.post(
    "/{playbook:path}/{trigger:trigger}/pause",
    responses={200: response_body(TriggerEntry, description="The trigger is paused.")},
    openapi_extra=problems("not-found", "trigger-changed"),
)
def pause_trigger(playbook: Playbook, trigger: Trigger, services: RunServices) -> Response:
    """Pause the trigger: it does not fire until it is resumed. A repeated request changes nothing."""
    return JsonResponse(services.triggers.pause(playbook, trigger))


@router.post(
    "/{playbook:path}/{trigger:trigger}/resume",
    responses={200: response_body(TriggerEntry, description="The trigger is not paused any more.")},
    openapi_extra={
        **optional_body("TriggerResumeBody"),
        **problems("not-found", "invalid-input", "trigger-changed"),
    },
)
async def resume_trigger(
    playbook: Playbook, trigger: Trigger, request: Request, services: RunServices
) -> Response:
    """Resume the trigger. Its missed firings are recorded, and performed as `catch_up` says.

    A repeated request changes nothing.
    """
    catch_up = await read_catch_up(request)
    return JsonResponse(await run_in_threadpool(services.triggers.resume, playbook, trigger, catch_up))


@router.get(
    "/{playbook:path}/{trigger:trigger}",
    responses={200: response_body(TriggerDetails, description="The trigger.")},
    openapi_extra=problems("not-found"),
)
def get_trigger(
    playbook: Playbook,
    trigger: Trigger,
    services: ReadServices,
    firings: Annotated[FiringCount, Query(description="How many firings to come are shown.")] = NEXT_FIRINGS,
) -> Response:
    """Return a trigger with its declaration, its latest firing, and its next firings."""
    return JsonResponse(services.triggers.get(playbook, trigger, firings))
