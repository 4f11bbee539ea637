"""What the routes share: the service they ask, addresses of a run, and waiting without holding a thread."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from noetl.api.context import Shared
from noetl.api.http.problems import not_allowed, unauthenticated
from noetl.api.http.responses import shaped
from noetl.api.middleware import caller_of
from noetl.api.service.runs import Service
from noetl.executor.model.run import Run
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute

RETRY_AFTER = {"Retry-After": "1"}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "A problem document (RFC 9457)",
        **shaped("ProblemDocument", media_type="application/problem+json"),
    }
}


_BEARER = HTTPBearer(
    auto_error=False, scheme_name="key or token", description="An API key, or a JSON Web Token."
)


class Guard:
    """A dependency of a route: the service, for the tenant of a caller who has the scope."""

    def __init__(self, scope: str) -> None:
        self._scope = scope

    async def __call__(self, request: Request, _: Annotated[object, Security(_BEARER)] = None) -> Service:
        caller = caller_of(request)
        if caller is None:
            raise unauthenticated(
                "This needs an API key or a token, as `Authorization: Bearer …`.", error=None
            )
        if not caller.may(self._scope):
            raise not_allowed(self._scope)
        return _service(request).of(caller.tenant)


def _service(request: Request) -> Service:
    shared: Shared = request.app.state.shared
    return shared.opened().service


async def anyone() -> None:
    """A dependency of a route that is open to everyone and asks for no service."""


async def _for_all(request: Request) -> Service:
    return _service(request)


ForAll = Annotated[Service, Depends(_for_all)]
"""The service as a parameter of a route that is open to everyone, who is told nothing of any tenant."""

ToRead = Annotated[Service, Depends(Guard("read"))]
"""The service of the caller's tenant, as a parameter of a route that shows what is there."""

ToRun = Annotated[Service, Depends(Guard("run"))]
"""The same where runs are started, stopped or gone on with."""

ToAdminister = Annotated[Service, Depends(Guard("admin"))]
"""The same where it is changed what others run."""


def check_that_all_are_guarded(router: APIRouter) -> None:
    """Nothing happens if each route says who may use it.

    Raises:
        TypeError: one does not.
    """
    for route in router.routes:
        guards = [
            needed
            for needed in _needed(route)
            if isinstance(needed.call, Guard) or needed.call in (anyone, _for_all)
        ]
        if len(guards) != 1:
            raise TypeError(f"{getattr(route, 'path', route)} does not say who may use it")


def _needed(route: BaseRoute) -> list[Dependant]:
    return route.dependant.dependencies if isinstance(route, APIRoute) else []


def links(request: Request, run_id: str) -> dict[str, str]:
    """Where a run is asked about, relative to the origin of the service."""
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
    """Whether the process has been asked to stop, so that nobody should wait for anything here any more."""
    stopping: bool = request.app.state.is_stopping
    return stopping


async def finished_within(request: Request, service: Service, run: Run, seconds: float) -> Run:
    """The run's record once it has finished, or as it is after `seconds` or when the process is to stop.

    The store is asked again after a fifth of the time that has passed, so that an answer is late by a fifth at most, a
    long wait costs little, and it makes no difference which process walks the run.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    while (
        not run.status.is_final and not is_stopping(request) and (passed := loop.time() - started) < seconds
    ):
        await asyncio.sleep(min(max(passed / 5, 0.01), 0.5, seconds - passed))
        run = await run_in_threadpool(service.run, run.id)
    return run
