"""The methods of a path: HEAD wherever GET is, OPTIONS, and 405 with all methods that the path has.

Problem: a router decides by the first route of a path, so HEAD is refused, and `Allow` lists the methods of
one route only.

Algorithm: HEAD is answered as GET, and its body is dropped (RFC 9110, section 9.3.2). As soon as the headers
are known, the work is cancelled if more of the body would follow. OPTIONS and unknown methods are answered
from all routes of the path.

Cost: HEAD costs as much as GET, because its length and its tag are those of the body.

Limits: a HEAD request for a stream of events has no length.
"""

from __future__ import annotations

import anyio
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from noetl.api.http.problems import Problem, redact_path
from noetl.api.http.route_match import ROUTE_MATCH, RouteMatch
from noetl.planner.diagnostics.wording import abbreviate

_SENT_METHOD = "noetl.sent_method"
"""Key in the scope of a HEAD request that is answered as GET."""


class HeadMiddleware:
    """Middleware that answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        with anyio.CancelScope() as work:

            async def send_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                elif message["type"] == "http.response.body" and not work.cancel_called:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    if message.get("more_body", False):
                        work.cancel()

            await self._app({**scope, "method": "GET", _SENT_METHOD: "HEAD"}, receive, send_headers)


class MethodMiddleware:
    """Middleware that answers OPTIONS, and a method that no route of the path has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match: RouteMatch | None = scope.get(ROUTE_MATCH)
        if match is None or match.route is not None or not match.same_path:
            await self._app(scope, receive, send)
            return
        headers = {"Allow": ", ".join(match.allowed_methods)}
        response: Response
        if scope["method"] == "OPTIONS":
            response = Response(status_code=204, headers=headers)
        else:
            method = scope.get(_SENT_METHOD, scope["method"])
            place = abbreviate(redact_path(scope["path"]))
            detail = f"{abbreviate(method)} is not allowed at {place}; its methods are {headers['Allow']}."
            response = Problem(405, detail, headers=headers).response(scope["path"])
        await response(scope, receive, send)
