"""Routes of the page in a browser: one document for all its addresses, and the files that it loads.

They need no credentials, as they say nothing of a tenant. The page sends a key with each of its requests.
"""

from __future__ import annotations

import gzip
import re
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from noetl.api.context import AppContext
from noetl.api.http.encodings import IDENTITY, choose_encoding
from noetl.api.http.problems import Problem
from noetl.api.routes.dependencies import PUBLIC

router = APIRouter(include_in_schema=False, dependencies=[PUBLIC])

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".woff2": "font/woff2", ".txt": "text/plain"}
_HASHED_NAME = re.compile(r"-[0-9A-Z]{8}\.js")
"""Names of files whose content never changes, because their names have a hash of it."""

_DOCUMENT = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>NoETL</title>
<link rel="stylesheet" href="{root}/ui/files/page.css">
<link rel="preload" href="{root}/ui/files/inter.woff2" as="font" type="font/woff2" crossorigin>
<div id="app"></div>
<noscript>This page needs JavaScript. The command line shows the same: noetl runs list --url URL</noscript>
<script type="module" src="{root}/ui/files/app.js" data-root="{root}"></script>
"""


@router.get("/")
def start(request: Request) -> Response:
    """Send a browser to the page. A program gets the problem of an unknown path."""
    if "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(404)
    return RedirectResponse(f"{_root(request)}/ui", 307)


@router.get("/ui/files/{name}")
def file(name: str, request: Request) -> Response:
    """Return a file that the page loads, in the encoding that its client prefers."""
    if name not in _file_names():
        raise Problem(404, "Unknown file of the page.", slug="not-found")
    media_type = _MEDIA_TYPES[PurePath(name).suffix]
    encodings = () if media_type == "font/woff2" else ("br", "gzip")  # a font is compressed itself
    encoding = choose_encoding(request.headers.getlist("accept-encoding"), encodings)
    lifetime = "public, max-age=31536000, immutable" if _HASHED_NAME.search(name) else "no-cache"
    headers = {"Cache-Control": lifetime, "Vary": "Accept-Encoding"}
    if encoding != IDENTITY:
        headers["Content-Encoding"] = encoding
    return Response(_read(name, encoding), media_type=media_type, headers=headers)


@router.get("/ui")
@router.get("/ui/{address:path}")
async def page(request: Request) -> Response:
    """Return the page. Its script reads the address. A process starts for what it draws and checks first."""
    context: AppContext = request.app.state.context
    if context.opened_services is not None:
        context.opened_services.compute.prepare()
    text = _DOCUMENT.format(root=escape(_root(request)))
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
    return Response(text, media_type="text/html", headers=headers)


def _root(request: Request) -> str:
    return str(request.scope.get("root_path") or "").rstrip("/")


@cache
def _file_names() -> frozenset[str]:
    names = {file.name for file in (files("noetl.api.ui") / "bundle").iterdir()}
    return frozenset(name for name in names if PurePath(name).suffix in _MEDIA_TYPES)


@cache
def _read(name: str, encoding: str) -> bytes:
    """Return a file in an encoding. It is made once, because anyone may request it again and again."""
    folder = files("noetl.api.ui") / "bundle"
    if encoding == "br":
        return (folder / f"{name}.br").read_bytes()
    content = (folder / name).read_bytes()
    return gzip.compress(content, mtime=0) if encoding == "gzip" else content
