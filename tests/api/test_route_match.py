"""The routes of a path, which are found among those with its first segment and its number of segments."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match

from noetl.api.app import find_routers
from noetl.api.http.route_match import RouteTable

ROUTES = [route for router in find_routers() for route in router.routes if isinstance(route, APIRoute)]
PARAMETERS = ("a", "a/b", "a/versions/b", "", "a/", "/a")


def paths_of(route: APIRoute) -> list[str]:
    """Return paths that have the fixed parts of a route, with more or fewer segments than it has."""
    parts = [part.split("}")[-1] for part in route.path.split("{")]
    return [parameter.join(parts) for parameter in PARAMETERS] + [f"{route.path}/", f"/x{route.path}"]


def scope_of(path: str, method: str) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_the_first_of_all_routes_that_have_a_path_is_found(method: str) -> None:
    table = RouteTable(ROUTES)
    fixed_first = sorted(ROUTES, key=lambda route: "{" in route.path)
    for path in {path for route in ROUTES for path in paths_of(route)}:
        scope = scope_of(path, method)
        matches = [(route, route.matches(scope)[0]) for route in fixed_first]
        fixed = [
            (route, match) for route, match in matches if "{" not in route.path and match is not Match.NONE
        ]
        compared = fixed or matches
        full = next((route for route, match in compared if match is Match.FULL), None)
        partial = tuple(route for route, match in compared if match is Match.PARTIAL)
        found = table.find(scope)
        assert found.route is full, path
        assert found.route is not None or found.same_path == partial, path


@pytest.mark.parametrize("path", ["", "/", "//", "/nothing/" + "a/" * 50])
def test_other_paths_have_no_route(path: str) -> None:
    assert RouteTable(ROUTES).find(scope_of(path, "GET")).same_path == ()
