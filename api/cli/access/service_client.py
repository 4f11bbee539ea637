"""The client of a remote service: its address, its credentials, and sentences about what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from noetl.api.cli.access.outage import ServiceOutage
from noetl.api.cli.display.console import EXIT_FAILED, CommandError
from noetl.api.cli.service_requests import (
    PASSING_STATUSES,
    PassingFailureError,
    ServiceResponse,
    parse_service_url,
    send_request,
)

HTTP_TIMEOUT_SECONDS = 60.0
_UNAUTHENTICATED, _NOT_FOUND = 401, 404
_NOT_ABOUT_THE_REQUEST = (_UNAUTHENTICATED, 403, 408)
"""Statuses of refusals because of the credentials, or because the request came too slowly."""


class UnknownResourceError(CommandError):
    """A response 404 with a problem document: the service does not have what the request names."""


class RefusedRequestError(CommandError):
    """A response to a request that cannot be performed as it is, such as input that does not fit."""


class RefusedPlaybookError(CommandError):
    """A response to a playbook that is not accepted. `diagnostics` are its findings as received."""

    def __init__(self, message: str, diagnostics: object) -> None:
        super().__init__(message, EXIT_FAILED)
        self.diagnostics = diagnostics


class ServiceClient:
    """A client of a remote service. NOETL_API_KEY has its credentials."""

    def __init__(self, url: str, credentials: str | None = None) -> None:
        from noetl.api.auth.loopback import is_loopback

        parts = parse_service_url(url, "--url")
        if credentials is None:
            credentials = os.environ.get("NOETL_API_KEY", "").strip()
        if credentials and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise CommandError("NOETL_API_KEY is not sent over http, where others can read it; use https")
        self._url = url.rstrip("/")
        self.host = parts.netloc.rpartition("@")[2]
        self._headers = {"Authorization": f"Bearer {credentials}"} if credentials else {}
        self._outage: ServiceOutage | None = None

    def outlast_outages(self, check: Callable[[], object]) -> None:
        """Repeat requests that change nothing while the service is away. `check` is called meanwhile."""
        self._outage = ServiceOutage(self.host, check)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
    ) -> ServiceResponse:
        """Send a request, and return the successful response.

        Raises:
            UnknownResourceError: the service does not have what the request names.
            RefusedPlaybookError: the service does not accept a playbook.
            OutageError: the service is away for too long, and `outlast_outages` was called before.
            CommandError: the request fails, or the service refuses it.
        """
        if self._outage is None or method != "GET":
            return self._request_once(method, path, body, params)
        return self._outage.outlast(lambda: self._request_once(method, path, body, params))

    def _request_once(
        self, method: str, path: str, body: Any, params: Mapping[str, Any] | None
    ) -> ServiceResponse:
        """Send a request, and return the successful response.

        Raises:
            PassingFailureError: a later request may succeed.
            CommandError: as `request`.
        """
        response = send_request(
            method,
            self._url + path,
            self.host,
            HTTP_TIMEOUT_SECONDS,
            json=body,
            params={name: value for name, value in (params or {}).items() if value is not None},
            headers=self._headers,
        )
        if response.is_success:
            return response
        if response.status in PASSING_STATUSES:
            raise self._passing_failure(response)
        if not isinstance(response.body, dict):
            raise response.unexpected("check --url")
        lines = _problem_lines(self.host, response.status, response.body)
        if response.status == _UNAUTHENTICATED and not self._headers:
            lines[-1] += " Set NOETL_API_KEY."
        if response.status == _NOT_FOUND and response.body.get("type") == "urn:noetl:problem:not-found":
            raise UnknownResourceError(str(response.body.get("detail")))
        if response.body.get("type") == "urn:noetl:problem:invalid-playbook":
            raise RefusedPlaybookError("\n".join(lines), response.body.get("diagnostics"))
        if response.status in _NOT_ABOUT_THE_REQUEST or response.status >= 500:
            raise CommandError("\n".join(lines), EXIT_FAILED)
        # A store refuses it with the same code: the command cannot be executed as given.
        raise RefusedRequestError("\n".join(lines))

    def _passing_failure(self, response: ServiceResponse) -> CommandError:
        """Return the error for a response that asks to come again later."""
        if isinstance(response.body, dict):
            message = "\n".join(_problem_lines(self.host, response.status, response.body))
            return PassingFailureError(message, EXIT_FAILED, retry_after=response.retry_after)
        summary = f"{self.host} answered with {response.status}"
        message = str(response.unexpected("check --url"))
        return PassingFailureError(message, EXIT_FAILED, summary=summary, retry_after=response.retry_after)


def _problem_lines(host: str, status: int, problem: Mapping[str, Any]) -> list[str]:
    """Return the diagnostics and the detail of a problem document, or the status of another response."""
    diagnostics = problem.get("diagnostics")
    lines = map(_describe_diagnostic, diagnostics if isinstance(diagnostics, list) else ())
    detail = problem.get("detail") or problem.get("message") or status
    verb = "could not perform" if status == 500 else "refused"
    return [*filter(None, lines), f"{host} {verb} the request: {detail}"]


def _describe_diagnostic(found: Any) -> str | None:
    """Return a line about a diagnostic, or None if it has another form."""
    try:
        return f"line {found['line']}, column {found['column']}: {found['code']}: {found['message']}"
    except (LookupError, TypeError):
        return None
