"""Problem documents (RFC 9457): the one shape of every error that HTTP answers with."""

from __future__ import annotations

import http
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from noetl.api.http.responses import JSON
from noetl.api.service.errors import NotFoundError, PlaybookError
from noetl.executor.engine.external import CALLBACKS
from noetl.executor.errors import RejectedError, SettingError, StoreError
from noetl.executor.security.redaction import STARS
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger("noetl.api")

_REJECTED = {
    "invalid_cursor": 400,
    "unknown_token": 404,
    "closed": 410,
    "too_large": 413,
    "idempotency_key_reused": 422,
    "inside_region": 422,
    "invalid_input": 422,
    "invalid_name": 422,
    "unknown_step": 422,
}
"""Status codes of the reasons for which a request is rejected; any other reason is a conflict, 409."""


class Problem(Exception):
    """A request that is answered with a problem document.

    `slug` names the kind of problem for programs, or is None where the status says it all. `extras` are further members
    of the document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        slug: str | None = None,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extras: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.slug = slug
        self.title = title or (
            slug.replace("-", " ").capitalize() if slug else http.HTTPStatus(status).phrase
        )
        self.headers = headers
        self.extras = extras

    def response(self, path: str) -> Response:
        """The answer to a request for `path`."""
        instance = shown(path)
        unkept = {"Cache-Control": "no-store"} if instance != path else {}
        document = {
            "type": f"urn:noetl:problem:{self.slug}" if self.slug else "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            **self.extras,
        }
        return JSON(
            document,
            self.status,
            headers={**(self.headers or {}), **unkept},
            media_type="application/problem+json",
        )


def shown(path: str) -> str:
    """The path of a request as answers and logs may show it: a token that answers a callback is a credential."""
    before, callbacks, token = path.partition(CALLBACKS)
    return f"{before}{callbacks}{STARS}" if token else path


def without_tokens(record: logging.LogRecord) -> bool:
    """A filter of logs: a request is logged as everything shows its address."""
    if isinstance(record.args, tuple):
        record.args = tuple(shown(arg) if isinstance(arg, str) else arg for arg in record.args)
    return True


def install(app: FastAPI) -> None:
    """From now on every error of the app is answered with a problem document."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_of(request, error).response(request.url.path)

    for expected in (
        Problem,
        PlaybookError,
        NotFoundError,
        RejectedError,
        StoreError,
        SettingError,
        RequestValidationError,
        HTTPException,
    ):
        app.add_exception_handler(expected, answer)


class Failsafe:
    """Middleware that answers a bug of ours with a reference to the log, and with nothing of its insides."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def watch(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientDisconnect:
            # Nobody is there to be answered, and nothing is wrong here.
            return
        except Exception:
            reference = secrets.token_hex(8)
            _log.exception("%s %s failed, reference %s", scope["method"], shown(scope["path"]), reference)
            if has_started:
                raise
            problem = Problem(
                500,
                "Something went wrong here. The log of the service says more under the reference.",
                slug="internal-error",
                reference=reference,
            )
            await problem.response(scope["path"])(scope, receive, send)


def problem_of(request: Request, error: Exception) -> Problem:
    """The problem that an error is to whoever has asked; one that is a bug of ours is raised again."""
    match error:
        case Problem():
            return error
        case PlaybookError():
            return Problem(
                422,
                _count_errors(error),
                slug="invalid-playbook",
                diagnostics=[diagnostic.to_json() for diagnostic in error.diagnostics],
            )
        case NotFoundError():
            return Problem(404, str(error), slug="not-found")
        case RejectedError():
            status = _REJECTED.get(error.reason, 409)
            return Problem(status, error.message, slug=error.reason.replace("_", "-"), **error.details)
        case StoreError():
            _log.error("the store failed: %s", error)
            return Problem(
                503, "The store cannot be reached.", slug="store-unavailable", headers={"Retry-After": "5"}
            )
        case SettingError():
            _log.error("the service is not set up: %s", error)
            return Problem(503, "The service is not set up. Its log says what is missing.", slug="not-set-up")
        case RequestValidationError():
            return Problem(
                400, "; ".join(_sentence(found) for found in error.errors()), slug="invalid-request"
            )
        case HTTPException(status_code=404):
            return Problem(404, f"There is nothing at {shown(request.url.path)}.")
        case HTTPException(status_code=405):
            return Problem(
                405, f"{request.method} is not allowed at {shown(request.url.path)}.", headers=error.headers
            )
        case HTTPException():
            return Problem(error.status_code, str(error.detail), headers=error.headers)
    raise error


def _count_errors(error: PlaybookError) -> str:
    errors = sum(diagnostic.severity == "error" for diagnostic in error.diagnostics)
    return f"The playbook has {errors} error{'' if errors == 1 else 's'}; nothing was started or stored."


def _sentence(found: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in found["loc"])
    return f"{place}: {found['msg']}"


def unauthenticated(detail: str, *, error: str | None = "invalid_token") -> Problem:
    """The answer to someone who is not believed (RFC 6750)."""
    challenge = 'Bearer realm="noetl"' + (f', error="{error}"' if error else "")
    return Problem(401, detail, slug="unauthenticated", headers={"WWW-Authenticate": challenge})


def not_allowed(scope: str) -> Problem:
    """The answer to someone who may not do that."""
    challenge = f'Bearer realm="noetl", error="insufficient_scope", scope="{scope}"'
    detail = f"This needs the scope `{scope}`, which these credentials do not have."
    return Problem(
        403, detail, slug="insufficient-scope", headers={"WWW-Authenticate": challenge}, scope=scope
    )
