"""Dependencies and helpers of the routes: the services of the caller, and the wait for a run."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from noetl.api.access import PublicAccess, PublicServices, ScopeAccess, StreamAccess
from noetl.api.context import AppContext, AppServices
from noetl.api.service.services import TenantServices
from noetl.executor.model.run import Run

RETRY_AFTER = {"Retry-After": "1"}

PUBLIC = Depends(PublicAccess())
"""Access to a route that needs no credentials and no store."""

PublicTenantServices = Annotated[TenantServices, Depends(PublicServices())]
"""Services for a route that needs no credentials. Its response must not contain data of a tenant."""

ReadServices = Annotated[TenantServices, Depends(ScopeAccess("read"))]
"""Services of the caller's tenant, for a route that shows runs or playbooks."""

StreamServices = Annotated[TenantServices, Depends(StreamAccess("read"))]
"""Services of the caller's tenant, for the route of event streams."""

RunServices = Annotated[TenantServices, Depends(ScopeAccess("run"))]
"""Services of the caller's tenant, for a route that starts, cancels or resumes runs."""

AdminServices = Annotated[TenantServices, Depends(ScopeAccess("admin"))]
"""Services of the caller's tenant, for a route that changes the registry."""


def opened_services(request: Request) -> AppServices:
    """Return the services of the app, which the dependencies of a request have opened."""
    context: AppContext = request.app.state.context
    return context.services()


async def wait_until_finished(request: Request, services: TenantServices, run: Run, seconds: float) -> Run:
    """Return the record of the run once it has finished, but after `seconds` or a stop signal at the latest.

    Nothing polls for this request, and no thread waits: the watcher asks the store for all followed runs.
    """
    if run.status.is_final or not seconds:
        return run
    await opened_services(request).watchers.current().wait_until_ended(run.id, seconds)
    return await run_in_threadpool(services.runs.get, run.id)
