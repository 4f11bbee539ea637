"""Requests to a service: the check of its address, and messages about what it answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from noetl.api.cli.display.console import EXIT_FAILED, EXIT_USAGE, CommandError
from noetl.executor.model.json_values import read_json
from noetl.planner.diagnostics.wording import abbreviate

if TYPE_CHECKING:
    from httpx import Response

MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""Limit of the body of a response. The result of a run is shorter."""

_WRONG_VERSION = "WRONG_VERSION_NUMBER"
"""Part of the message of OpenSSL if the server does not speak TLS."""


PASSING_STATUSES = (429, 502, 503, 504)
"""Statuses of a service or a proxy that ask a client to come again later."""


class PassingFailureError(CommandError):
    """A request that may succeed later: there is no response, or the service asks to come again.

    `summary` says it for a client that tries again. `retry_after` is how many seconds it must wait at least.
    """

    def __init__(
        self, message: str, exit_code: int = EXIT_USAGE, *, summary: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(message, exit_code)
        self.summary = summary or message
        self.retry_after = retry_after


def parse_service_url(text: str, subject: str, *, is_secret: bool = False) -> SplitResult:
    """Return the parts of an http or https URL.

    `subject` says in the message where the URL is given. The message does not repeat a URL that is secret.

    Raises:
        CommandError: the text is no such URL.
    """
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or " " in text or not text.isprintable():
        example = "https://noetl.example.com"
        shown = "" if is_secret or "@" in text else f", not `{abbreviate(text)}`"
        raise CommandError(f"{subject} must be an http or https URL such as {example}{shown}")
    return parts


def send_request(method: str, url: str, host: str, timeout_seconds: float, **options: Any) -> ServiceResponse:
    """Send a request, and return the response with its whole body. `options` are those of httpx.

    Raises:
        PassingFailureError: there is no response, but a later request may have one.
        CommandError: there can be no response, or it is too long.
    """
    import httpx

    content = bytearray()
    try:
        with httpx.stream(method, url, timeout=timeout_seconds, **options) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_RESPONSE_BYTES:
                    raise CommandError(
                        f"{host} sent a body of more than {MAX_RESPONSE_BYTES:,} bytes", EXIT_FAILED
                    )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        if _WRONG_VERSION in reason:
            reason = "the server does not answer in TLS; is its address http://?"
        may_pass = isinstance(error, httpx.TransportError) and not isinstance(
            error, httpx.UnsupportedProtocol
        )
        error_type = PassingFailureError if may_pass else CommandError
        raise error_type(f"request to {host} failed: {reason}") from error
    return ServiceResponse(response, bytes(content))


class ServiceResponse:
    """A response whose body was read."""

    def __init__(self, response: Response, content: bytes) -> None:
        self.status = response.status_code
        self.is_success = response.is_success
        self._response = response
        self._has_content = bool(content)
        self.body = _parse(content)
        """The value of the body, or None if it is not JSON."""

    @property
    def retry_after(self) -> float:
        """The seconds of the header `Retry-After`, or 0 if it has none."""
        text = self._response.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0

    @property
    def is_replay(self) -> bool:
        """True if an earlier request has started the run of this one."""
        return bool(self._response.headers.get("idempotency-replayed") == "true")

    def unexpected(self, remedy: str) -> CommandError:
        """Return the error for a response that no NoETL service gives."""
        response = self._response
        status = f"{self.status} {response.reason_phrase}".strip()
        kind = response.headers.get("content-type", "").partition(";")[0].strip()
        has_body = "a body without a type" if self._has_content else "no body"
        body = f"a body of type {kind}" if kind else has_body
        method, host = response.request.method, response.request.url.netloc.decode()
        if response.has_redirect_location:
            remedy = f"it refers to {abbreviate(response.headers['location'])}; {remedy}"
        return CommandError(
            f"{host} answered {method} with {status} and {body}, unlike a NoETL service; {remedy}",
            EXIT_FAILED,
        )


def _parse(content: bytes) -> Any:
    try:
        return read_json(content.decode())
    except ValueError:
        return None
