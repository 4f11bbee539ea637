"""Routes of backfills: start, show, pause, resume, cancel and retry them."""

from __future__ import annotations

from functools import partial
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.openapi import optional_body, problems, required_body, response_body
from noetl.api.http.parameters import BackfillQuery, IdempotencyKey, refuse_idempotency_key
from noetl.api.http.requests import read_backfill_cancellation, read_backfill_retry, read_backfill_start
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, RunServices, TenantThreads
from noetl.api.routes.workflows import REPLAYED
from noetl.api.service.backfill_views import BackfillEntry, BackfillPage

router = APIRouter(prefix="/backfills", tags=["triggers"], default_response_class=JsonResponse)

_starters = TenantThreads(2)
"""Threads that start backfills, which count up to 100,000 instants."""

BackfillId = Annotated[str, Path(description="The id of a backfill.", examples=["7c0b1f2ad1f04b0d9f1e2a3c"])]


@router.post(
    "",
    status_code=201,
    responses={
        201: response_body(
            BackfillEntry,
            description="The backfill was started.",
            headers=("Location", "Idempotency-Replayed"),
        )
    },
    openapi_extra={
        **required_body("BackfillBody"),
        **problems("not-found", "invalid-backfill", "idempotency-key-reused", "quota-exceeded"),
    },
)
async def start_backfill(
    request: Request, services: RunServices, idempotency_key: IdempotencyKey = None
) -> Response:
    """Start runs of a trigger for past instants, or for the partitions of a list."""
    playbook, trigger, start = await read_backfill_start(request, idempotency_key)
    start_now = partial(services.backfills.start, playbook, trigger, start)
    entry, is_replay = await _starters.run(request, services.tenant, start_now)
    location = f"{quote(request.scope.get('root_path', ''))}/backfills/{entry.id}"
    headers = {"Location": location} | (REPLAYED if is_replay else {})
    return JsonResponse(entry, 201, headers=headers)


@router.get(
    "",
    responses={200: response_body(BackfillPage, description="A page of backfills.")},
    openapi_extra=problems("invalid-cursor"),
)
def list_backfills(services: ReadServices, query: Annotated[BackfillQuery, Query()]) -> Response:
    """Return the backfills, the newest first. They are kept for a year."""
    return JsonResponse(services.backfills.find(limit=query.limit, cursor=query.cursor))


@router.get(
    "/{backfill_id}",
    responses={200: response_body(BackfillEntry, description="The backfill.")},
    openapi_extra=problems("not-found"),
)
def get_backfill(backfill_id: BackfillId, services: ReadServices) -> Response:
    """Return a backfill with its progress, its open runs, and the latest that have failed."""
    return JsonResponse(services.backfills.get(backfill_id))


@router.post(
    "/{backfill_id}/pause",
    responses={200: response_body(BackfillEntry, description="The backfill is paused.")},
    openapi_extra=problems("not-found", "backfill-ended", "backfill-changed"),
)
def pause_backfill(backfill_id: BackfillId, services: RunServices) -> Response:
    """Pause the backfill: it starts no run until it is resumed. A repeated request changes nothing."""
    return JsonResponse(services.backfills.pause(backfill_id))


@router.post(
    "/{backfill_id}/resume",
    responses={200: response_body(BackfillEntry, description="The backfill is not paused any more.")},
    openapi_extra=problems("not-found", "backfill-ended", "backfill-changed"),
)
def resume_backfill(backfill_id: BackfillId, services: RunServices) -> Response:
    """Resume the paused backfill. A repeated request changes nothing."""
    return JsonResponse(services.backfills.resume(backfill_id))


@router.post(
    "/{backfill_id}/cancel",
    responses={200: response_body(BackfillEntry, description="The backfill is cancelled.")},
    openapi_extra={
        **optional_body("BackfillCancelBody"),
        **problems("not-found", "backfill-ended", "backfill-changed"),
    },
)
async def cancel_backfill(backfill_id: BackfillId, request: Request, services: RunServices) -> Response:
    """Cancel the backfill: it starts no run any more. Its open runs go on, unless `runs` is true."""
    cancels_runs = await read_backfill_cancellation(request)
    return JsonResponse(
        await run_in_threadpool(services.backfills.cancel, backfill_id, cancels_runs=cancels_runs)
    )


@router.post(
    "/{backfill_id}/retry",
    dependencies=[Depends(refuse_idempotency_key)],
    responses={200: response_body(BackfillEntry, description="The failed runs are retried.")},
    openapi_extra={
        **optional_body("BackfillRetryBody"),
        **problems("not-found", "backfill-open", "backfill-ended", "backfill-changed", "quota-exceeded"),
    },
)
async def retry_backfill(backfill_id: BackfillId, request: Request, services: RunServices) -> Response:
    """Resume the failed runs of a backfill that has ended, or start new ones if `fresh` is true."""
    mode = await read_backfill_retry(request)
    return JsonResponse(await run_in_threadpool(services.backfills.retry, backfill_id, mode))
