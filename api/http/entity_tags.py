"""Entity tags: a client that polls receives a body only if it has changed (RFC 9110, section 8.8.3).

Problem: clients request the status, results, lists and graphs again and again, and most are as before.

Algorithm: the tag of a response is a hash of its body. The tag is weak, because the body may be compressed on
its way. If a header `If-None-Match` has the tag, the response is 304 without a body.

Cost: a hash of each body, which takes a millisecond for one megabyte. A large one is hashed in a thread.

Limits: the body is made before it is compared, so only its transfer is saved. Streams have no tag.
"""

from __future__ import annotations

import hashlib

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TAGGED_STATUSES = (200, 202)
_THREAD_BYTES = 128 * 1024
"""Bytes of a body from which it is hashed in a thread, so that no other request waits."""

_BODY_HEADERS = ("content-length", "content-type")


class EntityTagMiddleware:
    """Middleware that adds the tag of the body to each response to GET, and answers with 304."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def send_tagged(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _may_have_tag(message):
                start = message
                return
            if start is None:
                await send(message)
                return
            first, start = start, None
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not is_complete:
                await send(first)
                await send(message)
                return
            tag = await entity_tag(message.get("body", b""))
            headers = MutableHeaders(scope=first)
            headers["ETag"] = tag
            headers.setdefault("Cache-Control", "no-cache")
            if not has_tag(Headers(scope=scope).getlist("if-none-match"), tag):
                await send(first)
                await send(message)
                return
            for name in _BODY_HEADERS:
                del headers[name]
            await send({**first, "status": 304})
            await send({**message, "body": b""})

        await self._app(scope, receive, send_tagged)


async def entity_tag(body: bytes) -> str:
    """Return the weak tag of a body."""
    if len(body) < _THREAD_BYTES:
        return _hash_to_tag(body)
    return await run_in_threadpool(_hash_to_tag, body)


def _hash_to_tag(body: bytes) -> str:
    return f'W/"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'


def has_tag(if_none_match: list[str], tag: str) -> bool:
    """Return whether the values of `If-None-Match` have a tag, by the weak comparison.

    >>> has_tag(['"a", W/"b"'], 'W/"b"'), has_tag(["*"], 'W/"b"'), has_tag(['"c"'], 'W/"b"')
    (True, True, False)
    """
    candidates = [entry.strip().removeprefix("W/") for entry in ",".join(if_none_match).split(",")]
    return tag.removeprefix("W/") in candidates or "*" in candidates


def _may_have_tag(start: Message) -> bool:
    """Return whether a response has a body of known length that its client may keep."""
    headers = Headers(raw=start["headers"])
    may_be_kept = "no-store" not in headers.get("cache-control", "")
    return start["status"] in _TAGGED_STATUSES and "content-length" in headers and may_be_kept
