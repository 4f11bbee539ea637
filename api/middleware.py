"""Middleware that authenticates every request before anything else handles it."""

from __future__ import annotations

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.api.auth.authentication import LOCAL_CALLER, Caller
from noetl.api.auth.loopback import loopback_problem
from noetl.api.context import AppContext
from noetl.api.http.problems import problem_from
from noetl.executor.engine.external import CALLBACK_PATH

PUBLIC_PATHS = ("/healthz", "/readyz")
"""Paths that need no credentials, besides those of callbacks."""

_CALLER = "noetl.caller"


class AuthenticationMiddleware:
    """Middleware that refuses requests without accepted credentials, and stores the caller of the others.

    While no authentication is configured, requests from this machine need no credentials, and all others are
    refused.
    """

    def __init__(self, app: ASGIApp, context: AppContext) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            scope[_CALLER] = await self._authenticate(scope)
        except Exception as error:  # noqa: BLE001  An unexpected error is raised again.
            problem = problem_from(Request({**scope, "type": "http"}), error)
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": problem.detail})
            else:
                await problem.response(scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _authenticate(self, scope: Scope) -> Caller | None:
        """Return the caller; None at a path that needs no credentials.

        Raises:
            Problem: the request is refused.
        """
        is_public_path, problem = is_public(scope["path"]), loopback_problem(scope)
        if is_public_path and problem is None:
            return None
        authorization = [
            value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"
        ]

        def authenticate() -> Caller | None:
            authenticator = self._context.services().authenticator
            if authenticator.is_required():
                return None if is_public_path else authenticator.authenticate(authorization)
            if problem is not None:
                raise problem
            return LOCAL_CALLER

        return await run_in_threadpool(authenticate)


def is_public(path: str) -> bool:
    """Return whether `path` needs no credentials. The token in the path of a callback is the credential."""
    return path in PUBLIC_PATHS or path.startswith(CALLBACK_PATH)


def caller_of(request: Request) -> Caller | None:
    """Return the caller of a request; None at a path that needs no credentials."""
    caller: Caller | None = request.scope.get(_CALLER)
    return caller
