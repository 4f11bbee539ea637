"""The checks that the length of a request is unambiguous (RFC 9112, section 6.3), and its header short.

A request with both `Content-Length` and `Transfer-Encoding` may end at two places. So may one of HTTP/1.0
with `Transfer-Encoding`, which that version does not have. If a proxy and the server choose different ones,
the rest is read as another request (request smuggling).

Each look for a header compares the names of all of them. With thousands, a request would take the event loop
for milliseconds.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.api.http.problems import Problem

MAX_HEADER_LINES = 100
"""How many lines the header of a request has at most. Browsers and proxies send about 30."""


class FramingMiddleware:
    """Middleware that refuses a request with two lengths or a long header, and closes its connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = _reason_to_refuse(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await problem.response(scope["path"])(scope, receive, send)


def _reason_to_refuse(scope: Scope) -> Problem | None:
    close = {"Connection": "close"}
    if len(scope["headers"]) > MAX_HEADER_LINES:
        return Problem(431, f"The header has more than {MAX_HEADER_LINES} lines.", headers=close)
    headers = Headers(scope=scope)
    if "transfer-encoding" not in headers:
        return None
    if "content-length" in headers:
        detail = "The headers Content-Length and Transfer-Encoding exclude each other."
    elif scope.get("http_version") == "1.0":
        detail = "HTTP/1.0 has no header Transfer-Encoding."
    else:
        return None
    return Problem(400, detail, slug="invalid-request", headers=close)
