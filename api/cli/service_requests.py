"""Requests to a service: the check of its address, and messages about what it answered."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from noetl.api.cli.display.console import EXIT_FAILED, CommandError
from noetl.planner.diagnostics.wording import abbreviate

if TYPE_CHECKING:
    from httpx import Response


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


def unexpected_response(response: Response, remedy: str) -> CommandError:
    """Return the error for a response that no NoETL service gives."""
    request = response.request
    status = f"{response.status_code} {response.reason_phrase}".strip()
    kind = response.headers.get("content-type", "").partition(";")[0].strip()
    body = f"a body of type {kind}" if kind else "a body without a type" if response.content else "no body"
    answer = f"{request.url.netloc.decode()} answered {request.method} with {status} and {body}"
    return CommandError(f"{answer}, unlike a NoETL service; {remedy}", EXIT_FAILED)
