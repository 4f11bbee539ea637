"""The access log: one line for each request, with who sent it, how it was answered, and how long it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from http import HTTPStatus

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from noetl.api.http.problems import redact_path
from noetl.executor.errors import SettingError
from noetl.executor.runtime.json_logs import LOG_CONTEXT

SETTING = "NOETL_ACCESS_LOG"
MAX_PATH_LENGTH = 300
PROBES = ("/healthz", "/readyz")
"""Paths that a load balancer asks for every few seconds. They are logged only if the answer is an error."""

ACCESS_LOGGER = "noetl.access"

_OF_CALLER = ("caller", "tenant")
"""What `note_caller` adds to log lines."""

logger = logging.getLogger(ACCESS_LOGGER)


def read_access_log(settings: Mapping[str, str]) -> bool:
    """Return whether requests are logged: `NOETL_ACCESS_LOG` is `on`, or is not set.

    Raises:
        SettingError: the setting is neither `on` nor `off`.
    """
    text = settings.get(SETTING, "").strip() or "on"
    if text not in ("on", "off"):
        raise SettingError(f"{SETTING} is {text!r}; it must be `on` or `off`.")
    return text == "on"


def note_caller(name: str, tenant: str) -> None:
    """Add the caller to all log lines of the current request."""
    LOG_CONTEXT.set({**LOG_CONTEXT.get(), "caller": name, "tenant": tenant})


class AccessLogMiddleware:
    """Middleware that logs each request when its response has been sent, or when its client has left.

    The query is left out: it may contain tickets and input. The path has the prefix that clients see.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not logger.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        began_at, status, size = time.perf_counter(), 0, 0
        # The task of a pipelined request inherits the caller of the request before. The next one of this task
        # has another caller, too.
        inherited = {name: value for name, value in LOG_CONTEXT.get().items() if name not in _OF_CALLER}
        before = LOG_CONTEXT.set(inherited)

        async def send_noted(message: Message) -> None:
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            if get_route_path(scope) not in PROBES or status != HTTPStatus.OK:
                _log(scope, status, size, time.perf_counter() - began_at)
            LOG_CONTEXT.reset(before)


def _log(scope: Scope, status: int, size: int, seconds: float) -> None:
    """Log a request. A status of 0 means that its client has left before the response."""
    client, method, path = scope.get("client"), scope["method"], redact_path(scope["path"])
    fields = {
        "method": method,
        "path": path[:MAX_PATH_LENGTH],
        "status": status,
        "bytes": size,
        "seconds": round(seconds, 4),
        "address": client[0] if client else None,
    }
    text = f"{method} {path[:MAX_PATH_LENGTH]} {status or 'left'}"
    logger.info("%s", text, extra={"fields": fields})
