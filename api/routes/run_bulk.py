"""Routes that cancel, pause, unpause, resume, migrate or delete many runs with one request."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.access import caller_name
from noetl.api.http.openapi import optional_body, problems, required_body, response_body
from noetl.api.http.parameters import BulkQuery, IdempotencyKey, refuse_idempotency_key
from noetl.api.http.requests import read_migration, read_run_selection
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import RunServices
from noetl.api.routes.switching import compile_change, judge_elsewhere, switch_on_thread
from noetl.api.service.views import BulkReport

router = APIRouter(prefix="/workflows/bulk", tags=["workflows"], default_response_class=JsonResponse)

_REQUEST: dict[str, Any] = {**optional_body("BulkBody"), **problems("ambiguous-selection", "invalid-cursor")}


@router.post(
    "/cancel",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted are cancelled.")},
    openapi_extra=_REQUEST,
)
async def cancel_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Cancel the runs that the body names or the filter selects, up to 100, and continue at the cursor."""
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.cancel, selection), 202)


@router.post(
    "/pause",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted are paused.")},
    openapi_extra=_REQUEST,
)
async def pause_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Pause the runs that the body names or the filter selects, up to 100, and continue at the cursor."""
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.pause, selection, caller_name(request)), 202)


@router.post(
    "/unpause",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted continue.")},
    openapi_extra=_REQUEST,
)
async def unpause_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Continue the paused runs that the body names or the filter selects, and go on at the cursor."""
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.unpause, selection, caller_name(request)), 202)


@router.post(
    "/resume",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted continue.")},
    openapi_extra=_REQUEST,
)
async def resume_runs(
    request: Request,
    services: RunServices,
    query: Annotated[BulkQuery, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Resume the runs that the body names or the filter selects, up to 100, and continue at the cursor.

    The same `Idempotency-Key` resumes a run once, also if it has failed again since.
    """
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.resume, selection, idempotency_key), 202)


@router.post(
    "/migrate",
    status_code=202,
    responses={
        202: response_body(BulkReport, description="The runs that were accepted continue in the version.")
    },
    openapi_extra={
        **required_body("MigrationBody"),
        **problems(
            "ambiguous-selection",
            "invalid-cursor",
            "conflicting-members",
            "other-playbook",
            "not-found",
            "invalid-playbook",
            "too-much-work",
            "tenant-busy",
            "service-busy",
        ),
    },
)
async def migrate_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Let open runs continue in another version, up to 100, and go on at the cursor. Others are skipped.

    The body names the runs, or the filter selects those of the playbook. A dry run changes nothing. With
    `undo`, runs that have not gone on since return to the version that they had before.
    """
    migration = await read_migration(request, query.to_selection())
    if migration.change is None:
        await refuse_idempotency_key(request)  # Sent twice, it may undo two switches.
        undo = partial(
            services.bulk.undo_migration,
            migration.selection,
            caller_name(request),
            is_dry_run=migration.is_dry_run,
        )
        return JsonResponse(await switch_on_thread(request, services, undo), 202)
    change = replace(await compile_change(request, services, migration.change), caller=caller_name(request))
    judge = judge_elsewhere(request, services)

    def migrate() -> BulkReport:
        return services.bulk.migrate(migration.selection, change, judge, is_dry_run=migration.is_dry_run)

    return JsonResponse(await switch_on_thread(request, services, migrate), 202)


@router.post(
    "/delete",
    status_code=202,
    responses={202: response_body(BulkReport, description="The runs that were accepted are deleted.")},
    openapi_extra=_REQUEST,
)
async def delete_runs(
    request: Request, services: RunServices, query: Annotated[BulkQuery, Query()]
) -> Response:
    """Delete the runs that the body names or the filter selects, up to 100, and continue at the cursor."""
    selection = await read_run_selection(request, query.to_selection())
    return JsonResponse(await run_in_threadpool(services.bulk.delete, selection), 202)
