"""The HTTP service. It executes the runs it accepts: workers live in its process.

`uvicorn noetl.api.app:app` starts it; settings are read from the environment then, and importing needs none.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any

from fastapi import FastAPI
from noetl.api.context import Shared
from noetl.api.http import problems
from noetl.api.http.responses import JSON
from noetl.api.middleware import Gate
from noetl.api.routes import callbacks, events, graph, health, plans, playbooks, workflows
from noetl.api.routes.dependencies import check_that_all_are_guarded
from noetl.executor.errors import SettingError, StoreError
from noetl.executor.security.capabilities import for_service
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAIN_SECONDS = 20.0
"""How long running steps may take to finish when the service stops. The others are walked again at its next start."""

GATEWAY_SECONDS = 20.0
"""How long a stream of events is behind a gateway that answers with all of it at once, within half a minute."""

GATEWAY_BYTES = 1_500_000
"""How many bytes of a stream are sent behind such a gateway before it ends: Lambda takes 6 MB, in which a quotation mark is two."""


def create_app(environ: Mapping[str, str] | None = None, *, behind_gateway: bool = False) -> FastAPI:
    """The service with the settings of `environ`, or of the process's environment when it starts. Without a start it opens its
    store when it is first asked, and walks nothing.

    `behind_gateway` nobody is this machine, so everyone needs credentials; and an answer must be whole before the gateway
    gives it up, so streams end soon.
    """
    shared = Shared(environ, always_authenticated=behind_gateway)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        from noetl.executor.worker import Worker, lease_seconds, public_url, thread_count

        settings = shared.settings
        capabilities, threads, lease = for_service(settings), thread_count(settings), lease_seconds(settings)
        url = public_url(settings)
        logging.getLogger("uvicorn.access").addFilter(problems.without_tokens)
        store = (await run_in_threadpool(shared.opened)).store
        try:
            app.state.is_stopping = False
            worker = Worker(store, capabilities=capabilities, threads=threads, lease=lease, public_url=url)
            await run_in_threadpool(worker.start)
            try:
                with _noticing_signals(lambda: setattr(app.state, "is_stopping", True)):
                    yield
            finally:
                await run_in_threadpool(worker.stop, timeout_seconds=DRAIN_SECONDS)
        finally:
            shared.close()

    app = _App(
        title="NoETL",
        version=version("noetl"),
        description="Compiles playbooks and runs them durably.",
        lifespan=lifespan,
        default_response_class=JSON,
        redirect_slashes=False,
        middleware=[
            Middleware(PlainStartupFailure),
            Middleware(problems.Failsafe),
            Middleware(Gate, shared=shared),
        ],
    )
    app.state.shared = shared
    app.state.is_stopping = False
    app.state.stream_seconds = GATEWAY_SECONDS if behind_gateway else math.inf
    app.state.stream_bytes = GATEWAY_BYTES if behind_gateway else math.inf
    problems.install(app)
    for noun in (callbacks, workflows, events, graph, playbooks, plans, health):
        check_that_all_are_guarded(noun.router)
        app.include_router(noun.router)
    return app


class _App(FastAPI):
    """An app that describes the shapes of its answers when it is asked: making them takes longer than all else at its start."""

    def openapi(self) -> dict[str, Any]:
        from noetl.api.http.schemas import schemas

        document = super().openapi()
        document["components"].setdefault("schemas", {}).update(schemas())
        return document


class PlainStartupFailure:
    """Middleware that names a setting or store that is not as it must be to the server in a sentence, not a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            error = sys.exception()
            if message["type"] == "lifespan.startup.failed" and isinstance(error, SettingError | StoreError):
                message = {**message, "message": str(error)}
            await send(message)

        await self._app(scope, receive, tell if scope["type"] == "lifespan" else send)


@contextmanager
def _noticing_signals(notice: Callable[[], object]) -> Iterator[None]:
    """Within it, `notice` is called when the process is asked to stop, and then what would have been called anyway.

    A server waits for open connections before it tells the app that it stops, and a stream of events may be open for
    days. So the streams have to learn of it earlier.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler

    def chained(number: int, frame: FrameType | None) -> None:
        notice()
        handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, chained)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


app = create_app()
