"""The check that the length of a request is unambiguous (RFC 9112, section 6.3).

A request with both `Content-Length` and `Transfer-Encoding` may end at two places. So may one of HTTP/1.0
with `Transfer-Encoding`, which that version does not have. If a proxy and the server choose different ones,
the rest is read as another request (request smuggling).
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
        detail = None
        if "transfer-encoding" in headers and "content-length" in headers:
            detail = "The headers Content-Length and Transfer-Encoding exclude each other."
        elif "transfer-encoding" in headers and scope.get("http_version") == "1.0":
            detail = "HTTP/1.0 has no header Transfer-Encoding."
        if detail is not None:
            problem = Problem(400, detail, slug="invalid-request", headers={"Connection": "close"})
            await problem.response(scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)
