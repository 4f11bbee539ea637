"""What the routes share: the service they ask, addresses of a run, and waiting without holding a thread."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from api.answers import ProblemDocument
from api.service import Service
from executor.records import Run

RETRY_AFTER = {"Retry-After": "1"}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "A problem document (RFC 9457)",
        "content": {"application/problem+json": {"schema": ProblemDocument.model_json_schema()}},
    }
}


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Asked = Annotated[Service, Depends(_service)]
"""The service, as a parameter of a route."""


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
    while not run.status.is_final and not is_stopping(request) and (passed := loop.time() - started) < seconds:
        await asyncio.sleep(min(max(passed / 5, 0.01), 0.5, seconds - passed))
        run = await run_in_threadpool(service.run, run.id)
    return run
