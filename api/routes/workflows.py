"""Runs: start one, ask how it stands and what came out, list them, stop one, go on with one."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from noetl.api.http.problems import Problem
from noetl.api.http.requests import (
    Reference,
    Resumption,
    Submission,
    idempotency_key,
    known_query,
    preferred_wait_seconds,
    read_resumption,
    read_submission,
)
from noetl.api.http.responses import JSON, shaped
from noetl.api.routes.dependencies import PROBLEMS, RETRY_AFTER, ToRead, ToRun, finished_within, links
from noetl.api.service.runs import Service, result_of, summary_of
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.tracing import read_traceparent
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

router = APIRouter(prefix="/workflows", tags=["workflows"], responses=PROBLEMS, default_response_class=JSON)

SUBMISSION: dict[str, Any] = {
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
                            "description": "The playbook as text or as JSON, or `{name, version?}` of one that is registered.",
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
_START: dict[str, Any] = {
    **SUBMISSION,
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
            "description": "`wait=N`: answer with the result if the run finishes within N seconds, 25 at most.",
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
            "description": "W3C Trace Context: what the run does, and its log, belong to this trace.",
        },
    ],
}
_RESUME: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "input": {"type": "object", "description": "Laid over the run's input."},
                        "from": {"type": "string", "description": "The step that a new run goes on from."},
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
    "/run", status_code=202, responses={202: shaped("Accepted"), 200: shaped("Result")}, openapi_extra=_START
)
async def run(request: Request, service: ToRun) -> Response:
    """Start a run of the playbook in the body, or of one that is registered."""
    key = idempotency_key(request)
    wait_seconds = preferred_wait_seconds(request)
    submission = await read_submission(request)
    run = await run_in_threadpool(
        _start, service, submission, key, read_traceparent(request.headers.get("traceparent"))
    )
    found = links(request, run.id)
    headers = {"Location": found["status"]}
    if wait_seconds is not None:
        headers["Preference-Applied"] = f"wait={wait_seconds}"
        run = await finished_within(request, service, run, wait_seconds)
        if run.status.is_final:
            return JSON(result_of(run), headers=headers)
    accepted = {
        "workflow_id": run.id,
        "status": run.status.value,
        "playbook": run.playbook,
        "plan_hash": run.plan_hash,
        "links": found,
    }
    return JSON(accepted, 202, headers=headers | RETRY_AFTER)


@router.get("/status/{workflow_id}", responses={200: shaped("Status"), 304: {"description": "As before"}})
def status(workflow_id: str, request: Request, service: ToRead) -> Response:
    """How the run and each of its steps stand."""
    answer = JSON(service.status(workflow_id))
    tag = f'"{hashlib.sha256(bytes(answer.body)).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if _matches(request.headers.getlist("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    answer.headers.update(headers)
    return answer


@router.get("/result/{workflow_id}", responses={200: shaped("Result"), 202: shaped("Result")})
def result(workflow_id: str, service: ToRead) -> Response:
    """What came out of the run; 202 while it has not finished."""
    body = service.result(workflow_id)
    if RunStatus(body["status"]).is_final:
        return JSON(body)
    return JSON(body, 202, headers=RETRY_AFTER)


@router.get("", responses={200: shaped("RunPage")})
def runs(
    request: Request,
    service: ToRead,
    status: RunStatus | None = None,
    playbook: str | None = None,
    tag: str | None = None,
    since: datetime | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: str | None = None,
) -> Response:
    """The runs, the newest first; `since` is a time at or after which they were created."""
    known_query(request, ("status", "playbook", "tag", "since", "limit", "cursor"))
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    return JSON(
        service.runs(
            status=status,
            playbook=playbook,
            tag=tag,
            since=None if since is None else since.timestamp(),
            limit=limit,
            cursor=cursor,
        )
    )


@router.post("/{workflow_id}/cancel", status_code=202, responses={202: shaped("Summary")})
def cancel(workflow_id: str, request: Request, service: ToRun) -> Response:
    """What is at work is given up and nothing new starts; the run ends as cancelled. A repeat changes nothing."""
    _refuse_local(service, workflow_id, "cancel")
    body = service.cancel(workflow_id)
    return JSON(body, 202, headers={"Location": links(request, workflow_id)["status"]} | RETRY_AFTER)


@router.post(
    "/{workflow_id}/resume", status_code=202, responses={202: shaped("Summary")}, openapi_extra=_RESUME
)
async def resume(workflow_id: str, request: Request, service: ToRun) -> Response:
    """The run goes on from its failed and parked steps, with corrected input if given; or a new run goes on from another
    step of it.
    """
    key = idempotency_key(request)
    resumption = await read_resumption(request)
    body = await run_in_threadpool(_resume, service, workflow_id, resumption, key)
    return JSON(body, 202, headers={"Location": links(request, body["workflow_id"])["status"]} | RETRY_AFTER)


def _start(service: Service, submission: Submission, key: str | None, trace: str | None) -> Run:
    options: dict[str, Any] = {
        "input": submission.input,
        "variables": submission.variables,
        "tags": submission.tags,
        "idempotency_key": key,
        "trace": trace,
    }
    playbook = submission.playbook
    if isinstance(playbook, Reference):
        return service.start_registered(playbook.name, playbook.version, **options)
    return service.start(playbook, **options)


def _resume(service: Service, workflow_id: str, resumption: Resumption, key: str | None) -> dict[str, Any]:
    _refuse_local(service, workflow_id, "resume")
    if resumption.step is None:
        return service.resume(workflow_id, resumption.input)
    return summary_of(service.start_from(workflow_id, resumption.step, resumption.input, idempotency_key=key))


def _refuse_local(service: Service, workflow_id: str, command: str) -> None:
    """Nobody here walks runs that were started from a local file, not even to their end."""
    if service.run(workflow_id).origin != "service":
        detail = f"The run was started from a local file: `noetl runs {command} {workflow_id}` is the way."
        raise Problem(409, detail, slug="local-run")


def _matches(if_none_match: list[str], tag: str) -> bool:
    # Weak comparison, as RFC 9110 asks for here.
    given = [candidate.strip().removeprefix("W/") for candidate in ",".join(if_none_match).split(",")]
    return tag in given or "*" in given
