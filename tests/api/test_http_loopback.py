"""Who is served while there is no authentication."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from noetl.api.context import AppContext
from noetl.api.middleware import AuthenticationMiddleware
from starlette.responses import PlainTextResponse

SETTINGS: dict[str, str] = {}
SHARED = AppContext(SETTINGS)
SERVED = AuthenticationMiddleware(PlainTextResponse("served"), SHARED)


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A store without keys, which is given up after the tests."""
    SETTINGS["NOETL_STORE"] = f"sqlite:///{tmp_path_factory.mktemp('store')}/noetl.db"
    yield
    SHARED.close()


def answer(client: str | None = "127.0.0.1", method: str = "GET", **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        peer: Any = None if client is None else (client, 40000)
        transport = httpx.ASGITransport(SERVED, client=peer)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as http:
            return await http.request(
                method, "/", headers={name.replace("_", "-"): value for name, value in headers.items()}
            )

    return asyncio.run(ask())


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
def test_this_machine_is_served(client: str, host: str) -> None:
    assert answer(client, host=host).text == "served"


def test_pages_of_the_service_are_served() -> None:
    assert answer(host="localhost:8000", origin="http://localhost:8000").text == "served"


@pytest.mark.parametrize(
    "client", ["10.0.0.7", "192.168.1.2", "::ffff:10.0.0.7", "2001:db8::1", "testclient", "", None]
)
def test_other_machines_are_refused(client: str | None) -> None:
    response = answer(client)
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
    assert answer(host=host).status_code == 403


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
    assert answer(host="localhost:8000", origin=origin).status_code == 403


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Server", "Via",
        "X-Real-IP", "X-Client-IP", "CF-Connecting-IP", "CF-Ray", "True-Client-IP", "X-Original-Forwarded-For", "CDN-Loop",
    ],
)  # fmt: skip
def test_what_a_proxy_forwards_is_refused(header: str) -> None:
    for method in ("GET", "POST"):
        response = answer(method=method, **{header: "127.0.0.1"})
        assert response.status_code == 403
        assert f"the header `{header.lower()}`: a proxy forwarded it" in response.json()["detail"]


def test_a_header_that_no_proxy_sets_is_none_of_them() -> None:
    assert answer(**{"X-Via": "a", "Conf-Id": "b", "X-Forward": "c"}).text == "served"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_change_nothing(site: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = answer(method=method, sec_fetch_site=site)
        assert response.status_code == 403
        assert "Sec-Fetch-Site" in response.json()["detail"]
    assert answer(sec_fetch_site=site).text == "served"


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_pages_of_the_service_and_people_change_what_they_like(site: str) -> None:
    assert answer(method="POST", sec_fetch_site=site).text == "served"


def test_websockets_are_refused_likewise() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    scope = {
        "type": "websocket",
        "path": "/",
        "client": ("10.0.0.7", 1),
        "headers": [(b"host", b"localhost")],
    }
    asyncio.run(SERVED(scope, receive, send))
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]
