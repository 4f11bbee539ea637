"""`http`: send a request, or one request for each page.

The module `noetl.executor.clients.egress` decides which servers it may reach.
"""

from __future__ import annotations

import base64
import math
import re
import ssl
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from noetl.executor.actions._formats import check_value_count
from noetl.executor.actions._forms import encode_pairs
from noetl.executor.actions.action import DEFAULT_TIMEOUT_SECONDS, Call
from noetl.executor.clients.content_type import parse_content_type
from noetl.executor.clients.egress import MAX_IDLE_SECONDS, MAX_PORT
from noetl.executor.errors import ActionError
from noetl.executor.model.arriving_data import json_weight
from noetl.executor.model.json_length import TooLongError
from noetl.executor.model.json_values import (
    MAX_DEPTH,
    MAX_URL,
    TooDeepError,
    encode_json,
    nests_deeper,
    read_json,
    to_text,
    write_json,
)
from noetl.executor.security.redaction import redact, redacted_head
from noetl.planner.catalogue import ActionDeclaration, Destination, Kind, Parameter, Sink
from noetl.planner.diagnostics.wording import abbreviate, quote_text
from noetl.planner.frozen import replace
from noetl.planner.kinds import describe_kind_of

if TYPE_CHECKING:
    import httpx

    from noetl.executor.model.arriving_data import ArrivingData

MAX_BYTES = 10 * 1024 * 1024
"""Default of `max_bytes`."""
LARGEST_BYTES = 256 * 1024 * 1024
"""Largest `max_bytes`, and the limit of all pages of an action together, as JSON."""
MAX_REDIRECTS = 3
MAX_PAGES = 100
MAX_TRIES = 3
"""Limit of the attempts if the connection fails before the request is sent, or the method is idempotent."""
MAX_ERROR_BYTES = 64 * 1024
"""Limit of the body of a failed response that its error keeps."""

_RESPONSE = {"status": Kind.INTEGER, "headers": Kind.OBJECT, "body": Kind.ANY}

DECLARATION = ActionDeclaration(
    type="http",
    description=(
        "Sends a request. A status of 400 or more fails unless accepted. Without `timeout`, a server may send"
        f" nothing for {MAX_IDLE_SECONDS:g} s, and the action may take an hour."
    ),
    parameters={
        "method": Parameter(
            (Kind.STRING,),
            "Default: `GET`.",
            choices=("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"),
        ),
        "url": Parameter(
            (Kind.STRING,), "The URL, with the scheme `http` or `https`.", required=True, sink=Sink.URL
        ),
        "headers": Parameter((Kind.OBJECT,), "Headers. One that is none is omitted.", secrets=True),
        "params": Parameter(
            (Kind.OBJECT,),
            "Parameters to add to the query of the URL. A list repeats its name.",
            secrets=True,
        ),
        "json": Parameter((Kind.ANY,), "The body, sent as JSON.", secrets=True),
        "body": Parameter((Kind.STRING,), "The body, sent unchanged.", secrets=True),
        "form": Parameter((Kind.OBJECT,), "The body, sent as an HTML form.", secrets=True),
        "auth": Parameter(
            (Kind.OBJECT,),
            "`{bearer: TOKEN}` or `{basic: {username: NAME, password: WORD}}`.",
            secrets=True,
            suggested_keys={"bearer": (), "basic": ("username", "password")},
        ),
        "accept_status": Parameter((Kind.ARRAY, Kind.INTEGER), "Statuses of 400 or more that do not fail."),
        "follow_redirects": Parameter(
            (Kind.BOOLEAN, Kind.INTEGER),
            f"Whether to follow redirects, or how many. Default: {MAX_REDIRECTS}.",
        ),
        "max_bytes": Parameter(
            (Kind.INTEGER,), "Limit of the decompressed body. Default: 10 MiB. At most 256 MiB."
        ),
        "paginate": Parameter(
            (Kind.OBJECT,),
            "Requests all pages. The result is the list of all `items`; without `items`, of the bodies.",
            fields={
                "next": Parameter(
                    (Kind.STRING,),
                    "The URL of the next page, from `response` (`status`, `headers`, `body`) of each page."
                    " None or empty text: the last page. If the last page leaves it out, write"
                    " `response.body.next | default(none)`.",
                    required=True,
                    deferred_names=("response",),
                ),
                "items": Parameter(
                    (Kind.ARRAY,),
                    "The list of items of a page, from `response`.",
                    deferred_names=("response",),
                ),
                "max_pages": Parameter(
                    (Kind.INTEGER,), f"The action fails if there are more pages. Default: {MAX_PAGES}."
                ),
            },
        ),
    },
    destination=Destination("url", lambda url: (_build_url(url, {}).raw_host.decode(),)),
    result=_RESPONSE,
    result_for=lambda parameters: None if "paginate" in parameters else _RESPONSE,
    summary=lambda parameters: str(parameters.get("method", "GET")),
    idempotent=False,
    # A retry of an unsafe method sends the same idempotency key.
    idempotent_when=lambda _: True,
    reads_only_when=lambda parameters: (
        str(parameters.get("method", "GET")).upper() in ("GET", "HEAD", "OPTIONS")
    ),
)

_UNSAFE_METHODS = ("POST", "PUT", "PATCH", "DELETE")
_RETRY_PAUSE_SECONDS = 0.1
_RETRYABLE_STATUSES = (408, 425, 429)
_FINAL_STATUSES = (501, 505)
"""Statuses of 500 and more with which a server says that it never supports the request (RFC 9110)."""
_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_ERROR_NUMBER = re.compile(r"^\[Errno -?\d+\] ")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Name of a header (RFC 9110)."""
_CONTROL_CHARACTER = re.compile(r"[^\t\x20-\x7e\x80-\ud7ff\ue000-\U0010ffff]")
_CHARSET = re.compile(
    r"utf-?(8|16|32)(-?[bl]e)?|us-ascii|(iso-?8859|windows|cp|koi8|euc|iso-?2022)[-_]?\w+"
    r"|shift_jis|gb\w+|big5",
    re.IGNORECASE,
)
"""Charsets whose decoders take linear time."""
_RESERVED_HEADERS = frozenset(
    {
        "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade",
        "expect",
    }
)  # fmt: skip
"""Headers that frame the message or select the host. A playbook that set them could evade the checks."""
_CREDENTIAL_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
_SHOWN_BODY = 200
"""How many characters of the body the message of a failed response has."""
_SHOWN_URL = 200
MAX_FORM = 16 * 1024 * 1024
"""Limit of the characters of an encoded form."""
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_DECOMPRESSED_CHUNK_BYTES = 64 * 1024
_GUESSED_LENGTH = 256 * 1024
_COMPRESSION_OVERHEAD = 64 * 1024
"""How many bytes more than its content a short compressed body may have."""


@dataclass(frozen=True, slots=True)
class _HttpRequest:
    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class _Client:
    """The call, connections, reservations and idle limit that all requests of one action share."""

    call: Call
    transport: httpx.BaseTransport
    arriving: ArrivingData
    max_idle: float


class _Reply(NamedTuple):
    """A response: its result, or the location that it redirects to."""

    result: dict[str, Any]
    status: int
    location: str | None


def perform(call: Call) -> Any:
    from noetl.executor.clients import egress
    from noetl.executor.clients.time_limit import time_limit

    call = call.with_default_timeout(DEFAULT_TIMEOUT_SECONDS)
    request = _build_request(call)
    transport = egress.vetted_transport(call.capabilities.networks, DECLARATION.type)
    call.remaining_seconds()
    max_idle = egress.MAX_IDLE_SECONDS if call.timeout_seconds is None else math.inf
    with time_limit(call.deadline, max_idle, call.cancelled), call.receive() as arriving:
        client = _Client(call, transport, arriving, max_idle)
        if "paginate" in call.parameters:
            return _request_pages(client, request, call.parameters["paginate"])
        return _follow_redirects(client, request)[0]


def _build_request(call: Call) -> _HttpRequest:
    parameters = call.parameters
    if not 0 <= parameters.get("max_bytes", MAX_BYTES) <= LARGEST_BYTES:
        raise _parameter_error(f"`max_bytes` must be from 0 to {LARGEST_BYTES:,}")
    method = parameters.get("method", "GET").upper()
    content, content_type = _encode_body(parameters)
    headers = {"accept": "*/*", "accept-encoding": "gzip", "user-agent": "noetl"}
    if content_type:
        headers["content-type"] = content_type
    if method in _UNSAFE_METHODS:
        headers["idempotency-key"] = call.idempotency_key
    author_headers = _check_headers(parameters.get("headers", {}))
    if auth := parameters.get("auth"):
        if "authorization" in author_headers:
            raise _parameter_error(
                "`auth` and the header `Authorization` exclude each other: give one of them"
            )
        headers["authorization"] = _authorization(auth)
    if call.traceparent and "traceparent" not in author_headers:
        state = {"tracestate": call.tracestate} if call.tracestate else {}
        headers |= {"traceparent": call.traceparent, **state}
    url = _build_url(parameters["url"], parameters.get("params", {}))
    return _HttpRequest(method, url, {**headers, **author_headers}, content)


def _build_url(text: str, params: Mapping[str, Any]) -> httpx.URL:
    import httpx

    pairs = _encode_pairs("params", params, MAX_URL)
    if pairs:
        text, hash_sign, fragment = text.partition("#")
        text += ("&" if "?" in text else "?") + pairs + hash_sign + fragment
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _parameter_error("`url` has half of a surrogate pair, which UTF-8 cannot hold") from None
    try:
        return _check_url(httpx.URL(text))
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _parameter_error(f"`url` is invalid: {error}") from None


def _check_url(url: httpx.URL) -> httpx.URL:
    from noetl.executor.clients.egress import forbidden_address

    if url.scheme not in ("http", "https"):
        scheme = f", not {quote_text(url.scheme)}" if url.scheme else ""
        raise forbidden_address(f"`url` must begin with http:// or https://{scheme}")
    if not url.host:
        raise _parameter_error("`url` has no host")
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        raise _parameter_error(f"`url` has the port {abbreviate(str(url.port))}, which does not exist")
    if url.userinfo:
        raise _parameter_error("`url` must not contain a user name or password: use `auth`")
    return url


def _encode_body(parameters: Mapping[str, Any]) -> tuple[bytes, str | None]:
    """Return the body of the request and its content type."""
    bodies = [name for name in ("json", "body", "form") if name in parameters]
    if len(bodies) > 1:
        raise _parameter_error(f"`{bodies[0]}` and `{bodies[1]}` exclude each other: give one of them")
    try:
        if "json" in parameters:
            return encode_json(parameters["json"]), "application/json"
        if "form" in parameters:
            form = _encode_pairs("form", parameters["form"], MAX_FORM)
            return form.encode(), "application/x-www-form-urlencoded"
        return parameters.get("body", "").encode(), None
    except ValueError as error:
        raise _parameter_error(f"`{bodies[0]}` cannot be encoded: {error}") from None


def _encode_pairs(name: str, values: Mapping[str, Any], limit: int) -> str:
    try:
        return encode_pairs(values, limit)
    except TooLongError:
        raise _parameter_error(f"`{name}` is longer than {limit:,} characters when it is encoded") from None
    except UnicodeEncodeError:
        raise _parameter_error(f"`{name}` has an unpaired surrogate") from None


def _check_headers(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of the author with their names in lower case."""
    headers = {}
    for name, value in values.items():
        if value is None:
            continue
        if not _TOKEN.fullmatch(name):
            raise _parameter_error(f"`headers`: {quote_text(name)} is not a valid name")
        if name.lower() in _RESERVED_HEADERS:
            raise _parameter_error(f"`headers`: `{name}` is computed from the request and cannot be set")
        subject = f"`headers`: `{abbreviate(name)}`"
        if isinstance(value, dict | list):
            raise _parameter_error(f"{subject} must be text")
        headers[name.lower()] = _check_header_value(subject, to_text(value))
    return headers


def _check_header_value(subject: str, value: str) -> str:
    if _CONTROL_CHARACTER.search(value):
        raise _parameter_error(f"{subject} must not contain a line break or another control character")
    return value.strip(" \t")


def _authorization(auth: Mapping[str, Any]) -> str:
    """Return the value of the header `Authorization`."""
    match auth:
        case {"bearer": str(token)} if len(auth) == 1:
            return _check_header_value("`auth`: `bearer`", f"Bearer {token}")
        case {"basic": {"username": str(username), "password": str(password)}} if len(auth) == 1:
            return _basic_authorization(username, password)
        case {"username": str(username), "password": str(password)} if len(auth) == 2:
            return _basic_authorization(username, password)
    raise _parameter_error("`auth` must be `{bearer: TOKEN}` or `{basic: {username: NAME, password: WORD}}`")


def _basic_authorization(username: str, password: str) -> str:
    if ":" in username:
        raise _parameter_error("`auth`: `username` must not contain a colon")
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _request_pages(client: _Client, first: _HttpRequest, paginate: Mapping[str, Any]) -> list[Any]:
    """Request all pages, and return their items.

    Each page of an unsafe method has its own idempotency key, unless the author gives one.
    """
    call = client.call
    author_headers = {name.lower() for name in call.parameters.get("headers", {})}
    needs_keys = first.method in _UNSAFE_METHODS and "idempotency-key" not in author_headers
    max_pages = paginate.get("max_pages", MAX_PAGES)
    if max_pages < 1:
        raise _parameter_error("`paginate`: `max_pages` must be at least 1")
    all_items: list[Any] = []
    remaining_bytes = LARGEST_BYTES
    request = first
    for page in range(1, max_pages + 1):
        if needs_keys:
            key = f"{call.idempotency_key}-{page}"
            request = replace(request, headers={**request.headers, "idempotency-key": key})
        response, url = _follow_redirects(client, request)
        items = _page_value(paginate, "items", response) if "items" in paginate else [response["body"]]
        items_text = write_json(items)
        remaining_bytes -= len(items_text)
        if remaining_bytes < 0:
            message = f"all pages together are longer than {LARGEST_BYTES:,} characters of JSON"
            raise ActionError("LimitExceeded", message, retryable=False)
        client.arriving.keep(json_weight(items_text))
        all_items += items
        next_url = _page_value(paginate, "next", response)
        if next_url is None or not next_url.strip():
            return all_items
        request = _redirect_to(first, url, next_url.strip(), "has its next page at")
        if request.url.host != first.url.host:
            # The playbook may write what a page has echoed into the address of the next one.
            call.check_host(request.url.raw_host.decode())
    raise ActionError("LimitExceeded", f"more pages than `max_pages`, {max_pages:,}", retryable=False)


def _page_value(paginate: Mapping[str, Any], name: str, response: Mapping[str, Any]) -> Any:
    """Return `items` or `next` of a page."""
    template = paginate[name]
    try:
        value = template(response=response) if callable(template) else template
    except ActionError as error:
        raise ActionError(error.type, f"`paginate`: `{name}`: {error.message}", retryable=False) from error
    if name == "items" and not isinstance(value, list):
        raise _parameter_error(f"`paginate`: `items` must be a list, not {describe_kind_of(value)}")
    if name == "next" and not isinstance(value, str | None):
        raise _parameter_error(f"`paginate`: `next` must be text or none, not {describe_kind_of(value)}")
    return value


def _follow_redirects(client: _Client, request: _HttpRequest) -> tuple[dict[str, Any], httpx.URL]:
    """Return the result of a request after its redirects, and the URL that answered it."""
    follow = client.call.parameters.get("follow_redirects", True)
    remaining_redirects = MAX_REDIRECTS if follow is True else int(follow)
    while True:
        reply = _exchange_or_explain(client, request, is_final=follow in (False, 0))
        if reply.location is None:
            return reply.result, request.url
        if remaining_redirects == 0:
            message = f"`{request.url.host}` redirects more often than `follow_redirects` allows"
            raise ActionError("HTTPStatus", message, retryable=False, status=reply.status)
        remaining_redirects -= 1
        request = _redirect(request, reply.status, reply.location)


def _exchange_or_explain(client: _Client, request: _HttpRequest, *, is_final: bool) -> _Reply:
    """Return the reply to a request.

    Raises:
        ActionError: there is none. The message names the request, its server, and the limit that has passed.
    """
    import httpcore

    call, max_idle = client.call, client.max_idle
    server, subject = _server_of(request.url), _describe_request(request.method, request.url)
    try:
        return _exchange_with_retries(client, request, is_final=is_final)
    except httpcore.ConnectTimeout as error:
        limit = f"the action exceeded {call.limit}" if call.deadline <= time.monotonic() else str(error)
        message = f"{subject}: `{server}` was not reached in time" + (f": {limit}" if limit else "")
        raise ActionError("Timeout", message) from error
    except (httpcore.TimeoutException, TimeoutError) as error:
        was_idle = call.deadline > time.monotonic()
        reason = f"it sent nothing for {max_idle:g} s; set `timeout` to wait longer"
        reason = reason if was_idle else f"the action exceeded {call.limit or 'its time'}"
        raise ActionError("Timeout", f"{subject}: `{server}` did not answer in time: {reason}") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        call.remaining_seconds()
        reason = _ERROR_NUMBER.sub("", str(error)) or type(error).__name__
        message = f"{subject}: no response from `{server}`: {reason}"
        raise ActionError("ConnectionFailed", message, retryable=not _is_untrusted(error)) from error


def _describe_request(method: str, url: httpx.URL) -> str:
    """Return the method and the URL of a request, without its query, which may have secrets."""
    shown = f"{url.scheme}://{url.netloc.decode()}{url.path}"
    shown = shown if len(shown) <= _SHOWN_URL else f"{shown[: _SHOWN_URL - 1]}…"
    return f"{method} {shown}{'?…' if url.query else ''}"


def _server_of(url: httpx.URL) -> str:
    """Return the host and the port of a URL."""
    port = url.port or (443 if url.scheme == "https" else 80)
    return f"{f'[{url.host}]' if ':' in url.host else url.host}:{port}"


def _exchange_with_retries(client: _Client, request: _HttpRequest, *, is_final: bool) -> _Reply:
    """Retry after a connection failure, if the request was not sent or is idempotent (RFC 9110)."""
    import httpcore

    from noetl.executor.clients.connection_pool import IDEMPOTENT_METHODS

    tries = 0
    while True:
        tries += 1
        try:
            return _exchange(client, request, is_final=is_final)
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            may_repeat = isinstance(error, httpcore.ConnectError) or request.method in IDEMPOTENT_METHODS
            if tries == MAX_TRIES or not may_repeat or _is_untrusted(error):
                raise
        client.call.cancelled.wait(min(_RETRY_PAUSE_SECONDS * tries, client.call.remaining_seconds()))


def _is_untrusted(error: Exception) -> bool:
    """Return whether the certificate of the server is not valid. Another attempt gets the same one."""
    return isinstance(error.__cause__, ssl.SSLCertVerificationError)


def _exchange(client: _Client, request: _HttpRequest, *, is_final: bool) -> _Reply:
    """Send a request and read its response. With `is_final`, a redirect is a result."""
    response = _send(client, request)
    try:
        location = response.headers.get("location")
        if response.status_code not in _REDIRECT_STATUSES or is_final:
            location = None
        result = _read_result(client, response) if location is None else {}
        return _Reply(result, response.status_code, location)
    finally:
        response.close()


def _send(client: _Client, request: _HttpRequest) -> httpx.Response:
    import httpx

    from noetl.executor.clients.connection_pool import RUN

    headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    httpx_request = httpx.Request(
        request.method,
        request.url,
        headers=headers,
        content=request.content or None,
        extensions={RUN: client.call.labels.get("run")},
    )
    response = client.transport.handle_request(httpx_request)
    response.request = httpx_request
    return response


def _redirect(request: _HttpRequest, status: int, location: str) -> _HttpRequest:
    """Return the request that a redirect asks for. Some statuses change the method to GET (RFC 9110)."""
    is_see_other = status == 303 and request.method != "HEAD"
    if is_see_other or (status in (301, 302) and request.method == "POST"):
        dropped = ("content-type", "idempotency-key")
        headers = {name: value for name, value in request.headers.items() if name not in dropped}
        request = _HttpRequest("GET", request.url, headers, b"")
    return _redirect_to(request, request.url, location, "redirects to")


def _redirect_to(request: _HttpRequest, base: httpx.URL, location: str, verb: str) -> _HttpRequest:
    """Return the request for a URL that a server gives, relative to `base`.

    A request to another origin has no credentials. `verb` is for error messages.

    Raises:
        ActionError: `ForbiddenAddress` for an invalid URL, a change from https to http, or a body with a
            secret for another origin.
    """
    import httpx

    from noetl.executor.clients.egress import forbidden_address

    try:
        url = _check_url(base.join(location))
    except (httpx.InvalidURL, UnicodeError):
        raise forbidden_address(f"`{base.host}` {verb} an invalid URL") from None
    if request.url.scheme == "https" and url.scheme == "http":
        raise forbidden_address(f"`{base.host}` {verb} http, from https")
    headers = dict(request.headers)
    if (url.scheme, url.host, url.port) != (request.url.scheme, request.url.host, request.url.port):
        headers = {
            name: value
            for name, value in headers.items()
            if name not in _CREDENTIAL_HEADERS and redact(value) == value
        }
        body = request.content.decode("utf-8", "replace")
        if redact(body) != body:
            raise forbidden_address(f"`{base.host}` {verb} another origin, and the body contains a secret")
    return replace(request, url=url, headers=headers)


def _read_result(client: _Client, response: httpx.Response) -> dict[str, Any]:
    call, status = client.call, response.status_code
    accepted = call.parameters.get("accept_status", [])
    headers = dict(response.headers.items())
    if status >= 400 and status not in (accepted if isinstance(accepted, list) else [accepted]):
        raise _status_error(client, response, headers)
    limit = call.parameters.get("max_bytes", MAX_BYTES)
    body, is_complete = _read_body(client, response, limit)
    if not is_complete:
        message = f"the body is longer than `max_bytes`, {limit:,}"
        raise ActionError("LimitExceeded", message, retryable=False)
    return {"status": status, "headers": headers, "body": _parse_body(client, response, body)}


def _status_error(client: _Client, response: httpx.Response, headers: Mapping[str, str]) -> ActionError:
    """Return the error for a status that is not accepted. It keeps the start of the body."""
    # Read more than is kept, so that a secret across the cut is redacted.
    body, _ = _read_body(client, response, 2 * MAX_ERROR_BYTES)
    is_short = len(body) <= MAX_ERROR_BYTES
    kept_body = (
        _parse_body(client, response, body)
        if is_short and not nests_deeper(body, MAX_DEPTH)
        else redacted_head(_decode(response, body), MAX_ERROR_BYTES)
    )
    status, request = response.status_code, response.request
    subject = _describe_request(request.method, request.url)
    beginning = " ".join(redacted_head(_decode(response, body), MAX_ERROR_BYTES)[:_SHOWN_BODY].split())
    answer = f"{subject} answered {status} {response.reason_phrase}".rstrip()
    return ActionError(
        "HTTPStatus",
        f"{answer}: {beginning}" if beginning else answer,
        retryable=status in _RETRYABLE_STATUSES or (status >= 500 and status not in _FINAL_STATUSES),
        status=status,
        details={
            "headers": headers,
            "body": kept_body,
            "retry_after_seconds": _retry_after_seconds(response.headers),
        },
    )


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return what the header `Retry-After` asks for, in seconds, or None (RFC 9110, section 10.2.3).

    >>> _retry_after_seconds({"retry-after": "120"})
    120.0
    >>> date = {"date": "Fri, 31 Dec 1999 23:59:00 GMT"}
    >>> _retry_after_seconds({**date, "retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"})
    59.0
    >>> _retry_after_seconds({"retry-after": "soon"})
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    until, now = _timestamp(text), _timestamp(headers.get("date", ""))
    if until is None:
        return None
    # The clock of the server may differ from that of this machine.
    return max(until - (time.time() if now is None else now), 0.0)


def _timestamp(date: str) -> float | None:
    """Return the Unix time of a date in a header, or None."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _read_body(client: _Client, response: httpx.Response, limit: int) -> tuple[bytearray, bool]:
    """Return at most `limit` bytes of the decompressed body, and whether the body is complete.

    Compressed bytes are limited as well, because they may stand for nothing.
    """
    call, arriving = client.call, client.arriving
    body = bytearray()
    sent_limit = limit + limit // 100 + _COMPRESSION_OVERHEAD
    sent = 0

    def count(chunks: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal sent
        for chunk in chunks:
            sent += len(chunk)
            yield chunk
            if sent > sent_limit:
                return

    # The body and its text exist at the same time.
    arriving.expect(2 * min(_declared_length(response), limit))
    for chunk in _decompress(response.headers.get("content-encoding", ""), count(response.iter_raw())):
        call.remaining_seconds()
        if len(body) + len(chunk) > limit or sent > sent_limit:
            return body + chunk[: limit - len(body)], False
        arriving.hold(len(body) + len(chunk))
        body += chunk
    call.remaining_seconds()
    return body, True


def _declared_length(response: httpx.Response) -> int:
    """Return the length of the body as its header declares it, or a guess."""
    text = response.headers.get("content-length", "")
    return int(text[:20]) if text.isascii() and text.isdecimal() else _GUESSED_LENGTH


def _decompress(coding: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the body in chunks of bounded size, whatever the compression ratio."""
    if coding.strip().lower() in ("", "identity"):
        yield from chunks
        return
    if coding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        message = f"the body has the content coding {quote_text(coding)}, which was not requested"
        raise ActionError("ConnectionFailed", message, retryable=False)
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    has_begun = False
    try:
        for chunk in chunks:
            compressed = chunk
            while compressed:
                has_begun = True
                if decompressor.eof:
                    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
                yield decompressor.decompress(compressed, _DECOMPRESSED_CHUNK_BYTES)
                compressed = decompressor.unconsumed_tail or decompressor.unused_data
    except zlib.error as error:
        raise ActionError("ConnectionFailed", f"the body cannot be decompressed: {error}") from None
    if has_begun and not decompressor.eof:
        raise ActionError("ConnectionFailed", "the body ends too early")


def _parse_body(client: _Client, response: httpx.Response, body: bytearray) -> Any:
    """Return the value of a JSON body, otherwise its text."""
    arriving, held = client.arriving, 2 * len(body)
    arriving.hold(held)
    text = _decode(response, body)
    media_type = parse_content_type(response.headers.get("content-type", "")).media_type
    if media_type.endswith(("/json", "+json")):
        check_value_count(text)
        arriving.hold(held + json_weight(text))
        try:
            return read_json(text.removeprefix("\ufeff"), client.call.remaining_seconds)
        except TooDeepError as error:
            raise ActionError("LimitExceeded", f"the body cannot be read: {error}", retryable=False) from None
        except ValueError:
            pass
    return text


def _decode(response: httpx.Response, body: bytearray) -> str:
    charset = parse_content_type(response.headers.get("content-type", "")).charset or "utf-8"
    try:
        return body.decode(charset if _CHARSET.fullmatch(charset) else "utf-8", "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def _parameter_error(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)
