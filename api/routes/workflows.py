"""Routes of runs: start, status, result, list, cancel, resume and delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.access import caller_name
from noetl.api.compute.jobs import InitialDataJob
from noetl.api.http.body_memory import release_body
from noetl.api.http.openapi import optional_body, playbook_body, problems, required_body, response_body
from noetl.api.http.parameters import IdempotencyKey, InputText, RunQuery, StartHeaders, WaitHeaders
from noetl.api.http.requests import read_resume_request, read_submission, read_tag_change
from noetl.api.http.responses import AcceptedRun, JsonResponse, RunLinks, result_response
from noetl.api.routes.dependencies import (
    ReadServices,
    RunId,
    RunServices,
    TenantThreads,
    compile_long,
    evaluated_elsewhere,
    perform,
    read_values,
    start_on_thread,
)
from noetl.api.routes.switching import compile_change, judge_elsewhere, switch_on_thread
from noetl.api.routes.waiting import RETRY_AFTER, place_to_wait, wait_until_changed, wait_until_finished
from noetl.api.service.changed_restarts import ChangedRestart
from noetl.api.service.compiler import InlinePlaybook, PlanSource
from noetl.api.service.past_restarts import PastRestart
from noetl.api.service.preview_views import ResumePreview
from noetl.api.service.runs import RunDraft
from noetl.api.service.services import TenantServices
from noetl.api.service.switches import PlaybookChange
from noetl.api.service.views import RunEntry, RunPage, RunReport, RunResult, RunTags
from noetl.executor.model.run import Run
from noetl.executor.model.run_summary import RunSummary, summarize
from noetl.executor.security.redaction import redact
from noetl.planner.plan import Plan

router = APIRouter(prefix="/workflows", tags=["workflows"], default_response_class=JsonResponse)

T = TypeVar("T")

_correctors = TenantThreads(2)
"""Threads that correct runs, whose environment other processes evaluate."""

REPLAYED = {"Idempotency-Replayed": "true"}
"""Header of a response to a request whose idempotency key an earlier request had."""

DEBOUNCED = {"Debounced": "true"}
"""Header of a response to a start that has joined a run which waits for further starts."""

_STARTED = ("Location", "Preference-Applied", "Idempotency-Replayed", "Debounced")
_CHANGED = ("Location", "Retry-After")

_START_REQUEST: dict[str, Any] = {
    **playbook_body("SubmissionBody"),
    **problems(
        "not-found",
        "superseded-plan",
        "invalid-playbook",
        "invalid-input",
        "idempotency-key-reused",
        "too-much-work",
        "tenant-busy",
        "service-busy",
    ),
}
_RESUME_REQUEST: dict[str, Any] = {
    **optional_body("ResumeBody"),
    **problems(
        "not-found",
        "conflicting-members",
        "cannot-continue",
        "local-run",
        "no-past",
        "not-ended",
        "not-resumable",
        "not-skippable",
        "nothing-left",
        "incomplete-result",
        "paused",
        "payload-lost",
        "superseded-plan",
        "idempotency-key-reused",
        "inside-region",
        "invalid-input",
        "unknown-event",
        "unknown-step",
        "invalid-playbook",
        "other-playbook",
        "same-plan",
        "ending",
        "busy",
        "not-supported",
        "too-much-work",
        "tenant-busy",
        "service-busy",
    ),
}


@router.post(
    "/run",
    status_code=202,
    responses={
        202: response_body(
            AcceptedRun, description="The run was accepted.", headers=(*_STARTED, "Retry-After")
        ),
        200: response_body(
            RunResult, description="The run has ended within the time of `Prefer: wait`.", headers=_STARTED
        ),
    },
    openapi_extra=_START_REQUEST,
)
async def start_run(
    request: Request,
    services: RunServices,
    sent: Annotated[StartHeaders, Header()],
    input_text: InputText = None,
) -> Response:
    """Start a run of the playbook in the body, or of a registered one."""
    wait_seconds = sent.wait_seconds
    # The frame of that function had the body. So nothing has it while this one waits for the run.
    accepted, headers = await _accept(request, services, sent, input_text)
    release_body(request)
    async with place_to_wait(request, services.tenant, wait_seconds) as may_wait:
        if may_wait:
            headers["Preference-Applied"] = f"wait={wait_seconds}"
            result = await wait_until_finished(request, services, accepted.workflow_id, wait_seconds or 0)
            if result.status.is_final:
                return await run_in_threadpool(result_response, result, 200, headers)
            accepted = accepted.with_status(result.status)
    return JsonResponse(accepted, 202, headers=headers | RETRY_AFTER)


async def _accept(
    request: Request, services: TenantServices, sent: StartHeaders, input_text: str | None
) -> tuple[AcceptedRun, dict[str, str]]:
    """Start the run of a request. Return it with the headers of the response.

    Raises:
        Problem, RejectedError, NotFoundError: nothing is started.
    """
    key = sent.idempotency_key
    playbook, submission = await read_submission(request, input_text)
    # The run sends its trace to every host that it calls.
    submission = replace(submission, idempotency_key=key, trace=redact(sent.trace))
    source: PlanSource | Plan = playbook
    if isinstance(playbook, InlinePlaybook):
        compiled = await compile_long(request, services, playbook.text)
        source = compiled if isinstance(compiled, Plan) else playbook

    def start() -> tuple[bool, Run | RunDraft]:
        return services.runs.has_request(key), services.runs.start_light(source, submission)

    is_replay, run = await start_on_thread(request, services, start)
    if isinstance(run, RunDraft):
        values = await perform(request, services, InitialDataJob(run.data))
        run = await start_on_thread(request, services, partial(services.runs.create, run, values))
    links = RunLinks.of_run(request, run.id)
    headers = {"Location": links.status} | (REPLAYED if is_replay else {})
    headers |= DEBOUNCED if run.is_joined else {}
    return AcceptedRun.from_run(run, links), headers


@router.get(
    "/status/{workflow_id}",
    responses={
        200: response_body(RunReport, description="The status of the run.", headers=("Preference-Applied",))
    },
    openapi_extra=problems("not-found"),
)
async def get_run_status(
    workflow_id: RunId, request: Request, services: ReadServices, sent: Annotated[WaitHeaders, Header()]
) -> Response:
    """Return the status of the run and of each of its steps.

    With `Prefer: wait=N` and `If-None-Match`, wait for a status of another tag.
    """

    def read() -> Response:
        return JsonResponse(services.items.report(workflow_id))

    async with place_to_wait(request, services.tenant, sent.wait_seconds) as may_wait:
        if not may_wait:
            return await run_in_threadpool(read)
        # A run that is unknown must not be followed.
        run = await run_in_threadpool(services.runs.summary, workflow_id)
        response = await wait_until_changed(request, services, run.id, read, sent.wait_seconds or 0)
    response.headers["Preference-Applied"] = f"wait={sent.wait_seconds}"
    return response


@router.get(
    "/result/{workflow_id}",
    responses={
        200: response_body(RunResult, description="The run has ended.", headers=("Preference-Applied",)),
        202: response_body(
            RunResult, description="The run has not ended.", headers=("Retry-After", "Preference-Applied")
        ),
    },
    openapi_extra=problems("not-found"),
)
async def get_run_result(
    workflow_id: RunId, request: Request, services: ReadServices, sent: Annotated[WaitHeaders, Header()]
) -> Response:
    """Return the result of the run; 202 while it has not finished. `Prefer: wait=N` waits for it."""
    headers = {}
    async with place_to_wait(request, services.tenant, sent.wait_seconds) as may_wait:
        if may_wait:
            headers["Preference-Applied"] = f"wait={sent.wait_seconds}"
        seconds = sent.wait_seconds if may_wait else None
        result = await wait_until_finished(request, services, workflow_id, seconds or 0)
    if result.status.is_final:
        return await run_in_threadpool(result_response, result, 200, headers)
    return result_response(result, 202, headers | RETRY_AFTER)


@router.get(
    "",
    responses={200: response_body(RunPage, description="A page of runs.")},
    openapi_extra=problems("invalid-cursor"),
)
async def list_runs(
    request: Request, services: ReadServices, query: Annotated[RunQuery, Query()]
) -> Response:
    """Return a page of the runs of a filter, each with its headline, the newest or the oldest first."""

    def read() -> Response:
        return JsonResponse(services.lists.page(query.to_filter()))

    return await read_values(request, services, read)


@router.post(
    "/{workflow_id}/cancel",
    status_code=202,
    responses={202: response_body(RunEntry, description="The run is cancelled.", headers=_CHANGED)},
    openapi_extra=problems("not-found", "finished", "local-run"),
)
def cancel_run(workflow_id: RunId, request: Request, services: RunServices) -> Response:
    """Cancel the run: abandon its work and start nothing new. A repeated request changes nothing.

    Neither does one to a run that is stopping already: `ending` is the status with which it ends.
    """
    return _changed(request, summarize(services.runs.cancel(workflow_id)))


@router.post(
    "/{workflow_id}/pause",
    status_code=202,
    responses={202: response_body(RunEntry, description="The run is paused.", headers=_CHANGED)},
    openapi_extra=problems("not-found", "finished", "ending", "local-run"),
)
def pause_run(workflow_id: RunId, request: Request, services: RunServices) -> Response:
    """Pause the run: running steps finish, and nothing new starts. A repeated request changes nothing."""
    return _changed(request, services.runs.pause(workflow_id, caller_name(request)))


@router.post(
    "/{workflow_id}/unpause",
    status_code=202,
    responses={202: response_body(RunEntry, description="The run continues.", headers=_CHANGED)},
    openapi_extra=problems("not-found", "finished", "local-run"),
)
def unpause_run(workflow_id: RunId, request: Request, services: RunServices) -> Response:
    """Let the paused run continue where it was. A repeated request changes nothing."""
    return _changed(request, services.runs.unpause(workflow_id, caller_name(request)))


@router.post(
    "/{workflow_id}/resume",
    status_code=202,
    responses={
        202: response_body(
            RunEntry,
            description="The run continues, or the new run was accepted.",
            headers=(*_CHANGED, "Idempotency-Replayed"),
        ),
        200: response_body(ResumePreview, description="With `dry_run`: what would be done again."),
    },
    openapi_extra=_RESUME_REQUEST,
)
async def resume_run(
    workflow_id: RunId, request: Request, services: RunServices, idempotency_key: IdempotencyKey = None
) -> Response:
    """Resume the run at its failed and parked steps, with corrected input if given.

    With `from` or `at`, start a new run at a step or an event of it instead. With `playbook`, continue in
    another version, or start the new run there.
    """
    resume_request = await read_resume_request(request, idempotency_key)
    if isinstance(resume_request, PlaybookChange):
        return await _switch_run(workflow_id, request, services, resume_request)
    if isinstance(resume_request, ChangedRestart):
        return await _restart_changed(workflow_id, request, services, resume_request)
    if isinstance(resume_request, PastRestart):
        return await _restart_run(workflow_id, request, services, resume_request)
    if resume_request.is_dry_run:
        show = partial(services.previews.preview, workflow_id, resume_request)
        return JsonResponse(await _correct(request, services, show))
    resume_request = replace(resume_request, caller=caller_name(request))

    def resume() -> tuple[bool, Run]:
        is_replay = services.runs.has_request(resume_request.idempotency_key)
        return is_replay, services.runs.resume(workflow_id, resume_request)

    # Corrected input is evaluated again. Few threads wait for that, and none of those that answer requests.
    if resume_request.input or resume_request.step:
        is_replay, run = await _correct(request, services, resume)
    else:
        is_replay, run = await run_in_threadpool(resume)
    return _changed(request, summarize(run), REPLAYED if is_replay else {})


async def _correct(request: Request, services: TenantServices, function: Callable[[], T]) -> T:
    """Return function(), which corrects a run on a thread of the tenant. Other processes evaluate."""
    return await _correctors.run(request, services.tenant, evaluated_elsewhere(request, services, function))


async def _restart_run(
    workflow_id: str, request: Request, services: TenantServices, restart: PastRestart
) -> Response:
    """Start a new run at an event of the run, or report what it would do again."""
    restarts = services.past_restarts
    if restart.is_dry_run:
        show = partial(restarts.preview, workflow_id, restart)
        return JsonResponse(await _correct(request, services, show))

    def start() -> tuple[bool, Run]:
        is_replay = services.runs.has_request(restart.idempotency_key)
        return is_replay, restarts.start(workflow_id, restart)

    is_replay, run = await _correct(request, services, start)
    return _changed(request, summarize(run), REPLAYED if is_replay else {})


async def _restart_changed(
    workflow_id: str, request: Request, services: TenantServices, restart: ChangedRestart
) -> Response:
    """Start a new run in another version, at a step or an event of the run, or report what it would do."""
    changed = await compile_change(request, services, restart.change)
    restart = replace(restart, change=replace(changed, caller=caller_name(request)))
    judge, restarts = judge_elsewhere(request, services), services.changed_restarts
    if restart.change.is_dry_run:
        preview = partial(restarts.preview, workflow_id, restart, judge)
        return JsonResponse(await switch_on_thread(request, services, preview))

    def start() -> tuple[bool, Run]:
        is_replay = services.runs.has_request(restart.change.idempotency_key)
        return is_replay, restarts.start(workflow_id, restart, judge)[0]

    is_replay, run = await switch_on_thread(request, services, start)
    return _changed(request, summarize(run), REPLAYED if is_replay else {})


async def _switch_run(
    workflow_id: str, request: Request, services: TenantServices, change: PlaybookChange
) -> Response:
    """Let the run continue in another version of its playbook. Other processes compile it and judge."""
    change = replace(await compile_change(request, services, change), caller=caller_name(request))
    judge = judge_elsewhere(request, services)

    def resume() -> tuple[bool, Run]:
        is_replay = services.runs.has_request(change.idempotency_key)
        return is_replay, services.switches.switch(workflow_id, change, judge)[0]

    if change.is_dry_run:
        preview = partial(services.switches.preview, workflow_id, change, judge)
        return JsonResponse(await switch_on_thread(request, services, preview))
    is_replay, run = await switch_on_thread(request, services, resume)
    return _changed(request, summarize(run), REPLAYED if is_replay else {})


@router.patch(
    "/{workflow_id}/tags",
    responses={200: response_body(RunTags, description="The tags of the run after the change.")},
    openapi_extra={**required_body("TagsBody"), **problems("not-found", "too-many-tags")},
)
async def change_run_tags(workflow_id: RunId, request: Request, services: RunServices) -> Response:
    """Add tags to the run and remove tags, also after its end. A repeated request changes nothing."""
    change = await read_tag_change(request)
    return JsonResponse(await run_in_threadpool(services.runs.change_tags, workflow_id, change))


@router.delete(
    "/{workflow_id}",
    status_code=204,
    responses={204: {"description": "The run was deleted."}},
    openapi_extra=problems("not-found", "not-ended", "child-run"),
)
def delete_run(workflow_id: RunId, services: RunServices) -> Response:
    """Delete the run with its history, its data and the runs that it has started. 409 if it has not ended."""
    services.runs.delete(workflow_id)
    return Response(status_code=204)


def _changed(request: Request, run: RunSummary, more_headers: Mapping[str, str] | None = None) -> Response:
    headers = {"Location": RunLinks.of_run(request, run.id).status} | RETRY_AFTER
    entry = RunEntry.from_summary(run)
    return JsonResponse(entry, 202, headers={**headers, **(more_headers or {})})
