"""`http`: one request, or one for each page. Where it may go is `noetl.executor.clients.egress`'s business."""

from __future__ import annotations

import base64
import math
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from noetl.executor.actions._formats import check_size
from noetl.executor.actions.action import DEFAULT_TIMEOUT_SECONDS, Call
from noetl.executor.clients.egress import SILENCE_SECONDS
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import read_json, text_of, write_json
from noetl.executor.security.redaction import head, scrub
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink
from noetl.planner.kinds import described

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 10 * 1024 * 1024
LARGEST_BYTES = 256 * 1024 * 1024
"""How much `max_bytes` can be, and how long the pages of one action may be together, as JSON."""
MAX_REDIRECTS = 3
MAX_PAGES = 100
MAX_TRIES = 3
"""How often a request is sent, at most, when the connection fails and sending it again can do no harm."""
MAX_ERROR_BYTES = 64 * 1024
"""How much of the body of a failed response is kept in its error."""

_RESPONSE = {"status": Kind.INTEGER, "headers": Kind.OBJECT, "body": Kind.ANY}

DECLARATION = ActionDeclaration(
    type="http",
    description=(
        "Sends one request. 4xx and 5xx fail unless accepted. Without `timeout`, a server may be silent for"
        f" {SILENCE_SECONDS:g} s, and the whole may take an hour."
    ),
    parameters={
        "method": Parameter(
            (Kind.STRING,),
            "`GET` unless given.",
            choices=("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"),
        ),
        "url": Parameter((Kind.STRING,), "Where to: `http` or `https`.", required=True, sink=Sink.URL),
        "headers": Parameter((Kind.OBJECT,), "Headers; one that is none is left out.", secrets=True),
        "params": Parameter(
            (Kind.OBJECT,), "Added to the query of the URL; a list repeats its name.", secrets=True
        ),
        "json": Parameter((Kind.ANY,), "The body, sent as JSON.", secrets=True),
        "body": Parameter((Kind.STRING,), "The body, sent as it is.", secrets=True),
        "form": Parameter((Kind.OBJECT,), "The body, sent as a form.", secrets=True),
        "auth": Parameter(
            (Kind.OBJECT,), "`{bearer: TOKEN}` or `{basic: {username: NAME, password: WORD}}`.", secrets=True
        ),
        "accept_status": Parameter(
            (Kind.ARRAY, Kind.INTEGER), "Statuses of 400 and more that are no failure."
        ),
        "follow_redirects": Parameter(
            (Kind.BOOLEAN, Kind.INTEGER), "Whether to follow redirects, or how many: 3 unless given."
        ),
        "max_bytes": Parameter(
            (Kind.INTEGER,), "The longest body to read, unpacked: 10 MiB unless given, 256 MiB at most."
        ),
        "paginate": Parameter(
            (Kind.OBJECT,),
            "Follows pages. The result is the list of all `items`, or without `items` of the pages' bodies.",
            fields={
                "next": Parameter(
                    (Kind.STRING,),
                    "The URL of the next page, read from `response` (`status`, `headers`, `body`) after each page; none"
                    " or nothing ends it. Where the last page says nothing, write `response.body.next | default(none)`.",
                    required=True,
                    late=("response",),
                ),
                "items": Parameter(
                    (Kind.ARRAY,), "The list of a page, read from `response`.", late=("response",)
                ),
                "max_pages": Parameter(
                    (Kind.INTEGER,), f"Fails where there are more pages than this: {MAX_PAGES} unless given."
                ),
            },
        ),
    },
    result=_RESPONSE,
    result_of=lambda parameters: None if "paginate" in parameters else _RESPONSE,
    idempotent=False,
    # Unsafe methods send a key that a retry repeats.
    acts_twice=lambda _: False,
)

_UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
_REPEATABLE = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
_PAUSE_SECONDS = 0.1
_WORTH_REPEATING = (408, 425, 429)
_REDIRECTS = (301, 302, 303, 307, 308)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[^\t\x20-\x7e\x80-\ud7ff\ue000-\U0010ffff]")
_CHARSET = re.compile(
    r"utf-?(8|16|32)(-?[bl]e)?|us-ascii|(iso-?8859|windows|cp|koi8|euc|iso-?2022)[-_]?\w+|shift_jis|gb\w+|big5",
    re.IGNORECASE,
)
"""Charsets whose decoders take linear time."""
_OURS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
    }
)
"""Headers that frame the message or choose the host: whoever sets them speaks past the checks."""
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    content: bytes


def perform(call: Call) -> Any:
    import httpx
    from noetl.executor.clients import egress

    call = call.with_default_timeout(DEFAULT_TIMEOUT_SECONDS)
    request = _request(call)
    transport = egress.transport(call.capabilities.networks)
    call.remaining_seconds()
    silence = egress.SILENCE_SECONDS if call.timeout_seconds is None else math.inf
    try:
        with egress.until(call.deadline, silence):
            if "paginate" in call.parameters:
                return _pages(call, transport, request, call.parameters["paginate"])
            return _follow(call, transport, request)[0]
    except httpx.ConnectTimeout as error:
        raise ActionError("Timeout", f"`{request.url.host}` was not reached in time") from error
    except (httpx.TimeoutException, TimeoutError) as error:
        is_silent = call.deadline > time.monotonic()
        why = f": it said nothing for {silence:g} s, which `timeout` can extend" if is_silent else ""
        raise ActionError("Timeout", f"`{request.url.host}` did not answer in time{why}") from error
    except httpx.TransportError as error:
        call.remaining_seconds()
        reason = str(error) or type(error).__name__
        raise ActionError("ConnectionFailed", f"no answer from `{request.url.host}`: {reason}") from error


def _request(call: Call) -> _Request:
    given = call.parameters
    if not 0 <= given.get("max_bytes", MAX_BYTES) <= LARGEST_BYTES:
        raise _wrong(f"`max_bytes` must be from 0 to {LARGEST_BYTES:,}")
    method = given.get("method", "GET").upper()
    content, content_type = _content(given)
    headers = {"accept": "*/*", "accept-encoding": "gzip", "user-agent": "noetl"}
    if call.traceparent:
        headers["traceparent"] = call.traceparent
    if content_type:
        headers["content-type"] = content_type
    if method in _UNSAFE:
        headers["idempotency-key"] = call.idempotency_key
    own = _headers(given.get("headers", {}))
    if auth := given.get("auth"):
        if "authorization" in own:
            raise _wrong("`auth` and the header `Authorization` say the same: give one of them")
        headers["authorization"] = _authorization(auth)
    return _Request(method, _url(given["url"], given.get("params", {})), {**headers, **own}, content)


def _url(text: str, params: Mapping[str, Any]) -> httpx.URL:
    import httpx

    pairs = _pairs("params", params)
    if pairs:
        text, hash_, fragment = text.partition("#")
        text += ("&" if "?" in text else "?") + pairs + hash_ + fragment
    try:
        return _checked(httpx.URL(text))
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _wrong(f"`url` cannot be read: {error}") from None


def _checked(url: httpx.URL) -> httpx.URL:
    from noetl.executor.clients.egress import forbidden

    if url.scheme not in ("http", "https"):
        raise forbidden(
            f"`url` must begin with http:// or https://, and begins with {url.scheme or 'neither'!r}"
        )
    if not url.host:
        raise _wrong("`url` names no host")
    if url.userinfo:
        raise _wrong("`url` has a user name or password in it: give them as `auth`")
    return url


def _content(given: Mapping[str, Any]) -> tuple[bytes, str | None]:
    bodies = [name for name in ("json", "body", "form") if name in given]
    if len(bodies) > 1:
        raise _wrong(f"`{bodies[0]}` and `{bodies[1]}` are both the body: give one of them")
    try:
        if "json" in given:
            return write_json(given["json"]).encode(), "application/json"
        if "form" in given:
            return _pairs("form", given["form"]).encode(), "application/x-www-form-urlencoded"
        return given.get("body", "").encode(), None
    except ValueError as error:
        raise _wrong(f"`{bodies[0]}` cannot be sent: {error}") from None


def _pairs(name: str, values: Mapping[str, Any]) -> str:
    from urllib.parse import urlencode

    pairs = [
        (key, text_of(item))
        for key, value in values.items()
        for item in (value if isinstance(value, list) else [value])
        if item is not None
    ]
    try:
        return urlencode(pairs)
    except UnicodeEncodeError:
        raise _wrong(f"`{name}` has half of a surrogate pair in it") from None


def _headers(given: Mapping[str, Any]) -> dict[str, str]:
    headers = {}
    for name, value in given.items():
        if value is None:
            continue
        if not _TOKEN.fullmatch(name):
            raise _wrong(f"`headers`: {name!r} is not the name of a header")
        if name.lower() in _OURS:
            raise _wrong(f"`headers`: `{name}` follows from the request and cannot be set")
        if isinstance(value, dict | list):
            raise _wrong(f"`headers`: `{name}` must be text")
        headers[name.lower()] = _header_value(f"`headers`: `{name}`", text_of(value))
    return headers


def _header_value(what: str, value: str) -> str:
    if _CONTROL.search(value):
        raise _wrong(f"{what} has a line break or another control character in it")
    return value.strip(" \t")


def _authorization(auth: Mapping[str, Any]) -> str:
    match auth:
        case {"bearer": str(token)} if len(auth) == 1:
            return _header_value("`auth`: `bearer`", f"Bearer {token}")
        case {"basic": {"username": str(name), "password": str(word)}} if len(auth) == 1:
            return _basic(name, word)
        case {"username": str(name), "password": str(word)} if len(auth) == 2:
            return _basic(name, word)
    raise _wrong("`auth` must be `{bearer: TOKEN}` or `{basic: {username: NAME, password: WORD}}`")


def _basic(name: str, word: str) -> str:
    if ":" in name:
        raise _wrong("`auth`: `username` must not have a colon in it")
    return "Basic " + base64.b64encode(f"{name}:{word}".encode()).decode()


def _pages(
    call: Call, transport: httpx.HTTPTransport, first: _Request, paginate: Mapping[str, Any]
) -> list[Any]:
    has_own_key = "idempotency-key" in {name.lower() for name in call.parameters.get("headers", {})}
    most = paginate.get("max_pages", MAX_PAGES)
    if most < 1:
        raise _wrong("`paginate`: `max_pages` must be at least 1")
    found: list[Any] = []
    left = LARGEST_BYTES
    request = first
    for page in range(1, most + 1):
        if first.method in _UNSAFE and not has_own_key:
            request = replace(
                request, headers={**request.headers, "idempotency-key": f"{call.idempotency_key}-{page}"}
            )
        response, url = _follow(call, transport, request)
        items = _late(paginate, "items", response) if "items" in paginate else [response["body"]]
        left -= len(write_json(items))
        if left < 0:
            raise ActionError(
                "LimitExceeded", f"the pages are longer than {LARGEST_BYTES:,} together", retryable=False
            )
        found += items
        following = _late(paginate, "next", response)
        if following is None or not following.strip():
            return found
        request = _elsewhere(first, url, following.strip(), "has its next page at")
    raise ActionError("LimitExceeded", f"there are more pages than `max_pages`, {most:,}", retryable=False)


def _late(paginate: Mapping[str, Any], name: str, response: Mapping[str, Any]) -> Any:
    """What a page says: its list of items, or where the next page is, if anywhere."""
    given = paginate[name]
    try:
        value = given(response=response) if callable(given) else given
    except ActionError as error:
        raise ActionError(error.type, f"`paginate`: `{name}`: {error.message}", retryable=False) from error
    if name == "items" and not isinstance(value, list):
        raise _wrong(f"`paginate`: `items` must be a list, and is {described(value)}")
    if name == "next" and not isinstance(value, str | None):
        raise _wrong(f"`paginate`: `next` must be text or none, and is {described(value)}")
    return value


def _follow(
    call: Call, transport: httpx.HTTPTransport, request: _Request
) -> tuple[dict[str, Any], httpx.URL]:
    """The result that redirects lead to, and the address that gave it."""
    follow = call.parameters.get("follow_redirects", True)
    left = MAX_REDIRECTS if follow is True else int(follow)
    while True:
        result, status, location = _persistently(call, transport, request, is_final=follow in (False, 0))
        if location is None:
            return result, request.url
        if left == 0:
            message = f"`{request.url.host}` redirects further than `follow_redirects` allows"
            raise ActionError("HTTPStatus", message, retryable=False, status=status)
        left -= 1
        request = _redirected(request, status, location)


def _persistently(
    call: Call, transport: httpx.HTTPTransport, request: _Request, *, is_final: bool
) -> tuple[dict[str, Any], int, str | None]:
    """One exchange, begun anew when the connection fails and the request cannot act twice."""
    import httpx

    tries = 0
    while True:
        tries += 1
        try:
            return _exchange(call, transport, request, is_final=is_final)
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            was_not_sent = isinstance(error, httpx.ConnectError)
            if tries == MAX_TRIES or not (was_not_sent or request.method in _REPEATABLE):
                raise
        time.sleep(min(_PAUSE_SECONDS * tries, call.remaining_seconds()))


def _exchange(
    call: Call, transport: httpx.HTTPTransport, request: _Request, *, is_final: bool
) -> tuple[dict[str, Any], int, str | None]:
    """The result of a request, or where it is redirected to."""
    response = _send(transport, request)
    try:
        location = response.headers.get("location")
        if response.status_code not in _REDIRECTS or is_final:
            location = None
        return _result(call, response) if location is None else {}, response.status_code, location
    finally:
        response.close()


def _send(transport: httpx.HTTPTransport, request: _Request) -> httpx.Response:
    import httpx

    headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    sent = httpx.Request(request.method, request.url, headers=headers, content=request.content or None)
    response = transport.handle_request(sent)
    response.request = sent
    return response


def _redirected(request: _Request, status: int, location: str) -> _Request:
    """The request that a redirect asks for."""
    if (status == 303 and request.method != "HEAD") or (status in (301, 302) and request.method == "POST"):
        headers = {n: v for n, v in request.headers.items() if n not in ("content-type", "idempotency-key")}
        request = _Request("GET", request.url, headers, b"")
    return _elsewhere(request, request.url, location, "redirects to")


def _elsewhere(request: _Request, seen_from: httpx.URL, location: str, verb: str) -> _Request:
    """The request to where a server points: vetted anew, and without credentials where that is another origin."""
    import httpx
    from noetl.executor.clients.egress import forbidden

    try:
        url = _checked(seen_from.join(location))
    except (httpx.InvalidURL, UnicodeError):
        raise forbidden(f"`{seen_from.host}` {verb} what is not an address") from None
    if request.url.scheme == "https" and url.scheme == "http":
        raise forbidden(f"`{seen_from.host}` {verb} http, from https")
    headers = dict(request.headers)
    if (url.scheme, url.host, url.port) != (request.url.scheme, request.url.host, request.url.port):
        headers = {n: v for n, v in headers.items() if n not in _CREDENTIALS and scrub(v) == v}
        body = request.content.decode("utf-8", "replace")
        if scrub(body) != body:
            raise forbidden(f"`{seen_from.host}` {verb} another origin, and the body has a secret in it")
    return replace(request, url=url, headers=headers)


def _result(call: Call, response: httpx.Response) -> dict[str, Any]:
    status = response.status_code
    accepted = call.parameters.get("accept_status", [])
    headers = dict(response.headers.items())
    if status >= 400 and status not in (accepted if isinstance(accepted, list) else [accepted]):
        # More is read than is kept, so that a secret at the cut is known as one.
        body, _ = _read(call, response, 2 * MAX_ERROR_BYTES)
        is_kept = len(body) <= MAX_ERROR_BYTES
        said = _body(response, body) if is_kept else head(_decoded(response, body), MAX_ERROR_BYTES)
        raise ActionError(
            "HTTPStatus",
            f"`{response.request.url.host}` answered {status} {response.reason_phrase}".rstrip(),
            retryable=status >= 500 or status in _WORTH_REPEATING,
            status=status,
            details={"headers": headers, "body": said},
        )
    limit = call.parameters.get("max_bytes", MAX_BYTES)
    body, is_whole = _read(call, response, limit)
    if not is_whole:
        raise ActionError("LimitExceeded", f"the body is longer than `max_bytes`, {limit:,}", retryable=False)
    return {"status": status, "headers": headers, "body": _body(response, body)}


def _read(call: Call, response: httpx.Response, limit: int) -> tuple[bytes, bool]:
    """Up to `limit` bytes of the unpacked body, and whether that is all of it."""
    body = bytearray()
    for chunk in _unpacked(response.headers.get("content-encoding", ""), response.iter_raw()):
        call.remaining_seconds()
        body += chunk
        if len(body) > limit:
            return bytes(body[:limit]), False
    return bytes(body), True


def _unpacked(coding: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The body in pieces of bounded size, however much a piece of the packed one holds."""
    if coding.strip().lower() in ("", "identity"):
        yield from chunks
        return
    if coding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        message = f"the body is packed as {coding!r}, which was not asked for"
        raise ActionError("ConnectionFailed", message, retryable=False)
    unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS)
    has_begun = False
    try:
        for chunk in chunks:
            packed = chunk
            while packed:
                has_begun = True
                if unpacker.eof:
                    unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS)
                yield unpacker.decompress(packed, 64 * 1024)
                packed = unpacker.unconsumed_tail or unpacker.unused_data
    except zlib.error as error:
        raise ActionError("ConnectionFailed", f"the body is packed wrongly: {error}") from None
    if has_begun and not unpacker.eof:
        raise ActionError("ConnectionFailed", "the body ends too early")


def _body(response: httpx.Response, body: bytes) -> Any:
    text = _decoded(response, body)
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.endswith(("/json", "+json")):
        check_size(text)
        try:
            return read_json(text.removeprefix("\ufeff"))
        except ValueError:
            pass
    return text


def _decoded(response: httpx.Response, body: bytes) -> str:
    charset = response.charset_encoding or "utf-8"
    try:
        return body.decode(charset if _CHARSET.fullmatch(charset) else "utf-8", "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def _wrong(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)
