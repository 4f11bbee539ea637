"""Dependencies and helpers of the routes: the service of the caller, and links and waits for a run."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute

from noetl.api.context import AppContext
from noetl.api.http.problems import insufficient_scope, missing_credentials
from noetl.api.http.responses import body_schema
from noetl.api.middleware import caller_of
from noetl.api.service.runs import Service
from noetl.executor.model.run import Run

RETRY_AFTER = {"Retry-After": "1"}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "A problem document (RFC 9457)",
        **body_schema("ProblemDocument", media_type="application/problem+json"),
    }
}


_BEARER = HTTPBearer(
    auto_error=False, scheme_name="key or token", description="An API key, or a JSON Web Token."
)


class RequireScope:
    """A dependency of a route: the service for the tenant of a caller who has the scope."""

    def __init__(self, scope: str) -> None:
        self._scope = scope

    async def __call__(self, request: Request, _: Annotated[object, Security(_BEARER)] = None) -> Service:
        caller = caller_of(request)
        if caller is None:
            raise missing_credentials()
        if not caller.may(self._scope):
            raise insufficient_scope(self._scope)
        return _service_of(request).for_tenant(caller.tenant)


def _service_of(request: Request) -> Service:
    context: AppContext = request.app.state.context
    return context.services().service


async def public_route() -> None:
    """Mark a route that needs no credentials and no service."""


async def _public_service(request: Request) -> Service:
    return _service_of(request)


PublicService = Annotated[Service, Depends(_public_service)]
"""Service for a route that needs no credentials. Its response must not contain data of a tenant."""

ReadService = Annotated[Service, Depends(RequireScope("read"))]
"""Service of the caller's tenant, for a route that shows runs or playbooks."""

RunService = Annotated[Service, Depends(RequireScope("run"))]
"""Service of the caller's tenant, for a route that starts, cancels or resumes runs."""

AdminService = Annotated[Service, Depends(RequireScope("admin"))]
"""Service of the caller's tenant, for a route that changes the registry."""


def check_access_is_declared(router: APIRouter) -> None:
    """Check that each route declares the scope that it needs, or that it is public.

    Raises:
        TypeError: a route declares neither, or more than one.
    """
    for route in router.routes:
        declarations = [
            dependency
            for dependency in _dependencies_of(route)
            if isinstance(dependency.call, RequireScope) or dependency.call in (public_route, _public_service)
        ]
        if len(declarations) != 1:
            raise TypeError(f"route {getattr(route, 'path', route)} does not declare its scope")


def _dependencies_of(route: BaseRoute) -> list[Dependant]:
    return route.dependant.dependencies if isinstance(route, APIRoute) else []


def run_links(request: Request, run_id: str) -> dict[str, str]:
    """Return the paths of a run's routes."""
    root = f"{request.scope.get('root_path', '')}/workflows"
    return {
        "status": f"{root}/status/{run_id}",
        "result": f"{root}/result/{run_id}",
        "events": f"{root}/{run_id}/events",
        "graph": f"{root}/{run_id}/graph",
        "cancel": f"{root}/{run_id}/cancel",
        "resume": f"{root}/{run_id}/resume",
    }


def is_stopping(request: Request) -> bool:
    """Return whether the process has received a signal to stop, so that no request should wait."""
    stopping: bool = request.app.state.is_stopping
    return stopping


async def wait_until_finished(request: Request, service: Service, run: Run, seconds: float) -> Run:
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
        run = await run_in_threadpool(service.run, run.id)
    return run
