"""Routes of runs: start, status, result, list, cancel and resume."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.problems import Problem
from noetl.api.http.requests import (
    PlaybookReference,
    ResumeRequest,
    Submission,
    check_query_names,
    read_idempotency_key,
    read_resume_request,
    read_submission,
    read_wait_seconds,
)
from noetl.api.http.responses import JsonResponse, body_schema
from noetl.api.routes.dependencies import (
    PROBLEMS,
    RETRY_AFTER,
    ReadService,
    RunService,
    run_links,
    wait_until_finished,
)
from noetl.api.service.runs import Service, result_body, summary_body
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.tracing import parse_traceparent

router = APIRouter(
    prefix="/workflows", tags=["workflows"], responses=PROBLEMS, default_response_class=JsonResponse
)

SUBMISSION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/yaml": {"schema": {"type": "string", "description": "The playbook."}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["playbook"],
                    "additionalProperties": False,
                    "properties": {
                        "playbook": {
                            "oneOf": [{"type": "string"}, {"type": "object"}],
                            "description": "The playbook as text or JSON, or `{name, version?}`.",
                        },
                        "input": {"type": "object"},
                        "variables": {"type": "object"},
                        "tags": {"type": "array", "items": {"type": "string"}},
                    },
                }
            },
        },
    }
}
_START_REQUEST: dict[str, Any] = {
    **SUBMISSION_BODY,
    "parameters": [
        {
            "name": "input",
            "in": "query",
            "schema": {"type": "string"},
            "description": "The run's input as a JSON object, where the body is YAML.",
        },
        {
            "name": "Prefer",
            "in": "header",
            "schema": {"type": "string"},
            "description": "`wait=N`: return the result if the run finishes within N seconds, 25 at most.",
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string"},
            "description": "The same key with the same body starts one run.",
        },
        {
            "name": "traceparent",
            "in": "header",
            "schema": {"type": "string"},
            "description": "W3C Trace Context: the requests of the run and its log belong to this trace.",
        },
    ],
}
_RESUME_REQUEST: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "input": {
                            "type": "object",
                            "description": "Values that replace those of the run's input.",
                        },
                        "from": {"type": "string", "description": "The step at which a new run starts."},
                    },
                }
            }
        }
    },
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string"},
            "description": "With `from`: the same key with the same body starts one run.",
        }
    ],
}


@router.post(
    "/run",
    status_code=202,
    responses={202: body_schema("Accepted"), 200: body_schema("Result")},
    openapi_extra=_START_REQUEST,
)
async def run(request: Request, service: RunService) -> Response:
    """Start a run of the playbook in the body, or of a registered one."""
    key = read_idempotency_key(request)
    wait_seconds = read_wait_seconds(request)
    submission = await read_submission(request)
    trace = parse_traceparent(request.headers.get("traceparent"))
    run = await run_in_threadpool(_start, service, submission, key, trace)
    links = run_links(request, run.id)
    headers = {"Location": links["status"]}
    if wait_seconds is not None:
        headers["Preference-Applied"] = f"wait={wait_seconds}"
        run = await wait_until_finished(request, service, run, wait_seconds)
        if run.status.is_final:
            return JsonResponse(result_body(run), headers=headers)
    accepted = {
        "workflow_id": run.id,
        "status": run.status.value,
        "playbook": run.playbook,
        "plan_hash": run.plan_hash,
        "links": links,
    }
    return JsonResponse(accepted, 202, headers=headers | RETRY_AFTER)


@router.get(
    "/status/{workflow_id}", responses={200: body_schema("Status"), 304: {"description": "As before"}}
)
def status(workflow_id: str, request: Request, service: ReadService) -> Response:
    """Return the status of the run and of each of its steps."""
    response = JsonResponse(service.status(workflow_id))
    etag = f'"{hashlib.sha256(bytes(response.body)).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if _matches(request.headers.getlist("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


@router.get("/result/{workflow_id}", responses={200: body_schema("Result"), 202: body_schema("Result")})
def result(workflow_id: str, service: ReadService) -> Response:
    """Return the result of the run; 202 while it has not finished."""
    body = service.result(workflow_id)
    if RunStatus(body["status"]).is_final:
        return JsonResponse(body)
    return JsonResponse(body, 202, headers=RETRY_AFTER)


@router.get("", responses={200: body_schema("RunPage")})
def runs(
    request: Request,
    service: ReadService,
    status: RunStatus | None = None,
    playbook: str | None = None,
    tag: str | None = None,
    since: datetime | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: str | None = None,
) -> Response:
    """Return the runs, the newest first. `since` excludes runs that were created before it."""
    check_query_names(request, ("status", "playbook", "tag", "since", "limit", "cursor"))
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    return JsonResponse(
        service.runs(
            status=status,
            playbook=playbook,
            tag=tag,
            since=None if since is None else since.timestamp(),
            limit=limit,
            cursor=cursor,
        )
    )


@router.post("/{workflow_id}/cancel", status_code=202, responses={202: body_schema("Summary")})
def cancel(workflow_id: str, request: Request, service: RunService) -> Response:
    """Cancel the run: abandon its work and start nothing new. A repeated request changes nothing."""
    _refuse_local_run(service, workflow_id, "cancel")
    body = service.cancel(workflow_id)
    headers = {"Location": run_links(request, workflow_id)["status"]} | RETRY_AFTER
    return JsonResponse(body, 202, headers=headers)


@router.post(
    "/{workflow_id}/resume",
    status_code=202,
    responses={202: body_schema("Summary")},
    openapi_extra=_RESUME_REQUEST,
)
async def resume(workflow_id: str, request: Request, service: RunService) -> Response:
    """Resume the run at its failed and parked steps, with corrected input if given.

    With `from`, start a new run at another step of it instead.
    """
    key = read_idempotency_key(request)
    resume_request = await read_resume_request(request)
    body = await run_in_threadpool(_resume, service, workflow_id, resume_request, key)
    headers = {"Location": run_links(request, body["workflow_id"])["status"]} | RETRY_AFTER
    return JsonResponse(body, 202, headers=headers)


def _start(service: Service, submission: Submission, key: str | None, trace: str | None) -> Run:
    options: dict[str, Any] = {
        "input": submission.input,
        "variables": submission.variables,
        "tags": submission.tags,
        "idempotency_key": key,
        "trace": trace,
    }
    playbook = submission.playbook
    if isinstance(playbook, PlaybookReference):
        return service.start_registered(playbook.name, playbook.version, **options)
    return service.start(playbook, **options)


def _resume(service: Service, workflow_id: str, request: ResumeRequest, key: str | None) -> dict[str, Any]:
    _refuse_local_run(service, workflow_id, "resume")
    if request.step is None:
        return service.resume(workflow_id, request.input)
    return summary_body(service.start_from(workflow_id, request.step, request.input, idempotency_key=key))


def _refuse_local_run(service: Service, workflow_id: str, command: str) -> None:
    """Raise a problem if the run was started by `noetl run`: no worker of a service executes it."""
    if service.run(workflow_id).origin != "service":
        detail = f"The run was started from a local file; use `noetl runs {command} {workflow_id}`."
        raise Problem(409, detail, slug="local-run")


def _matches(if_none_match: list[str], etag: str) -> bool:
    # Weak comparison, as RFC 9110 requires for If-None-Match.
    candidates = [entry.strip().removeprefix("W/") for entry in ",".join(if_none_match).split(",")]
    return etag in candidates or "*" in candidates
