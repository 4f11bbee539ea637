"""Dependencies and helpers of the routes: the services of the caller, and jobs for them."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, from_thread, to_thread
from fastapi import Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from noetl.api.access import REFUSAL_SECONDS, PublicAccess, PublicServices, ScopeAccess, StreamAccess
from noetl.api.compute.jobs import CompileJob, EvaluationJob, Job, UsesJob, unpack_plan
from noetl.api.context import AppContext, AppServices
from noetl.api.http.parameters import CURSOR_DESCRIPTION
from noetl.api.http.request_shares import place_of
from noetl.api.http.requests import has_large_body
from noetl.api.service.errors import TenantBusyError
from noetl.api.service.registry_excerpt import RegistryExcerpt, may_use_playbooks
from noetl.api.service.services import TenantServices
from noetl.api.service.tenant_limiters import TenantLimiters
from noetl.executor.engine.evaluation import Evaluation, evaluated_by
from noetl.executor.precedence import end_slice, working_for
from noetl.planner.plan import Plan

Result = TypeVar("Result")

RunId = Annotated[str, Path(description="The id of a run.", examples=["7c0b1f2ad1f04b0d9f1e2a3c"])]
"""The part of a path that names a run."""

Cursor = Annotated[str | None, Query(description=CURSOR_DESCRIPTION)]
"""The query parameter for the place at which a page begins."""

PUBLIC = Depends(PublicAccess())
"""Access to a route that needs no credentials and no store."""

PublicTenantServices = Annotated[TenantServices, Depends(PublicServices())]
"""Services for a route that needs no credentials, as `PublicServices` says."""

ReadServices = Annotated[TenantServices, Depends(ScopeAccess("read"))]
"""Services of the caller's tenant, for a route that shows runs or playbooks."""

StreamServices = Annotated[TenantServices, Depends(StreamAccess("read"))]
"""Services of the caller's tenant, for the route of event streams."""

RunServices = Annotated[TenantServices, Depends(ScopeAccess("run"))]
"""Services of the caller's tenant, for a route that starts, cancels or resumes runs."""

AdminServices = Annotated[TenantServices, Depends(ScopeAccess("admin"))]
"""Services of the caller's tenant, for a route that changes the registry."""


class TenantThreads:
    """The threads of each tenant for one kind of request, so that tenants do not wait for each other."""

    def __init__(self, number: int) -> None:
        self._threads = CapacityLimiter(math.inf)
        self._limiters = TenantLimiters(number)

    async def run(self, request: Request, tenant: str, function: Callable[[], Result]) -> Result:
        """Return function(), called on a thread of a tenant. The request gives up its place meanwhile.

        So a thread that waits for a place finds one: no request holds a place while it waits for a thread.
        """
        async with AsyncExitStack() as stack:
            async with place_of(request).given_up():
                await stack.enter_async_context(self._limiters.find(tenant))
            return await to_thread.run_sync(function, limiter=self._threads)

    async def run_remotely(self, request: Request, tenant: str, function: Callable[[], Result]) -> Result:
        """Return function(), called on a thread of a tenant, which waits for another system for seconds.

        The request has no place until then. Otherwise others of its tenant, and the background of all
        tenants, would wait for that system.
        """
        async with place_of(request).given_up(), self._limiters.find(tenant):
            return await to_thread.run_sync(function, limiter=self._threads)

    async def run_with_credit(self, request: Request, tenant: str, function: Callable[[], Result]) -> Result:
        """Return function(), called on a thread of a tenant, which uses the credit of the tenant.

        The request gives up its place until then. Else the thread would wait for its own request.
        """

        def work() -> Result:
            with working_for(tenant):
                return function()

        async with AsyncExitStack() as stack, place_of(request).given_up():
            await stack.enter_async_context(self._limiters.find(tenant))
            # The next read begins when this request has its place again, so few results are held at once.
            return await to_thread.run_sync(work, limiter=self._threads)


_value_readers = TenantThreads(2)


async def read_values(request: Request, services: TenantServices, function: Callable[[], Result]) -> Result:
    """Return function(), which reads values of runs on a thread. They may have megabytes."""
    return await _value_readers.run_with_credit(request, services.tenant, function)


_starters = TenantThreads(2)


async def start_on_thread(
    request: Request, services: TenantServices, function: Callable[[], Result]
) -> Result:
    """Return function(), which starts a run on a thread.

    One with a large input uses the credit of the tenant.
    """
    if not has_large_body(request):
        return await run_in_threadpool(function)
    return await _starters.run_with_credit(request, services.tenant, function)


def opened_services(request: Request) -> AppServices:
    """Return the services of the app, which the dependencies of a request have opened."""
    context: AppContext = request.app.state.context
    return context.services()


async def perform(request: Request, services: TenantServices, job: Job) -> Any:
    """Return the result of a job for the tenant. If the client leaves, the job stops.

    Raises:
        ClientDisconnect: the client has left.
        Exception: as `ComputePool.run` does.
    """
    compute = opened_services(request).compute
    if job.is_light:
        return await compute.run(job, services.tenant)
    async with waiting_elsewhere(request):
        return await _perform_elsewhere(request, compute.run(job, services.tenant))


async def read_for_job(request: Request, services: TenantServices, function: Callable[[], Result]) -> Result:
    """Return function(), which reads the data of a job on a thread.

    Raises:
        Exception: as `ComputePool.read` does.
    """
    async with waiting_elsewhere(request):
        return await opened_services(request).compute.read(function, services.tenant, is_before_job=True)


@asynccontextmanager
async def large_job(request: Request, services: TenantServices) -> AsyncIterator[None]:
    """Wait for the place of a job with large data. The block reads and performs the job.

    Raises:
        ServiceBusyError, TenantBusyError: too many such jobs wait.
    """
    async with AsyncExitStack() as stack:
        async with waiting_elsewhere(request):
            await stack.enter_async_context(opened_services(request).compute.reserve(services.tenant))
        yield


def perform_on_thread(request: Request, services: TenantServices, job: Job) -> Any:
    """Return the result of a job for a worker thread of a request, which blocks meanwhile.

    Raises:
        ClientDisconnect, Exception: as `perform` does.
    """
    end_slice()
    return from_thread.run(perform, request, services, job)


async def read_excerpt(request: Request, services: TenantServices, text: str | bytes) -> RegistryExcerpt:
    """Return what the checks of a text read of the registry, before it is registered.

    Raises:
        ClientDisconnect: the client has left.
        Exception: as `ComputePool.run` does, for the compilation of a text that may use other playbooks.
    """
    used = await perform(request, services, UsesJob(text)) if may_use_playbooks(text) else None
    return await run_in_threadpool(services.playbooks.excerpt, text, used)


def evaluated_elsewhere(
    request: Request, services: TenantServices, function: Callable[[], Result]
) -> Callable[[], Result]:
    """Return a function for a worker thread of a request, whose expressions other processes evaluate.

    The function raises what `perform` does, also if the client leaves meanwhile.
    """

    def evaluate(evaluation: Evaluation, _tenant: str) -> Any:
        return perform_on_thread(
            request, services, EvaluationJob(pickle.dumps(evaluation, pickle.HIGHEST_PROTOCOL))
        )

    def call() -> Result:
        with evaluated_by(evaluate if opened_services(request).compute.has_processes else None):
            return function()

    return call


async def _perform_elsewhere(request: Request, call: Coroutine[Any, Any, Any]) -> Any:
    work = asyncio.ensure_future(call)
    departure = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({work, departure}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientDisconnect
    finally:
        for task in (work, departure):
            task.cancel()
        await asyncio.gather(work, departure, return_exceptions=True)


@asynccontextmanager
async def waiting_elsewhere(request: Request) -> AsyncIterator[None]:
    """Give up the place of a request among those of its tenant while it waits for a thread or a process.

    A tenant that has too many such requests waits for its refusal. So one that sends the next request at
    once sends fewer.
    """
    async with place_of(request).given_up():
        try:
            yield
        except TenantBusyError:
            await delay_refusal()
            raise


async def delay_refusal() -> None:
    """Wait for REFUSAL_SECONDS."""
    await asyncio.sleep(REFUSAL_SECONDS)


async def _disconnect(request: Request) -> None:
    """Return when the client has closed the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def compile_long(request: Request, services: TenantServices, text: str | bytes) -> str | bytes | Plan:
    """Return the plan of a long text of a playbook. Return a short text as it is.

    Raises:
        PlaybookError: the playbook does not compile.
    """
    return text if CompileJob(text).is_light else await compile_elsewhere(request, services, text)


async def compile_elsewhere(request: Request, services: TenantServices, text: str | bytes) -> Plan:
    """Return the plan of a text of a playbook, which another process compiles.

    Raises:
        PlaybookError: the playbook does not compile.
    """
    job = CompileJob(text, may_be_light=False)
    packed_plan = await perform(request, services, job)
    async with waiting_elsewhere(request):
        return await opened_services(request).compute.read(lambda: unpack_plan(packed_plan), services.tenant)
