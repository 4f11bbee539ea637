"""The loopback rule while no authentication is configured."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from noetl.api.access import AccessControl, AccessTable
from noetl.api.context import AppContext

SETTINGS: dict[str, str] = {}
CONTEXT = AppContext(SETTINGS)
MIDDLEWARE = AccessControl(PlainTextResponse("served"), CONTEXT, AccessTable([]))


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Store without keys, closed after the tests."""
    SETTINGS["NOETL_STORE"] = f"sqlite:///{tmp_path_factory.mktemp('store')}/noetl.db"
    yield
    CONTEXT.close()


def send_request(client: str | None = "127.0.0.1", method: str = "GET", **headers: str) -> httpx.Response:
    async def request() -> httpx.Response:
        peer: Any = None if client is None else (client, 40000)
        transport = httpx.ASGITransport(MIDDLEWARE, client=peer)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as http:
            return await http.request(
                method, "/", headers={name.replace("_", "-"): value for name, value in headers.items()}
            )

    return asyncio.run(request())


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
def test_this_machine_is_served(client: str, host: str) -> None:
    assert send_request(client, host=host).text == "served"


def test_pages_of_the_service_are_served() -> None:
    assert send_request(host="localhost:8000", origin="http://localhost:8000").text == "served"


@pytest.mark.parametrize(
    "client", ["10.0.0.7", "192.168.1.2", "::ffff:10.0.0.7", "2001:db8::1", "testclient", "", None]
)
def test_other_machines_are_refused(client: str | None) -> None:
    response = send_request(client)
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/problem+json"
    assert "No authentication is configured" in response.json()["detail"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "0.0.0.0:8000",
        "192.168.1.2",
        "[::]:8000",
        "127.0.0.1@evil.example",
        "localhost/..",
        "2130706433",
        "",
    ],
)
def test_foreign_hosts_are_refused(host: str) -> None:
    assert send_request(host=host).status_code == 403


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "http://localhost:9000",
        "http://127.0.0.1:8000",
        "file://",
        "http://[",
    ],
)
def test_foreign_origins_are_refused(origin: str) -> None:
    assert send_request(host="localhost:8000", origin=origin).status_code == 403


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Server",
        "Via",
        "X-Real-IP",
        "X-Client-IP",
        "CF-Connecting-IP",
        "CF-Ray",
        "True-Client-IP",
        "X-Original-Forwarded-For",
        "CDN-Loop",
    ],
)
def test_a_forwarded_request_is_refused(header: str) -> None:
    for method in ("GET", "POST"):
        response = send_request(method=method, **{header: "127.0.0.1"})
        assert response.status_code == 403
        assert f"the header `{header.lower()}`: a proxy forwarded it" in response.json()["detail"]


def test_headers_with_similar_names_are_accepted() -> None:
    assert send_request(**{"X-Via": "a", "Conf-Id": "b", "X-Forward": "c"}).text == "served"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_cannot_change_anything(site: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = send_request(method=method, sec_fetch_site=site)
        assert response.status_code == 403
        assert "Sec-Fetch-Site" in response.json()["detail"]
    assert send_request(sec_fetch_site=site).text == "served"


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_pages_of_the_service_can_change_something(site: str) -> None:
    assert send_request(method="POST", sec_fetch_site=site).text == "served"


def test_websockets_are_refused_too() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the body is read")

    scope = {
        "type": "websocket",
        "path": "/",
        "client": ("10.0.0.7", 1),
        "headers": [(b"host", b"localhost")],
    }
    asyncio.run(MIDDLEWARE(scope, receive, send))
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]
