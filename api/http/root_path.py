"""The path below which clients see the service, such as `/noetl` behind a proxy or `/prod` in API Gateway.

Problem: the same request arrives with or without this prefix, and links must have it. A proxy may remove it.
uvicorn adds its `--root-path` to every path. An event of API Gateway has the name of the stage in its path,
or only in its context. A custom domain puts a base path before the path of the request.

Algorithm: find the prefix that clients see: the path of NOETL_PUBLIC_URL, or else the prefix with which the
request arrived. Then write the scope as ASGI defines it: `root_path` is the prefix, and `path` begins with
it. The router, access control and the links of responses follow.

A request may name the service as well (`GET http://host/path`, RFC 9112, section 3.2.2), as one to a proxy
does. Then its path is the part behind the host, and its host is the one that it names.

Cost: a few comparisons of strings for each request.

Limits: a prefix may only be removed a second time if no path of the service begins with its first segment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.executor.engine.external import read_public_url
from noetl.executor.errors import SettingError

_GREEDY_PARAMETER = re.compile(r"\{(?P<name>[^{}]+)\+\}$")
"""The last part of a resource or route of API Gateway that stands for all paths: `/{proxy+}`."""


_ABSOLUTE_TARGET = re.compile(r"https?://(?P<host>[^/]*)(?P<path>/.*)?", re.IGNORECASE | re.DOTALL)
"""The target of a request that names the service, too. A path begins with a slash."""

_OWN_RESOURCES = ("/hooks/{tenant}/{path+}", "/ui/{address+}")
"""The routes of the stack that have paths of the service, and of which the last part stands for several."""


class RootPathMiddleware:
    """Middleware that writes the prefix which clients see into the scope of each request.

    `read_settings` returns the settings. `own_segments` are the first segments of the paths of the service.
    """

    def __init__(
        self, app: ASGIApp, read_settings: Callable[[], Mapping[str, str]], own_segments: frozenset[str]
    ) -> None:
        self._app = app
        self._read_settings = read_settings
        self._own_segments = own_segments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope = to_origin_form(scope)
            public_path = read_public_path(self._read_settings())
            scope = locate_request(scope, public_path, self._own_segments)
        await self._app(scope, receive, send)


def to_origin_form(scope: Scope) -> Scope:
    """Return the scope of a request whose target is a path.

    >>> located = to_origin_form({"path": "http://a.test/healthz", "headers": [(b"host", b"b.test")]})
    >>> located["path"], located["headers"]
    ('/healthz', [(b'host', b'a.test')])
    """
    root_path = scope.get("root_path", "")
    target = _ABSOLUTE_TARGET.fullmatch(scope["path"].removeprefix(root_path))
    if target is None:
        return scope
    path = root_path + (target["path"] or "/")
    headers = [header for header in scope["headers"] if header[0] != b"host"]
    host = target["host"].encode("utf-8", "surrogateescape")
    return {**scope, "path": path, "raw_path": quote(path).encode(), "headers": [(b"host", host), *headers]}


def read_public_path(settings: Mapping[str, str]) -> str:
    """Return the path of NOETL_PUBLIC_URL, without a slash at its end. It is empty without one.

    A wrong setting counts as missing here. The start of the service reports it.
    """
    try:
        public_url = read_public_url(settings)
    except SettingError:
        return ""
    return "" if public_url is None else unquote(urlsplit(public_url).path).rstrip("/")


def locate_request(scope: Scope, public_path: str, own_segments: frozenset[str]) -> Scope:
    """Return the scope of a request with the prefix that its client sees as `root_path`.

    >>> scope = {"path": "/noetl/noetl/healthz", "root_path": "/noetl"}
    >>> located = locate_request(scope, "/public", frozenset({"healthz"}))
    >>> located["root_path"], located["path"]
    ('/public', '/public/healthz')
    """
    event = scope.get("aws.event")
    gateway_path = "" if event is None else gateway_prefix(event)
    server_path = scope.get("root_path", "").rstrip("/")
    path = _without_prefix(get_route_path({**scope, "root_path": server_path}), gateway_path)
    for prefix in dict.fromkeys((server_path, public_path)):
        if prefix and prefix.split("/")[1] not in own_segments:
            path = _without_prefix(path, prefix)
    root_path = public_path or gateway_path or server_path
    return {**scope, "root_path": root_path, "path": root_path + path}


def sent_path(event: Mapping[str, Any]) -> str:
    """Return the decoded path that the client of a gateway has sent, with its stage."""
    context = event.get("requestContext") or {}
    return unquote(event.get("rawPath") or context.get("path") or event.get("path") or "/")


def gateway_prefix(event: Mapping[str, Any]) -> str:
    """Return the prefix of a request that a gateway names: a stage, a base path or a resource.

    A route of the gateway that has a path of the service names no prefix.

    >>> gateway_prefix({"path": "/plan", "requestContext": {"path": "/prod/plan", "stage": "prod"}})
    '/prod'
    """
    path, context = sent_path(event), event.get("requestContext") or {}
    resource = event.get("resource") or str(event.get("routeKey", "")).partition(" ")[2]
    greedy = _GREEDY_PARAMETER.search(resource)
    if greedy is not None and not resource.endswith(_OWN_RESOURCES):
        rest = "/" + unquote((event.get("pathParameters") or {}).get(greedy["name"], ""))
        if path.endswith(rest):
            return path.removesuffix(rest)
    event_path = unquote(event.get("path") or "")
    if event_path not in ("", path) and path.endswith(event_path):
        return path.removesuffix(event_path)
    stage = "/" + context.get("stage", "$default")
    return stage if path == stage or path.startswith(f"{stage}/") else ""


def _without_prefix(path: str, prefix: str) -> str:
    """Return the path behind a prefix, or the path itself if it does not begin with the prefix."""
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path.removeprefix(prefix) or "/"
    return path
