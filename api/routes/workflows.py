"""Routes of runs: start, status, result, list, cancel and resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.compute.jobs import InitialDataJob
from noetl.api.http.openapi import PROBLEMS, optional_body, playbook_body, response_body, text_parameter
from noetl.api.http.requests import (
    IDEMPOTENCY_KEY,
    RunQuery,
    check_query_names,
    read_idempotency_key,
    read_resume_request,
    read_submission,
    read_wait_seconds,
)
from noetl.api.http.responses import AcceptedRun, JsonResponse, RunLinks
from noetl.api.routes.dependencies import (
    RETRY_AFTER,
    ReadServices,
    RunServices,
    compile_long,
    perform,
    wait_until_finished,
)
from noetl.api.service.compiler import InlinePlaybook, PlanSource
from noetl.api.service.runs import RunDraft
from noetl.api.service.views import RunEntry, RunPage, RunReport, RunResult
from noetl.executor.model.run import Run
from noetl.executor.model.run_summary import summarize
from noetl.executor.model.tracing import parse_trace
from noetl.executor.security.redaction import redact
from noetl.planner.plan import Plan

router = APIRouter(
    prefix="/workflows", tags=["workflows"], responses=PROBLEMS, default_response_class=JsonResponse
)

_resumers = CapacityLimiter(2)

REPLAYED = {"Idempotency-Replayed": "true"}
"""Header of a response to a request whose idempotency key an earlier request had."""

_START_REQUEST: dict[str, Any] = {
    **playbook_body("SubmissionBody"),
    "parameters": [
        text_parameter("input", "query", "The run's input as a JSON object, where the body is YAML."),
        text_parameter(
            "Prefer",
            "header",
            "`wait=N`: return the result if the run finishes within N seconds, 25 at most.",
        ),
        text_parameter(
            "Idempotency-Key",
            "header",
            "The same key with the same body starts one run.",
            pattern=IDEMPOTENCY_KEY,
        ),
        text_parameter(
            "traceparent",
            "header",
            "W3C Trace Context: the requests of the run and its log belong to this trace.",
        ),
        text_parameter("tracestate", "header", "W3C Trace Context: more of the trace, passed on as it is."),
    ],
}
_RESUME_REQUEST: dict[str, Any] = {
    **optional_body("ResumeBody"),
    "parameters": [
        text_parameter(
            "Idempotency-Key",
            "header",
            "The same key with the same body resumes once. With `from`, it starts one run.",
            pattern=IDEMPOTENCY_KEY,
        )
    ],
}


@router.post(
    "/run",
    status_code=202,
    responses={202: response_body(AcceptedRun), 200: response_body(RunResult)},
    openapi_extra=_START_REQUEST,
)
async def run(request: Request, services: RunServices) -> Response:
    """Start a run of the playbook in the body, or of a registered one."""
    key, wait_seconds = read_idempotency_key(request), read_wait_seconds(request)
    playbook, submission = await read_submission(request)
    # The run sends its trace to every host that it calls.
    trace = redact(parse_trace(request.headers.get("traceparent"), request.headers.getlist("tracestate")))
    start = replace(submission, idempotency_key=key, trace=trace)
    source: PlanSource | Plan = playbook
    if isinstance(playbook, InlinePlaybook):
        compiled = await compile_long(request, services, playbook.text)
        source = compiled if isinstance(compiled, Plan) else playbook

    def start_run() -> tuple[bool, Run | RunDraft]:
        return services.runs.has_request(key), services.runs.start_light(source, start)

    is_replay, run = await run_in_threadpool(start_run)
    if isinstance(run, RunDraft):
        values = await perform(request, services, InitialDataJob(run.data))
        run = await run_in_threadpool(services.runs.create, run, values)
    links = RunLinks.of_run(request, run.id)
    headers = {"Location": links.status} | (REPLAYED if is_replay else {})
    if wait_seconds is not None:
        headers["Preference-Applied"] = f"wait={wait_seconds}"
        run = await wait_until_finished(request, services, run, wait_seconds)
        if run.status.is_final:
            return JsonResponse(RunResult.from_run(run), headers=headers)
    return JsonResponse(AcceptedRun.from_run(run, links), 202, headers=headers | RETRY_AFTER)


@router.get("/status/{workflow_id}", responses={200: response_body(RunReport)})
def status(workflow_id: str, services: ReadServices) -> Response:
    """Return the status of the run and of each of its steps."""
    return JsonResponse(services.runs.report(workflow_id))


@router.get("/result/{workflow_id}", responses={200: response_body(RunResult), 202: response_body(RunResult)})
def result(workflow_id: str, services: ReadServices) -> Response:
    """Return the result of the run; 202 while it has not finished."""
    body = services.runs.result(workflow_id)
    return JsonResponse(body) if body.status.is_final else JsonResponse(body, 202, headers=RETRY_AFTER)


@router.get("", responses={200: response_body(RunPage)})
def runs(request: Request, services: ReadServices, query: Annotated[RunQuery, Query()]) -> Response:
    """Return the runs, the newest first. `since` excludes runs that were created before it."""
    check_query_names(request, RunQuery.model_fields)
    return JsonResponse(services.runs.find(query.to_filter()))


@router.post("/{workflow_id}/cancel", status_code=202, responses={202: response_body(RunEntry)})
def cancel(workflow_id: str, request: Request, services: RunServices) -> Response:
    """Cancel the run: abandon its work and start nothing new. A repeated request changes nothing."""
    return _changed(request, services.runs.cancel(workflow_id))


@router.post(
    "/{workflow_id}/resume",
    status_code=202,
    responses={202: response_body(RunEntry)},
    openapi_extra=_RESUME_REQUEST,
)
async def resume(workflow_id: str, request: Request, services: RunServices) -> Response:
    """Resume the run at its failed and parked steps, with corrected input if given.

    With `from`, start a new run at another step of it instead.
    """
    resume_request = await read_resume_request(request)

    def resume_run() -> tuple[bool, Run]:
        is_replay = services.runs.has_request(resume_request.idempotency_key)
        return is_replay, services.runs.resume(workflow_id, resume_request)

    # Corrected input is evaluated again. Few threads do that, and none of those that answer other requests.
    limiter = _resumers if resume_request.input or resume_request.step else None
    is_replay, run = await to_thread.run_sync(resume_run, limiter=limiter)
    return _changed(request, run, REPLAYED if is_replay else {})


def _changed(request: Request, run: Run, more_headers: Mapping[str, str] | None = None) -> Response:
    headers = {"Location": RunLinks.of_run(request, run.id).status} | RETRY_AFTER
    entry = RunEntry.from_summary(summarize(run))
    return JsonResponse(entry, 202, headers={**headers, **(more_headers or {})})
