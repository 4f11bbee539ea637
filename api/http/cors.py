"""Requests of web pages of other origins (CORS), if NOETL_CORS_ORIGINS names the origins.

Credentials are keys and tokens in the header `Authorization`, which a page must have. Cookies are not used,
so the header `Access-Control-Allow-Credentials` is never sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.executor.errors import SettingError

SETTING = "NOETL_CORS_ORIGINS"
ANY_ORIGIN = "*"
PREFLIGHT_SECONDS = 600

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "traceparent",
    "tracestate",
)
_RESPONSE_HEADERS = (
    "Accept-Post",
    "Allow",
    "Debounced",
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
)


def read_cors_origins(settings: Mapping[str, str]) -> tuple[str, ...]:
    """Return the origins whose pages may send requests. `*` alone is every origin.

    Raises:
        SettingError: an entry is no origin.
    """
    entries = settings.get(SETTING, "").split(",")
    origins = tuple(entry.strip().lower().rstrip("/") for entry in entries if entry.strip())
    if origins == (ANY_ORIGIN,):
        return origins
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise SettingError(
                f"{SETTING} has {origin!r}; it must list origins such as https://app.example.com, or be `*`."
            )
    return origins


class CorsMiddleware:
    """Middleware that lets pages of the configured origins read responses. Settings are read at first use."""

    def __init__(self, app: ASGIApp, read_settings: Callable[[], Mapping[str, str]]) -> None:
        self._app = app
        self._read_settings = read_settings
        self._with_cors: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._with_cors is None:
            self._with_cors = self._configure()
        await self._with_cors(scope, receive, send)

    def _configure(self) -> ASGIApp:
        try:
            origins = read_cors_origins(self._read_settings())
        except SettingError:
            origins = ()  # The start of the service reports it.
        if not origins:
            return self._app
        return CORSMiddleware(
            self._app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
            max_age=PREFLIGHT_SECONDS,
        )
