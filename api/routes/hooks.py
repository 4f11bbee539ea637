"""The route of webhooks: requests of other systems that start runs.

The signature of a request is its credential, so no authentication may be required on this route. A stranger
may learn whether a path exists: an unknown one is 404, and a known one 401 or 405. An unknown tenant has the
answer of an unknown path.

Order: path, method, size, sender, meaning of the body, run. Nothing of a body is parsed before its sender is
recognised. Webhooks of other tenants have places of their own, so they do not wait for the work of this one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.access import identify_caller, peer_address
from noetl.api.auth.api_keys import is_tenant
from noetl.api.auth.authentication import Caller
from noetl.api.auth.rate_limits import AddressLimiter, network_of
from noetl.api.http.body_memory import release_body
from noetl.api.http.open_requests import count_request
from noetl.api.http.openapi import (
    FORM_TYPE,
    JSON_TYPE,
    NO_SECURITY,
    header_reference,
    problems,
    response_body,
)
from noetl.api.http.problems import Problem, unsigned
from noetl.api.http.request_shares import move_to_tenant, note_tenant
from noetl.api.http.requests import parse_webhook_body, read_limited_body
from noetl.api.http.responses import JsonResponse, JsonTextResponse, WebhookReceipt
from noetl.api.routes.dependencies import (
    PublicTenantServices,
    TenantThreads,
    evaluated_elsewhere,
    opened_services,
)
from noetl.api.routes.waiting import RETRY_AFTER, place_to_wait, wait_until_finished
from noetl.api.routes.workflows import REPLAYED
from noetl.api.service.errors import NotFoundError
from noetl.api.service.services import TenantServices
from noetl.api.service.webhooks import UNSIGNED_SETTING, allows_unsigned
from noetl.executor.model.run import RunStatus
from noetl.executor.model.triggers import FiringOutcome
from noetl.planner.trigger_sources import Webhook

if TYPE_CHECKING:
    from noetl.executor.engine.firing import Firer
    from noetl.executor.engine.webhook_firing import Delivery

router = APIRouter(prefix="/hooks", tags=["webhooks"], default_response_class=JsonResponse)

RETRY_LATER = {"Retry-After": "60"}
"""The header for a sender that may try again, after a person has resumed or corrected something."""

_receivers = TenantThreads(4)
"""Threads that start runs of requests. Other processes evaluate their expressions."""

_ANSWERED = (RunStatus.SUCCEEDED, RunStatus.COMPLETED_WITH_ERRORS)
"""The statuses of runs that have a result to answer with."""

Tenant = Annotated[str, Path(description="The tenant of the webhook.", examples=["default"])]
HookPath = Annotated[str, Path(description="The path that the trigger declares.", examples=["shop/paid"])]

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            JSON_TYPE: {"schema": {"description": "Any value."}, "example": {"id": "evt_1", "paid": True}},
            FORM_TYPE: {
                "schema": {"type": "object", "additionalProperties": {"type": "string"}},
                "example": {"paid": "true"},
            },
            "text/plain": {"schema": {"type": "string"}, "example": "paid"},
        },
    }
}
_DOCUMENT: dict[str, Any] = {
    **NO_SECURITY,
    **_BODY,
    **problems(
        "not-found",
        "wrong-method",
        "unauthenticated",
        "unsigned",
        "insufficient-scope",
        "unsigned-webhook",
        "malformed-json",
        "malformed-form",
        "too-large",
        "unsupported-media-type",
        "invalid-input",
        "quota-exceeded",
        "trigger-changed",
        "trigger-paused",
        "webhook-not-set-up",
        "run-failed",
        "too-many-requests",
        "too-much-work",
        "tenant-busy",
        "service-busy",
    ),
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: response_body(
        WebhookReceipt, description="A run was started.", headers=("Retry-After", "Idempotency-Replayed")
    ),
    200: {
        "headers": {"Idempotency-Replayed": header_reference("Idempotency-Replayed")},
        "description": "The condition of the trigger is false, or the run has ended: its result.",
        "content": {
            JSON_TYPE: {
                "schema": {"description": "A receipt, or the result of the run."},
                "example": {"paid": True},
            }
        },
    },
}


@router.post("/{tenant}/{path:path}", status_code=202, responses=_RESPONSES, openapi_extra=_DOCUMENT)
async def post_to_webhook(
    tenant: Tenant, path: HookPath, request: Request, services: PublicTenantServices
) -> Response:
    """Accept a request of another system, which must be signed, and start the run of its trigger."""
    return await _answer(request, services.for_tenant(tenant), path)


@router.put("/{tenant}/{path:path}", status_code=202, responses=_RESPONSES, openapi_extra=_DOCUMENT)
async def put_to_webhook(
    tenant: Tenant, path: HookPath, request: Request, services: PublicTenantServices
) -> Response:
    """Accept a request as `POST` does, for a trigger that declares `method: PUT`."""
    return await _answer(request, services.for_tenant(tenant), path)


async def _receive(request: Request, services: TenantServices, path: str) -> tuple[Webhook, Delivery]:
    """Accept a request, and return its webhook and what became of it.

    Raises:
        NotFoundError, Problem: the request is refused.
    """
    limits, address = opened_services(request).limits, peer_address(request.scope)
    limits.webhooks.take(address)
    headers = _headers_of(request)
    with _counted_failures(limits.unknown_senders, address):
        if not is_tenant(services.tenant):
            raise NotFoundError("unknown webhook")
        firer = await run_in_threadpool(services.webhooks.find, path)
        await move_to_tenant(request, services.tenant)
        webhook = firer.declared.webhook
        if request.method != webhook.method:
            detail = f"{request.method} is not allowed at this webhook."
            headers = {"Allow": f"OPTIONS, {webhook.method}"}
            raise Problem(405, detail, slug="wrong-method", headers=headers)
        caller = await _check_caller(request, services, webhook)
        body = await read_limited_body(request, webhook.max_bytes)
        await _check_signature(request, services, firer, headers, body)
    if webhook.auth.scheme != "none":
        count_request(request.scope, services.tenant, network_of(address))
    note_tenant(request, services.tenant)
    if webhook.auth.scheme != "api_key":
        await run_in_threadpool(limits.callers.check, caller)
    if firer.trigger.is_paused:
        raise Problem(503, "The webhook is paused.", slug="trigger-paused", headers=RETRY_LATER)
    # Requests without a signature must not use up the memory of the tenant.
    payer = None if webhook.auth.scheme == "none" else services.tenant
    value = await parse_webhook_body(request, body, payer)
    deliver = partial(_deliver, request, services, firer, headers, (body, value))
    deliver_now = evaluated_elsewhere(request, services, deliver)
    return webhook, await _receivers.run(request, services.tenant, deliver_now)


@contextmanager
def _counted_failures(limiter: AddressLimiter, address: str) -> Iterator[None]:
    """Count the failed attempts of an address to be recognised. Beyond the limit, all of them are 429.

    A signed request is accepted nevertheless: other senders may have the same address, and not all repeat.
    """
    with limiter.begin(address) as attempt:
        try:
            yield
        except (NotFoundError, Problem) as problem:
            if isinstance(problem, NotFoundError) or problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                attempt.fail()
            raise


async def _check_caller(request: Request, services: TenantServices, webhook: Webhook) -> Caller:
    """Return who is counted for a request. With the scheme `api_key` it is the caller, who must be accepted.

    Raises:
        NotFoundError: the caller belongs to another tenant.
        Problem: 401, 403 or 429.
    """
    scheme = webhook.auth.scheme
    if scheme == "none" and not allows_unsigned(request.app.state.context.settings):
        detail = (
            f"The webhook has no authentication, and the operator does not allow that ({UNSIGNED_SETTING})."
        )
        raise Problem(403, detail, slug="unsigned-webhook")
    if scheme != "api_key":
        return Caller(f"webhook {services.tenant}/{webhook.path}", services.tenant, frozenset())
    caller = await run_in_threadpool(identify_caller, request, "run")
    if caller.tenant != services.tenant:
        raise NotFoundError("unknown webhook")
    return caller


async def _check_signature(
    request: Request, services: TenantServices, firer: Firer, headers: Mapping[str, str], body: bytes
) -> None:
    """Check that the expected sender has signed a request.

    Raises:
        Problem: 401, or 503 if the webhook has no secret.
    """
    from noetl.executor.engine.webhook_firing import MissingSecretError
    from noetl.executor.security.webhook_signatures import SignatureError

    settings = request.app.state.context.settings
    try:
        await run_in_threadpool(services.webhooks.check_sender, firer, headers, body, settings)
    except SignatureError as problem:
        raise unsigned(str(problem)) from None
    except MissingSecretError:
        detail = "The webhook is not set up. The service log says what is missing."
        raise Problem(503, detail, slug="webhook-not-set-up", headers=RETRY_LATER) from None


def _deliver(
    request: Request,
    services: TenantServices,
    firer: Firer,
    headers: Mapping[str, str],
    content: tuple[bytes, Any],
) -> Delivery:
    from noetl.executor.engine.webhook_firing import WebhookRequest

    body, value = content
    query = dict(request.query_params.items())
    return services.webhooks.deliver(firer, WebhookRequest(request.method, headers, query, body, value))


async def _answer(request: Request, services: TenantServices, path: str) -> Response:
    """Return the answer for a request: the receipt, or the result of its run.

    Raises:
        NotFoundError, Problem: the request is refused; 422, if the inputs of the run do not fit; 502, if the
            run has failed.
    """
    # The frame of that function had the body. So nothing has it while this one waits for the run.
    webhook, delivery = await _receive(request, services, path)
    release_body(request)
    if delivery.outcome is FiringOutcome.REJECTED:
        detail = delivery.reason or "The request does not fit the inputs of the playbook."
        raise Problem(422, detail, slug="invalid-input")
    receipt = WebhookReceipt(outcome=delivery.outcome, workflow_id=delivery.run_id)
    if delivery.run_id is None:
        return JsonResponse(receipt)
    headers = REPLAYED if delivery.is_repeat else {}
    if webhook.answer == "result":
        seconds = math.ceil(webhook.wait_seconds)
        async with place_to_wait(request, services.tenant, seconds) as may_wait:
            wait_seconds = webhook.wait_seconds if may_wait else 0
            result = await wait_until_finished(request, services, delivery.run_id, wait_seconds)
        if result.status in _ANSWERED:
            return await run_in_threadpool(JsonTextResponse, result.text, headers=headers)
        if result.status is RunStatus.SKIPPED:
            skipped = WebhookReceipt(outcome=FiringOutcome.SKIPPED, workflow_id=delivery.run_id)
            return JsonResponse(skipped, headers=headers)
        if result.status.is_final:
            detail = f"The run {delivery.run_id} ended as {result.status}."
            raise Problem(502, detail, slug="run-failed", headers=headers)
    return JsonResponse(receipt, 202, headers=headers | RETRY_AFTER)


def _headers_of(request: Request) -> dict[str, str]:
    """Return the headers by their names in lower case. The values of a repeated header are joined."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
