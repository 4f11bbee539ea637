"""The app: health, OpenAPI, wrong settings and imports."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from noetl.api.app import create_app, find_routers
from noetl.api.http.openapi import JSON_TYPE, YAML_TYPES
from noetl.executor.errors import StoreError
from noetl.executor.stores.sqlite.file import SCHEMA_VERSION
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio


async def test_the_app_reports_that_it_is_healthy_and_ready(http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.get("/readyz")).json() == {"status": "ready"}


async def test_the_app_says_that_its_store_was_upgraded(
    http: httpx.AsyncClient, settings: dict[str, str]
) -> None:
    assert (await http.get("/readyz")).status_code == 200
    path = settings["NOETL_STORE"].removeprefix("sqlite:///")
    text = "name: x\nsteps: [{name: a, run: [{action: log, message: x}]}]\n"
    for version, reason in (
        (
            SCHEMA_VERSION + 1,
            "another process has upgraded the store. Restart this process with the later version",
        ),
        (SCHEMA_VERSION - 1, "an earlier copy has replaced the store. Restart this process"),
    ):
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"pragma user_version = {version}")
        for response in (
            await http.get("/readyz"),
            await http.post("/workflows/run", content=text, headers={"Content-Type": "application/yaml"}),
        ):
            assert_problem(response, 503, "store-unavailable")
            versions = f"The store has schema {version}, but this process knows only {SCHEMA_VERSION}: "
            assert response.json()["detail"].startswith(versions + reason)
            assert path not in response.text
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"pragma user_version = {SCHEMA_VERSION}")
    assert (await http.get("/readyz")).status_code == 200


async def test_the_app_is_healthy_without_a_store(settings: dict[str, str]) -> None:
    transport = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_a_request_is_compared_with_the_routes_of_its_router_only(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings)
    compared: list[BaseRoute] = []
    for route in app.routes[1:]:

        def matches(scope: Scope, route: BaseRoute = route) -> tuple[Match, Scope]:
            compared.append(route)
            return type(route).matches(route, scope)

        monkeypatch.setattr(route, "matches", matches)
    (router,) = [router for router in find_routers() if any(has_path(r, "/healthz") for r in router.routes)]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert (await client.get("/healthz")).status_code == 200
    assert 0 < len(compared) <= len(router.routes)


def has_path(route: BaseRoute, path: str) -> bool:
    """Return whether a route is that of a path without parameters."""
    return isinstance(route, APIRoute) and route.path == path


async def test_the_openapi_document_has_all_routes_and_schemas(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        route.path_format
        for router in find_routers()
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
    }
    assert {"/workflows/run", "/playbooks/{name}/versions/{version}", "/healthz"} < set(document["paths"])
    body = document["paths"]["/workflows/run"]["post"]["requestBody"]["content"]
    assert set(body) == {*YAML_TYPES, JSON_TYPE}
    for operation in ("/workflows/callbacks/{token}", "/workflows/callbacks/{token}/heartbeat"):
        assert document["paths"][operation]["post"]["security"] == []
    assert "HTTPValidationError" not in str(document)
    referenced = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert {"Accepted", "Failure", "Problem"} <= referenced <= set(document["components"]["schemas"])
    names = {name for kind in document["components"].values() for name in kind}
    assert {name for name in names if not re.fullmatch(r"[A-Za-z0-9._-]+", name)} == set()
    schemes = set(document["components"]["securitySchemes"])
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert {
        name for operation in operations for entry in operation.get("security", ()) for name in entry
    } == schemes
    assert (await http.get("/docs")).status_code == 200


@pytest.mark.parametrize(
    "wrong_setting",
    [
        {"NOETL_STORE": "sqlite:////proc/nothing/noetl.db"},
        {"NOETL_STORE": "carrier-pigeon://coop"},
        {"NOETL_WORKERS": "many"},
        {"NOETL_FILES_ROOT": "/nothing/here"},
        {"NOETL_PUBLIC_URL": "noetl.test"},
        {"NOETL_PUBLIC_URL": "ftp://noetl.test"},
        {"NOETL_PUBLIC_URL": "https://"},
        {"NOETL_PUBLIC_URL": "https://noetl.test:99999"},
        {"NOETL_PUBLIC_URL": "https://noetl.test:0"},
        {"NOETL_PUBLIC_URL": "https://[noetl.test"},
        {"NOETL_PUBLIC_URL": "https://noetl.test/a b"},
        {"NOETL_PUBLIC_URL": "https://noetl\n.test"},
        {"NOETL_PUBLIC_URL": "https://noetl.test/?to="},
        {"NOETL_PUBLIC_URL": "https://noetl.test/#"},
        {"NOETL_PUBLIC_URL": "https://me:pass@noetl.test/"},
    ],
    ids=lambda wrong_setting: "=".join(next(iter(wrong_setting.items()))),
)
async def test_a_wrong_setting_stops_the_start_with_a_sentence(
    settings: dict[str, str], wrong_setting: dict[str, str]
) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(Exception, match=r".") as raised:
        await create_app(settings | wrong_setting)({"type": "lifespan", "state": {}}, receive, send)
    [message] = sent
    assert message["type"] == "lifespan.startup.failed"
    assert message["message"] == str(raised.value)
    assert isinstance(raised.value, StoreError) or next(iter(wrong_setting)) in message["message"]
    assert "Traceback" not in message["message"]


async def test_the_import_needs_no_settings_and_writes_nothing(tmp_path: Path) -> None:
    code = "import noetl.api.app, os; assert not os.listdir('.')"
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stderr) == (0, "")
