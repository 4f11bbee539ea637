"""The check that the length of a request is unambiguous (RFC 9112, section 6.3).

A request with both `Content-Length` and `Transfer-Encoding` may end at two places. If a proxy and the server
choose different ones, the rest is read as another request (request smuggling).
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.api.http.problems import Problem


class FramingMiddleware:
    """Middleware that refuses a request with two lengths, and closes its connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "transfer-encoding" in headers and "content-length" in headers:
            detail = "The headers Content-Length and Transfer-Encoding exclude each other."
            problem = Problem(400, detail, slug="invalid-request", headers={"Connection": "close"})
            await problem.response(scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)
