"""Negotiation of the encoding of bodies, and of files that are kept compressed (RFC 9110, section 12.5.3).

Problem: a client names the encodings that it can read, with weights. A file is kept in several of them, and
other bodies are compressed as they are sent.

Algorithm: the encoding with the highest weight is chosen, among equal ones the first of the file. The weight
of an encoding that is not named is that of `*`. The plain file is sent if it is preferred, or if nothing else
fits.

Limits: a client that refuses `identity` gets the plain file instead of a problem if it accepts no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.api.http.negotiation import read_weight

IDENTITY = "identity"
"""Name of the encoding of a plain file."""

GZIP = "gzip"
"""Name of the encoding of gzip."""

_MAX_ENCODINGS = 100
_ACCEPTED = "accept-encoding"

_SENT_HEADERS = "noetl.sent_headers"
"""Key of a scope: the headers of the client, while those that choose an encoding replace them."""


def choose_encoding(accepted: Iterable[str], encodings: Sequence[str]) -> str:
    """Return the encoding that the values of `Accept-Encoding` prefer, among some and `identity`.

    >>> choose_encoding(["gzip, deflate, br, zstd"], ["br", "gzip"])
    'br'
    >>> choose_encoding(["br;q=0.5", "gzip"], ["br", "gzip"]), choose_encoding(["*, br;q=0"], ["br", "gzip"])
    ('gzip', 'gzip')
    >>> choose_encoding(["gzip;q=0.5, identity"], ["br", "gzip"]), choose_encoding([], ["br", "gzip"])
    ('identity', 'identity')
    """
    weights: dict[str, float] = {}
    for text in ",".join(accepted).split(",")[:_MAX_ENCODINGS]:
        name, *parameters = (part.strip().lower() for part in text.split(";"))
        weight = read_weight(parameters)
        if name and weight is not None:
            weights.setdefault(name, weight)
    best = max(encodings, key=lambda name: weights.get(name, weights.get("*", 0.0)), default=IDENTITY)
    weight = weights.get(best, weights.get("*", 0.0))
    return best if weight > 0 and weight >= weights.get(IDENTITY, 0.0) else IDENTITY


class CompressionMiddleware:
    """Middleware that compresses the bodies of clients that prefer gzip.

    That of Starlette finds the word `gzip` also in `gzip;q=0`, and does not find it in `GZIP` or `*`. So it
    sees the encoding that was chosen, and the application sees what the client has sent.
    """

    def __init__(self, app: ASGIApp, minimum_size: int, compresslevel: int) -> None:
        self._app = app
        self._compression = GZipMiddleware(self._restore, minimum_size, compresslevel)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = scope[_SENT_HEADERS] = scope["headers"]
        chosen = choose_encoding(Headers(scope=scope).getlist(_ACCEPTED), (GZIP,))
        kept_headers = [(name, value) for name, value in sent if name.lower() != _ACCEPTED.encode()]
        scope["headers"] = [*kept_headers, (_ACCEPTED.encode(), chosen.encode())]
        await self._compression(scope, receive, send)

    async def _restore(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = scope.pop(_SENT_HEADERS)
        await self._app(scope, receive, send)
