"""Dependencies and helpers of the routes: the services of the caller, and the wait for a run."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from noetl.api.access import PublicAccess, PublicServices, ScopeAccess
from noetl.api.service.services import TenantServices
from noetl.executor.model.run import Run

RETRY_AFTER = {"Retry-After": "1"}

PUBLIC = Depends(PublicAccess())
"""Access to a route that needs no credentials and no store."""

PublicTenantServices = Annotated[TenantServices, Depends(PublicServices())]
"""Services for a route that needs no credentials. Its response must not contain data of a tenant."""

ReadServices = Annotated[TenantServices, Depends(ScopeAccess("read"))]
"""Services of the caller's tenant, for a route that shows runs or playbooks."""

RunServices = Annotated[TenantServices, Depends(ScopeAccess("run"))]
"""Services of the caller's tenant, for a route that starts, cancels or resumes runs."""

AdminServices = Annotated[TenantServices, Depends(ScopeAccess("admin"))]
"""Services of the caller's tenant, for a route that changes the registry."""


def is_stopping(request: Request) -> bool:
    """Return whether the process has received a signal to stop, so that no request should wait."""
    stopping: bool = request.app.state.is_stopping
    return stopping


async def wait_until_finished(request: Request, services: TenantServices, run: Run, seconds: float) -> Run:
    """Return the record of the run once it has finished, but after `seconds` or a stop signal at the latest.

    The store is polled, because any process may execute the run. The pause is a fifth of the time waited so
    far, at most 0.5 s. So the response is at most a fifth late, and a long wait costs few queries.
    """
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    while not run.status.is_final and not is_stopping(request):
        waited = loop.time() - started_at
        if waited >= seconds:
            break
        await asyncio.sleep(min(max(waited / 5, 0.01), 0.5, seconds - waited))
        run = await run_in_threadpool(services.runs.get, run.id)
    return run
