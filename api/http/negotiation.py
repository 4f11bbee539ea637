"""Negotiation of the media type of a response (RFC 9110, section 12.5.1).

Problem: a client names the media types that it accepts, with weights, and a route has one or several.

Algorithm: the quality of a type is the weight of the most specific range that matches it. The type with the
highest quality is chosen; among equal ones, the one that the client names most exactly, then the first of the
route. Without any range, each type is accepted.

Cost: each type is compared with each range.

Limits: parameters of a range other than `q` are ignored, such as `charset`. A range that is malformed is
ignored, too. Requests that change something are never refused for their `Accept`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from noetl.api.http.problems import Problem
from noetl.api.http.route_match import ROUTE_MATCH, RouteMatch

FORMAT_PARAMETER = "format"
"""The query parameter that overrides `Accept` where a route has it."""

_MAX_RANGES = 100
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_RANGE = re.compile(rf"(?P<type>{_TOKEN})/(?P<subtype>{_TOKEN})")
_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)


def choose_media_type(accept: Iterable[str], media_types: Sequence[str]) -> str | None:
    """Return the media type that the values of the header `Accept` prefer, or None if they refuse all.

    >>> choose_media_type(["text/*;q=0.5, application/json;q=0.2"], ["application/json", "text/plain"])
    'text/plain'
    >>> choose_media_type(["text/event-stream;q=0, */*"], ["text/event-stream"]) is None
    True
    >>> choose_media_type(["text/event-stream, */*"], ["application/json", "text/event-stream"])
    'text/event-stream'
    """
    ranges = [parsed for text in ",".join(accept).split(",")[:_MAX_RANGES] if (parsed := _parse_range(text))]
    if not ranges:
        return media_types[0]
    best = max(media_types, key=lambda media_type: _preference(media_type, ranges))
    weight, _ = _preference(best, ranges)
    return best if weight > 0 else None


def _parse_range(text: str) -> tuple[str, float] | None:
    """Return a media range in lower case with its weight, or None if it is malformed."""
    media_range, *parameters = (part.strip().lower() for part in text.split(";"))
    match = _MEDIA_RANGE.fullmatch(media_range)
    if match is None or (match["type"] == "*" and match["subtype"] != "*"):
        return None
    weight = read_weight(parameters)
    return None if weight is None else (media_range, weight)


def read_weight(parameters: Iterable[str]) -> float | None:
    """Return the weight among the parameters of what a client accepts, or None if it is malformed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value.strip()) if _QUALITY.fullmatch(value.strip()) else None
    return 1.0


def _preference(media_type: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """Return the weight of the most specific range that matches a type, and how specific the range is."""
    family = media_type.partition("/")[0]
    for exactness, media_range in ((2, media_type), (1, f"{family}/*"), (0, "*/*")):
        weights = [weight for candidate, weight in ranges if candidate == media_range]
        if weights:
            return max(weights), exactness
    return 0.0, 0


def accepted_media_type(request: Request, media_types: Sequence[str]) -> str:
    """Return the media type among those of a route that the client of a request prefers.

    Raises:
        Problem: 406, the client accepts none of them.
    """
    chosen = choose_media_type(request.headers.getlist("accept"), media_types)
    if chosen is None:
        raise _not_acceptable(media_types)
    return chosen


def _not_acceptable(media_types: Sequence[str]) -> Problem:
    listed = ", ".join(media_types)
    return Problem(
        406,
        f"The header Accept allows none of the media types of this response: {listed}.",
        slug="not-acceptable",
        available=list(media_types),
    )


class NegotiationMiddleware:
    """Middleware that refuses a GET request whose `Accept` allows no media type of its route.

    The media types are those that the description of the route declares. Each response varies by `Accept`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match: RouteMatch | None = scope.get(ROUTE_MATCH)
        route = None if match is None else match.route
        media_types = [] if route is None or scope["method"] != "GET" else declared_media_types(route)
        if route is None or not media_types:
            await self._app(scope, receive, send)
            return

        async def send_varied(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).add_vary_header("Accept")
            await send(message)

        accept = Headers(scope=scope).getlist("accept")
        if choose_media_type(accept, media_types) is None and not _is_overridden(scope, route):
            await _not_acceptable(media_types).response(scope["path"])(scope, receive, send_varied)
        else:
            await self._app(scope, receive, send_varied)


def declared_media_types(route: APIRoute) -> list[str]:
    """Return the media types of the successful responses that the description of a route has."""
    contents = (
        description.get("content", {})
        for status, description in route.responses.items()
        if str(status).startswith("2")
    )
    return list(dict.fromkeys(media_type for content in contents for media_type in content))


def _is_overridden(scope: Scope, route: APIRoute) -> bool:
    names = {parameter.name for parameter in route.dependant.query_params}
    return FORMAT_PARAMETER in names and FORMAT_PARAMETER in Request(scope).query_params
