"""Routes of the documentation: `/openapi.json`, and pages that show it.

They need no credentials, as they say nothing of a tenant. A person opens a page in a browser, which sends no
key. Nothing is loaded from another host.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from noetl.api.http.encodings import GZIP, choose_encoding
from noetl.api.http.problems import Problem
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import PUBLIC

router = APIRouter(include_in_schema=False, dependencies=[PUBLIC])

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
"""Content-security policy of the pages. Both programs write styles into the page."""

_SCRIPT, _STYLE = "text/javascript", "text/css"
_ASSETS = {
    "redoc.standalone.js": _SCRIPT,
    "start-redoc.js": _SCRIPT,
    "start-swagger-ui.js": _SCRIPT,
    "swagger-ui-bundle.js": _SCRIPT,
    "swagger-ui.css": _STYLE,
}


@router.get("/openapi.json")
def document(request: Request) -> Response:
    """Return the description of all calls for programs (OpenAPI)."""
    servers = [{"url": request.scope.get("root_path") or "/"}]
    return JsonResponse({**request.app.openapi(), "servers": servers})


@router.get("/docs")
def docs() -> Response:
    """Return a page on which calls can be read and tried."""
    return _page("docs.html")


@router.get("/redoc")
def redoc() -> Response:
    """Return a page on which calls can be read."""
    return _page("redoc.html")


@router.get("/docs/assets/{name}")
def asset(name: str, request: Request) -> Response:
    """Return a script or a style of the pages."""
    media_type = _ASSETS.get(name)
    if media_type is None:
        raise Problem(404, "Unknown file of the documentation.", slug="not-found")
    headers = {"Cache-Control": "public, max-age=3600", "Vary": "Accept-Encoding"}
    if choose_encoding(request.headers.getlist("accept-encoding"), (GZIP,)) != GZIP:
        return Response(_read(name), media_type=media_type, headers=headers)
    return Response(_pack(name), media_type=media_type, headers={**headers, "Content-Encoding": "gzip"})


def _page(name: str) -> Response:
    return Response(_read(name), media_type="text/html", headers={"Content-Security-Policy": PAGE_POLICY})


@cache
def _read(name: str) -> bytes:
    return (files("noetl.api.pages") / name).read_bytes()


@cache
def _pack(name: str) -> bytes:
    """Return a file compressed. It is done once, because anyone may request the file again and again."""
    return gzip.compress(_read(name), mtime=0)
