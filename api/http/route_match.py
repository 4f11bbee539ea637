"""The routes that the path of a request has, found once for each request.

Access control, the methods of a path, the negotiation of a media type and the app itself need the route of a
request. A middleware finds it and leaves it in the scope of the request, under `ROUTE_MATCH`. `FoundRoute` is
the first route of the app, so that its router compares no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi.routing import APIRoute
from starlette._utils import get_route_path
from starlette.routing import BaseRoute, Match, Router
from starlette.types import Receive, Scope, Send

ROUTE_MATCH = "noetl.route_match"
"""Key of the `RouteMatch` in the scope of a request."""


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The routes of a path.

    `route` has the method of the request, too. It is None if no route has. Then `same_path` are the
    routes that have the path. `path_params` are the parts of the path that the parameters of `route` name.
    """

    route: APIRoute | None
    same_path: tuple[APIRoute, ...] = ()
    path_params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def allowed_methods(self) -> tuple[str, ...]:
        """Methods of a path for which no route has the method of the request: the header `Allow`."""
        methods = {method for route in self.same_path for method in route.methods or ()}
        heads = {"HEAD"} if "GET" in methods else set()
        return tuple(sorted(methods | heads | {"OPTIONS"})) if methods else ()


class RouteTable:
    """The routes of an app, in the order in which its router compares them.

    A path without parameters hides those with parameters: `/workflows/run` is not the run `run`. Each
    comparison takes the time of the event loop. So a path is compared only with routes that have its first
    segment and as many segments. A parameter with a converter may have several (`{name:path}`).
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = [route for route in routes if isinstance(route, APIRoute)]
        self._fixed: dict[str, list[APIRoute]] = {}
        for route in self._routes:
            if "{" not in route.path:
                self._fixed.setdefault(route.path, []).append(route)
        patterns = [route for route in self._routes if "{" in route.path]
        self._max_segments = 1 + max((_shape(route.path)[1] for route in patterns), default=0)
        self._patterns = {
            (first, count): [route for route in patterns if _may_have_shape(route, first, count)]
            for first in {_shape(route.path)[0] for route in patterns}
            for count in range(1, self._max_segments + 1)
        }

    @property
    def first_segments(self) -> frozenset[str]:
        """The first segments of all paths."""
        return frozenset(_shape(route.path)[0] for route in self._routes)

    def find(self, scope: Scope) -> RouteMatch:
        """Return the routes of a request. A path behind a prefix (`root_path`) is compared without it."""
        path = get_route_path(scope)
        first, count = _shape(path)
        patterns = self._patterns.get((first, min(count, self._max_segments)), ())
        for routes in (self._fixed.get(path, ()), patterns):
            same_path: list[APIRoute] = []
            for route in routes:
                match, child_scope = route.matches(scope)
                if match is Match.FULL:
                    return RouteMatch(route, path_params=child_scope["path_params"])
                if match is Match.PARTIAL:
                    same_path.append(route)
            if same_path:
                return RouteMatch(None, tuple(same_path))
        return RouteMatch(None)


def _shape(path: str) -> tuple[str, int]:
    """Return the first segment of a path, and the number of its segments.

    >>> _shape("/workflows/{id}/events")
    ('workflows', 3)
    """
    segments = path.split("/")[1:] or [""]
    return segments[0], len(segments)


def _may_have_shape(route: APIRoute, first: str, count: int) -> bool:
    """Return whether a path with this first segment and so many segments may be one of a route."""
    own_first, own_count = _shape(route.path)
    return own_first == first and (own_count == count or (":" in route.path and own_count <= count))


class FoundRoute(BaseRoute):
    """The route of an app that hands a request to the part which has the route in `ROUTE_MATCH`.

    `parts` are routers by the `id` of each of their routes.
    """

    def __init__(self, parts: Mapping[int, Router]) -> None:
        self._parts = parts

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return a full match if a middleware has found a route with the method of the request."""
        found: RouteMatch | None = scope.get(ROUTE_MATCH)
        return (Match.NONE if found is None or found.route is None else Match.FULL), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for which `matches` has returned a full match."""
        await self._parts[id(scope[ROUTE_MATCH].route)](scope, receive, send)
