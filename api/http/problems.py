"""Problem documents (RFC 9457): the body of every error response."""

from __future__ import annotations

import http
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from noetl.api.http.problem_types import problem_type
from noetl.api.http.responses import JsonResponse
from noetl.api.service.errors import (
    NotFoundError,
    PlaybookError,
    ServiceBusyError,
    TenantBusyError,
    UnfitPlaybookError,
    WorkLimitError,
)
from noetl.api.service.switch_views import VerdictEntry
from noetl.api.service.views import DiagnosticEntry, View
from noetl.executor.engine.external import CALLBACK_PATH
from noetl.executor.errors import (
    ChangedSchemaError,
    DamagedRunError,
    RejectedError,
    SettingError,
    StoreError,
    UnknownRunError,
)
from noetl.executor.security.redaction import MASK
from noetl.planner.diagnostics.wording import abbreviate, shorten

MAX_TEXT = 4_000
"""How many characters a text of a problem document has."""

_log = logging.getLogger("noetl.api")


class InputProblem(View, schema_name="InputProblem"):
    """A value of the input that does not fit. `line` is that of its declaration in the playbook."""

    name: str
    message: str
    line: int | None


class FieldProblem(View, schema_name="FieldProblem"):
    """A field of an answer that is missing, unknown or invalid."""

    name: str
    message: str


class ProblemDocument(View, schema_name="Problem"):
    """Problem document (RFC 9457).

    `type` names the problem for programs: `about:blank`, or `urn:noetl:problem:` with a name. The optional
    members depend on it.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    available: Sequence[str] | None = None
    diagnostics: Sequence[DiagnosticEntry] | None = None
    fields: Sequence[FieldProblem] | None = None
    inputs: Sequence[InputProblem] | None = None
    key: str | None = None
    limit: int | None = None
    reference: str | None = None
    runs: Sequence[str] | None = None
    scope: str | None = None
    setting: str | None = None
    verdict: VerdictEntry | None = None


def _shorten_texts(value: Any) -> Any:
    """Return a member of a document with the beginning of each text: a client may choose what is quoted."""
    match value:
        case str():
            return shorten(value, MAX_TEXT)
        case dict():
            return {name: _shorten_texts(part) for name, part in value.items()}
        case list() | tuple():
            return [_shorten_texts(part) for part in value]
    return value


class Problem(Exception):
    """An error that is answered with a problem document.

    `slug` is one of PROBLEM_TYPES. It is None if the status is enough.
    `extras` are further members of the document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        slug: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extras: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.slug = slug
        self.title = problem_type(slug).title_of(slug) if slug else http.HTTPStatus(status).phrase
        self.headers = headers
        self.extras = extras

    def response(self, path: str) -> Response:
        """Return the response to a request for `path`."""
        instance = redact_path(path)
        cache_headers = {"Cache-Control": "no-store"} if instance != path else {}
        document = {
            "type": f"urn:noetl:problem:{self.slug}" if self.slug else "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            **self.extras,
        }
        document = {name: _shorten_texts(value) for name, value in document.items()}
        headers = {**(self.headers or {}), **cache_headers}
        return JsonResponse(document, self.status, headers=headers, media_type="application/problem+json")


def missing_credentials() -> Problem:
    """Return the problem of a request without credentials (RFC 6750)."""
    detail = "Missing credentials: send an API key or a token as `Authorization: Bearer …`."
    return unauthenticated(detail, error=None)


def unauthenticated(detail: str, *, error: str | None = "invalid_token") -> Problem:
    """Return the problem of a request whose credentials are not accepted (RFC 6750)."""
    challenge = 'Bearer realm="noetl"' + (f', error="{error}"' if error else "")
    return Problem(401, detail, slug="unauthenticated", headers={"WWW-Authenticate": challenge})


def unsigned(detail: str) -> Problem:
    """Return the problem of a request to a webhook that its expected sender has not signed."""
    return Problem(401, detail, slug="unsigned", headers={"WWW-Authenticate": 'Signature realm="noetl"'})


def insufficient_scope(scope: str) -> Problem:
    """Return the problem of a caller whose credentials do not have `scope` (RFC 6750)."""
    challenge = f'Bearer realm="noetl", error="insufficient_scope", scope="{scope}"'
    detail = f"The credentials do not have the required scope `{scope}`."
    headers = {"WWW-Authenticate": challenge}
    return Problem(403, detail, slug="insufficient-scope", headers=headers, scope=scope)


_TOKEN_IN_PATH = re.compile(
    "(?P<before>{}[^a-z]).+".format("[^a-z]+".join(CALLBACK_PATH.strip("/").split("/"))),
    re.IGNORECASE | re.DOTALL,
)
"""The path of a callback. Signs between its words match in one way only, so a search takes linear time."""

TICKET_IN_QUERY = re.compile(r"(?P<name>[?&]ticket=)(?P<ticket>[^&\s]*)")


def redact_path(path: str) -> str:
    """Replace the callback token and the ticket in the address of a request, because they are credentials.

    An address with a slash, dot or line break too many, or with capital letters, is no call. But its token
    may be valid.

    >>> redact_path("/workflows/callbacks/secret/heartbeat")
    '/workflows/callbacks/***'
    >>> redact_path("/workflows/1/events?ticket=secret&limit=1")
    '/workflows/1/events?ticket=***&limit=1'
    """
    path = TICKET_IN_QUERY.sub(rf"\g<name>{MASK}", path)
    return _TOKEN_IN_PATH.sub(rf"\g<before>{MASK}", path)


def redact_tokens(record: logging.LogRecord) -> bool:
    """Redact callback tokens in the arguments of a log record. Serves as a logging filter: returns True."""
    if isinstance(record.args, tuple):
        record.args = tuple(redact_path(arg) if isinstance(arg, str) else arg for arg in record.args)
    return True


_PLACES = {"query": "query parameter", "path": "part of the path"}
"""Words for the places of parameters. Another place is its own word: `header`."""


def install_handlers(app: FastAPI) -> None:
    """Make `app` answer every expected error with a problem document."""

    async def respond(request: Request, error: Exception) -> Response:
        return problem_from(request, error).response(request.url.path)

    for error_type in (
        Problem,
        PlaybookError,
        NotFoundError,
        RejectedError,
        StoreError,
        SettingError,
        ServiceBusyError,
        TenantBusyError,
        WorkLimitError,
        RequestValidationError,
        HTTPException,
    ):
        app.add_exception_handler(error_type, respond)


class InternalErrorMiddleware:
    """Middleware that answers an unexpected exception with 500 and a reference to the log.

    The response contains nothing of the exception, because its text may be confidential.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            # The client has left while it sent the request: no response can reach it, and it is no defect.
            return
        except Exception:
            reference = secrets.token_hex(8)
            path = redact_path(scope["path"])
            _log.exception("%s %s failed, reference %s", scope["method"], path, reference)
            if has_started:
                raise
            detail = "Internal error. The service log has the details under this reference."
            problem = Problem(500, detail, slug="internal-error", reference=reference)
            await problem.response(scope["path"])(scope, receive, send)


def problem_from(request: Request, error: Exception) -> Problem:
    """Return the problem that describes `error` to the client. Raise an unexpected error again."""
    match error:
        case Problem():
            return error
        case PlaybookError():
            return _problem_of_playbook(error)
        case NotFoundError() | UnknownRunError():
            return Problem(404, str(error), slug="not-found")
        case RejectedError():
            slug = error.reason.replace("_", "-")
            status = problem_type(slug).status
            headers = {"Retry-After": "5"} if status in (429, 503) else None
            return Problem(status, error.message, slug=slug, headers=headers, **error.details)
        case StoreError():
            return _problem_of_store(error)
        case SettingError():
            _log.error("the service is not configured: %s", error)
            detail = "The service is not configured. The service log names the setting."
            return Problem(503, detail, slug="not-set-up")
        case ServiceBusyError():
            return Problem(503, str(error), slug="service-busy", headers={"Retry-After": "5"})
        case TenantBusyError():
            return Problem(429, str(error), slug="tenant-busy", headers={"Retry-After": "5"})
        case WorkLimitError():
            return Problem(422, str(error), slug="too-much-work")
        case RequestValidationError():
            detail = " ".join(_describe_validation_error(entry) for entry in error.errors())
            return Problem(400, detail, slug="invalid-request")
        case HTTPException():
            return _problem_of_http_error(request, error)
    raise error


def _problem_of_store(error: StoreError) -> Problem:
    if isinstance(error, DamagedRunError):
        detail = (
            f"The run is damaged, and waits until its store is repaired. {error}"
            " It can be deleted, although it has not ended."
        )
        return Problem(500, detail, slug="run-damaged")
    _log.error("the store failed: %s", error)
    detail = str(error) if isinstance(error, ChangedSchemaError) else "The store cannot be reached."
    return Problem(503, detail, slug="store-unavailable", headers={"Retry-After": "5"})


def _problem_of_playbook(error: PlaybookError) -> Problem:
    count = sum(diagnostic.severity == "error" for diagnostic in error.diagnostics)
    detail = f"The playbook has {count} error{'' if count == 1 else 's'}; nothing was started or stored."
    if isinstance(error, UnfitPlaybookError):
        # `noetl check` does not report these errors, so the detail names the first.
        first = error.diagnostics[0]
        detail += f" Line {first.span.line}: {first.message} ({first.hint})."
    diagnostics = [diagnostic.to_json() for diagnostic in error.diagnostics]
    return Problem(422, detail, slug="invalid-playbook", diagnostics=diagnostics)


def _problem_of_http_error(request: Request, error: HTTPException) -> Problem:
    path = redact_path(request.url.path)
    match error.status_code:
        case 404:
            root_path = request.scope.get("root_path", "")
            return Problem(404, f"Unknown path {abbreviate(path)}; {root_path}/docs lists all paths.")
        case 405:
            return Problem(405, f"{request.method} is not allowed at {path}.", headers=error.headers)
    return Problem(error.status_code, str(error.detail), headers=error.headers)


def _describe_validation_error(entry: Mapping[str, Any]) -> str:
    # The number of a value of a repeated parameter says nothing to its reader.
    place, *names = (part for part in entry["loc"] if isinstance(part, str))
    subject = _PLACES.get(place, place)
    return f"The {subject} `{'.'.join(names)}` is not valid: {_describe_violation(entry)}."


def _describe_violation(entry: Mapping[str, Any]) -> str:
    """Return what is wrong with a parameter, in words that do not depend on the library that checks it.

    >>> _describe_violation({"type": "less_than_equal", "ctx": {"le": 1000}, "msg": "…"})
    'it must be at most 1,000'
    >>> _describe_violation({"type": "literal_error", "ctx": {"expected": "'a' or 'b'"}, "msg": "…"})
    'it must be `a` or `b`'
    """
    context = entry.get("ctx", {})
    match entry["type"]:
        case "greater_than_equal":
            return f"it must be at least {context['ge']:,}"
        case "less_than_equal":
            return f"it must be at most {context['le']:,}"
        case "enum" | "literal_error":
            return f"it must be {context['expected'].replace(chr(39), '`')}"
        case "bool_parsing":
            return "it must be `true` or `false`"
    message = str(entry["msg"]).removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"
