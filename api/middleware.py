"""What every request passes before anything else is done for it: whether it is served, and for whom."""

from __future__ import annotations

from fastapi import Request
from noetl.api.auth.authentication import LOCAL, Caller
from noetl.api.auth.loopback import refusal
from noetl.api.context import Shared
from noetl.api.http.problems import problem_of
from noetl.executor.engine.external import CALLBACKS
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN = ("/healthz", "/readyz")
"""What is answered to anyone, beside callbacks: whether the service lives and is ready."""

_CALLER = "noetl.caller"


class Gate:
    """Middleware that refuses whoever is not to be served, whatever started the app, and notes who is.

    Once authentication is configured, that is everyone with credentials. Until then it is this machine, unless the app is to
    be shut to everyone.
    """

    def __init__(self, app: ASGIApp, shared: Shared) -> None:
        self._app = app
        self._shared = shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            scope[_CALLER] = await self._caller(scope)
        except Exception as error:  # noqa: BLE001  What is no problem is raised again.
            problem = problem_of(Request({**scope, "type": "http"}), error)
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": problem.detail})
            else:
                await problem.response(scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller | None:
        """Who asks; None where everyone may.

        Raises:
            Problem: nobody who is served.
        """
        is_open, refused = is_open_to_all(scope["path"]), refusal(scope)
        if is_open and refused is None:
            return None
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]

        def caller() -> Caller | None:
            authentication = self._shared.opened().authentication
            if authentication.is_configured():
                return None if is_open else authentication.caller(given)
            if refused is not None:
                raise refused
            return LOCAL

        return await run_in_threadpool(caller)


def is_open_to_all(path: str) -> bool:
    """Whether no credentials are asked for at an address: the token in that of a callback is one."""
    return path in OPEN or path.startswith(CALLBACKS)


def caller_of(request: Request) -> Caller | None:
    """Who has asked, where that was to be told."""
    caller: Caller | None = request.scope.get(_CALLER)
    return caller
