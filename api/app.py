"""The HTTP app. Workers in its process execute the runs that it accepts.

`uvicorn noetl.api.app:app` serves it. Settings are read from the environment at the start, not at the import.
"""

from __future__ import annotations

import asyncio
import logging
import math
import pkgutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from importlib.metadata import version
from types import FrameType
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from noetl.api import routes
from noetl.api.access import AccessControl, AccessTable, tenant_of_answer
from noetl.api.compute.firing_evaluator import create_firing_evaluator
from noetl.api.compute.pool import read_compute_processes
from noetl.api.context import AppContext
from noetl.api.http import problems
from noetl.api.http.access_log import AccessLogMiddleware
from noetl.api.http.cors import CorsMiddleware, read_cors_origins
from noetl.api.http.encodings import CompressionMiddleware
from noetl.api.http.entity_tags import EntityTagMiddleware
from noetl.api.http.framing import FramingMiddleware
from noetl.api.http.list_stream import MAX_STREAM_SECONDS
from noetl.api.http.methods import HeadMiddleware, MethodMiddleware
from noetl.api.http.negotiation import NegotiationMiddleware
from noetl.api.http.open_requests import OpenRequestsMiddleware
from noetl.api.http.request_shares import is_contended
from noetl.api.http.responses import JsonResponse
from noetl.api.http.root_path import RootPathMiddleware
from noetl.api.http.route_match import FoundRoute
from noetl.api.http.security_headers import SecurityHeadersMiddleware
from noetl.api.http.unsent_answers import AnswerBudget, UnsentAnswersMiddleware
from noetl.executor.errors import SettingError, StoreError
from noetl.planner.frozen import replace

DRAIN_SECONDS = 20.0
"""Time for running steps to finish when the service stops. The next start repeats those that do not."""

GATEWAY_SECONDS = 20.0
"""Longest duration of an event stream through a gateway.

The gateway buffers responses, and waits 30 seconds at most.
"""

GATEWAY_BYTES = 1_500_000
"""Bytes of an event stream through a gateway after which it ends.

A Lambda function may return 6 MB, and JSON needs two bytes for a quotation mark.
"""

COMPRESSED_BYTES = 1024
"""Least size of a body that is compressed. Receipts of callbacks and other credentials are smaller."""

COMPRESSION_LEVEL = 5


def create_app(environ: Mapping[str, str] | None = None, *, has_gateway: bool = False) -> FastAPI:
    """Return the app with the settings of `environ`, or of the environment of the process.

    Its lifespan starts the workers. Without a lifespan, the app opens its store at the first request and
    executes no run.

    With `has_gateway`, requests come through API Gateway. Every client needs credentials, because the peer is
    always the gateway. Event streams are short, because the gateway returns only complete responses.
    """
    context = AppContext(environ, always_authenticated=has_gateway)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        from noetl.executor.worker import Worker, read_worker_settings

        settings = read_worker_settings(context.settings)
        context.worker_threads = settings.all_threads
        read_cors_origins(context.settings)
        context.compute_processes = read_compute_processes(context.settings)
        logging.getLogger("uvicorn.access").addFilter(problems.redact_tokens)
        services = await run_in_threadpool(context.services)
        try:
            evaluator = create_firing_evaluator(services.compute, asyncio.get_running_loop())
            worker = Worker(services.store, replace(settings, evaluator=evaluator))
            await run_in_threadpool(worker.start)
            try:
                with _on_stop_signal(context.stop_clients):
                    yield
            finally:
                await run_in_threadpool(worker.stop, timeout_seconds=DRAIN_SECONDS)
        finally:
            await services.compute.close()
            context.close()

    routers = find_routers()
    table = AccessTable(routers)
    app = _LazyDocumentApp(
        title="NoETL",
        version=version("noetl"),
        description="Compiles playbooks and runs them durably.",
        lifespan=lifespan,
        default_response_class=JsonResponse,
        redirect_slashes=False,
        openapi_url=None,
        middleware=_middleware(context, table, has_access_log=not has_gateway),
    )
    app.state.context = context
    app.state.stream_seconds = GATEWAY_SECONDS if has_gateway else math.inf
    app.state.stream_bytes = GATEWAY_BYTES if has_gateway else math.inf
    app.state.has_streams = not has_gateway
    app.state.list_stream_seconds = MAX_STREAM_SECONDS
    problems.install_handlers(app)
    _include(app, routers)
    return app


def _include(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Let an app have the routes of routers, behind one that finds the router of a request."""
    parts: dict[int, Router] = {}
    for router in routers:
        count = len(app.routes)
        app.include_router(router)
        part = Router(app.routes[count:], redirect_slashes=False)
        parts |= {id(route): part for route in router.routes}
    app.router.routes.insert(0, FoundRoute(parts))


def _middleware(context: AppContext, table: AccessTable, *, has_access_log: bool) -> list[Middleware]:
    """Return what each request passes before its route, the outermost first."""

    def read_settings() -> Mapping[str, str]:
        return context.settings

    own_segments = table.routes.first_segments
    return [
        Middleware(RootPathMiddleware, read_settings=read_settings, own_segments=own_segments),
        *([Middleware(AccessLogMiddleware)] if has_access_log else []),
        Middleware(StartupErrorMiddleware),
        Middleware(SecurityHeadersMiddleware),
        Middleware(HeadMiddleware),
        Middleware(FramingMiddleware),
        Middleware(CorsMiddleware, read_settings=read_settings),
        Middleware(OpenRequestsMiddleware, read_settings=read_settings),
        Middleware(
            UnsentAnswersMiddleware,
            budget=AnswerBudget(),
            tenant_of=tenant_of_answer,
            is_contended=is_contended,
        ),
        Middleware(CompressionMiddleware, minimum_size=COMPRESSED_BYTES, compresslevel=COMPRESSION_LEVEL),
        Middleware(problems.InternalErrorMiddleware),
        Middleware(AccessControl, context=context, table=table),
        Middleware(MethodMiddleware),
        Middleware(NegotiationMiddleware),
        Middleware(EntityTagMiddleware),
    ]


def find_routers() -> list[APIRouter]:
    """Return the routers of `api/routes`: each module with a `router` is a part of the app.

    Those whose paths have no parameters come first, so that `/workflows/statistics` is not taken for a run.
    """
    names = [f"{routes.__name__}.{module.name}" for module in pkgutil.iter_modules(routes.__path__)]
    routers = [module.router for module in map(import_module, names) if hasattr(module, "router")]
    return sorted(routers, key=lambda router: any("{" in route.path for route in router.routes))


class _LazyDocumentApp(FastAPI):
    """An app that builds its document at the first request for it.

    Building it takes longer than all the rest of the start. Requests that arrive meanwhile wait for it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._document: dict[str, Any] | None = None
        self._building = threading.Lock()

    def openapi(self) -> dict[str, Any]:
        with self._building:
            if self._document is None:
                from noetl.api.document.completion import complete_document

                routes = [route for router in find_routers() for route in router.routes]
                self._document = complete_document(
                    super().openapi(), [route for route in routes if isinstance(route, APIRoute)]
                )
            return self._document


class StartupErrorMiddleware:
    """Middleware that reports a wrong setting or store at start-up as one sentence.

    Without it, Starlette sends the traceback to the server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_sentence(message: Message) -> None:
            error = sys.exception()
            is_failure = message["type"] == "lifespan.startup.failed"
            if is_failure and isinstance(error, SettingError | StoreError):
                message = {**message, "message": str(error)}
            await send(message)

        await self._app(scope, receive, send_sentence if scope["type"] == "lifespan" else send)


@contextmanager
def _on_stop_signal(callback: Callable[[], object]) -> Iterator[None]:
    """Call `callback` when the process receives a signal to stop, before the handler that was installed.

    A server waits for open connections before it ends the lifespan of the app. An event stream may be open
    for days, so streams must learn of the signal earlier.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler

    def chained(number: int, frame: FrameType | None) -> None:
        callback()
        handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, chained)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


app = create_app()
