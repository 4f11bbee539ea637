"""Requests that wait for a run: until it has ended, or until its status has changed.

A client that may not wait is answered as one that did not ask for it (RFC 7240, section 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.entity_tags import entity_tag, has_tag
from noetl.api.http.request_shares import place_of
from noetl.api.routes.dependencies import opened_services
from noetl.api.service.services import TenantServices
from noetl.executor.model.run_summary import ResultText

RETRY_AFTER = {"Retry-After": "1"}


@asynccontextmanager
async def place_to_wait(request: Request, tenant: str, seconds: int | None) -> AsyncIterator[bool]:
    """Yield whether a request of a tenant may wait, which `seconds` must ask for.

    The requests that wait in this process are counted. Functions count those that wait together.
    """
    opened = opened_services(request)
    if seconds is None or not opened.waiting_requests.may_open(tenant):
        yield False
        return
    if opened.shared_waits is None:
        with opened.waiting_requests.open(tenant):
            yield True
        return
    place = opened.shared_waits.open(tenant)
    may_wait = await run_in_threadpool(place.__enter__)
    try:
        if may_wait and opened.waiting_requests.may_open(tenant):
            with opened.waiting_requests.open(tenant):
                yield True
        else:
            yield False
    finally:
        await run_in_threadpool(place.__exit__, None, None, None)


async def wait_until_finished(
    request: Request, services: TenantServices, run_id: str, seconds: float
) -> ResultText:
    """Return the result of a run once it has ended, but after `seconds` or a stop signal at the latest.

    Nothing polls for this request, and no thread waits: the watcher asks the store for all followed runs.
    """
    result = await run_in_threadpool(services.runs.result_text, run_id)
    if result.status.is_final or not seconds:
        return result
    async with place_of(request).given_up():
        watcher = opened_services(request).watchers.current()
        await watcher.wait_until_ended(run_id, services.tenant, seconds)
    return await run_in_threadpool(services.runs.result_text, run_id)


async def wait_until_changed(
    request: Request, services: TenantServices, run_id: str, read: Callable[[], Response], seconds: float
) -> Response:
    """Return the response of `read` once its tag is not in `If-None-Match`, or the run has ended.

    Return it after `seconds` or a stop signal at the latest.
    """
    tags = request.headers.getlist("if-none-match")
    watcher, clock = opened_services(request).watchers.current(), asyncio.get_running_loop().time
    ends_at = clock() + seconds
    with watcher.follow(run_id, services.tenant) as feed:
        while True:
            # A change after this line wakes the request.
            published, has_ended = feed.published, feed.has_ended or watcher.is_stopping
            response = await run_in_threadpool(read)
            is_known = has_tag(tags, await entity_tag(bytes(response.body)))
            if has_ended or not is_known or clock() >= ends_at:
                return response
            async with place_of(request).given_up():
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(ends_at):
                        await published.wait()
