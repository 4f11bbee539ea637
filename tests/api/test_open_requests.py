"""The requests that a client may have open, so that those of others find a connection."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from collections import Counter
from contextlib import ExitStack

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.api.connections import ConnectionTable
from noetl.api.http.open_limit import REQUESTS, STREAMS, ClientLimit, OpenLimit
from noetl.api.http.open_requests import OpenRequestsMiddleware, count_request
from noetl.api.http.problems import Problem
from noetl.api.service.webhooks import WebhookService
from noetl.executor.stores import open_store
from tests.api.test_slow_clients import ask, connect, serve, wait_until

CONNECTIONS = 16
LIMIT = {"NOETL_MAX_CONNECTIONS": str(CONNECTIONS)}


def create_keys(settings: dict[str, str]) -> dict[str, str]:
    """Return an API key for each of two tenants."""
    keys = {}
    store = open_store(settings["NOETL_STORE"])
    for tenant in ("many", "few"):
        keys[tenant], key = create_api_key("k", ["admin"], tenant, 1.0)
        store.keys.add(key)
    store.close()
    return keys


def write_head(method: str, path: str, key: str, *, body_bytes: int = 0) -> bytes:
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {key}",
        "Content-Type: application/yaml",
        f"Content-Length: {body_bytes}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_unfinished_requests_of_a_tenant_keep_no_other_tenant_out(settings: dict[str, str]) -> None:
    keys, table = create_keys(settings), ConnectionTable(CONNECTIONS)
    with serve(create_app(settings | LIMIT), table) as port, ExitStack() as stack:
        # Both have been accepted before, so that their requests are known by their keys.
        for key in keys.values():
            with connect(port) as client:
                assert ask(client, write_head("GET", "/workflows", key)).startswith(b"HTTP/1.1 200")
        clients = [stack.enter_context(connect(port)) for _ in range(CONNECTIONS)]
        for client in clients:
            client.sendall(write_head("POST", "/plan", keys["many"], body_bytes=1_000_000))
        refused = list[socket.socket]()
        while len(refused) < CONNECTIONS // 2:
            refused = select.select(clients, [], [], 60)[0]
        for client in refused:
            refusal = b""
            while not refusal.endswith(b"}"):
                refusal += client.recv(4096)
            assert refusal.startswith(b"HTTP/1.1 429")
            assert b"8 requests of this tenant are open in this process" in refusal
        for _ in range(3):
            few = stack.enter_context(connect(port))
            assert ask(few, write_head("GET", "/workflows", keys["few"])).startswith(b"HTTP/1.1 200")


def test_a_client_that_has_not_read_its_response_keeps_no_other_out() -> None:
    """A short response is complete for the server while the client has read none of it."""

    async def respond(scope: object, receive: object, send: object) -> None:
        assert isinstance(scope, dict)
        assert callable(send)
        if scope["type"] == "lifespan":
            raise NotImplementedError
        size = 16_000_000 if scope["path"] == "/large" else 0
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    table = ConnectionTable(4, send_seconds=1000.0)
    with serve(respond, table) as port, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connect(port)).sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: sum(connection.unsent_bytes > 0 for connection in table.connections) == 4)
        for _ in range(3):
            with connect(port) as client:
                assert ask(client).startswith(b"HTTP/1.1 200")


def open_many(limit: ClientLimit, stack: ExitStack, tenant: str | None, address: str) -> tuple[int, int]:
    """Open requests until one is refused. Return how many were opened, and the status of the refusal."""
    for count in range(1000):
        try:
            stack.enter_context(limit.open(tenant, address))
        except Problem as problem:
            return count, problem.status
    raise AssertionError("no request was refused")


def test_tenants_leave_a_part_of_the_connections_to_others() -> None:
    limit = ClientLimit(1000, REQUESTS)
    with ExitStack() as stack:
        opened = [open_many(limit, stack, tenant, "") for tenant in ("first", "second", "third", "fourth")]
        assert opened == [(500, 429), (250, 429), (125, 429), (63, 429)]
        assert open_many(limit, stack, None, "192.0.2.1") == (31, 429)
        # What was opened before the others arrived stays open, and nothing is added to it.
        assert open_many(limit, stack, "first", "") == (0, 429)
    assert open_many(limit, ExitStack(), "first", "") == (500, 429)


@pytest.mark.parametrize("tenants", [1, 2, 4, 9])
def test_tenants_that_want_all_have_equal_parts_as_requests_end(tenants: int) -> None:
    limit, names = OpenLimit(200, STREAMS), [f"t{number}" for number in range(tenants)]
    held = Counter[str]()
    for number in range(2000):
        for tenant in names:
            while limit.may_open(tenant):
                limit.add(tenant)
                held[tenant] += 1
        if number < 1900:
            tenant = names[number % tenants]
            held[tenant] -= 1
            limit.remove(tenant)
    assert all(abs(count - 200 // (tenants + 1)) <= 1 for count in held.values())
    assert limit.count < limit.limit


def test_all_requests_without_a_caller_have_a_quarter_and_addresses_share_it() -> None:
    limit = ClientLimit(256, REQUESTS)
    with ExitStack() as stack:
        opened = [open_many(limit, stack, None, f"192.0.2.{number}") for number in range(5)]
        assert opened == [(32, 429), (16, 429), (8, 429), (8, 429), (0, 503)]
        assert open_many(limit, stack, "many", "192.0.2.1") == (96, 429)
    with ExitStack() as stack:
        assert open_many(limit, stack, None, "192.0.2.9") == (32, 429)


@pytest.mark.parametrize(("connections", "share"), [(1, 1), (8, 8), (16, 8)])
def test_a_share_of_few_connections_is_not_less_than_a_browser_needs(connections: int, share: int) -> None:
    for tenant in (None, "a"):
        limit = ClientLimit(connections, REQUESTS)
        with ExitStack() as stack:
            assert open_many(limit, stack, tenant, "192.0.2.1")[0] == share


@pytest.mark.anyio
async def test_a_browser_loads_the_page_of_a_service_with_few_connections(settings: dict[str, str]) -> None:
    app = create_app(settings | {"NOETL_MAX_CONNECTIONS": "8"})
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            paths = ["/ui/files/app.js", "/ui/files/page.css", "/workflows"] * 2
            responses = await asyncio.gather(*map(client.get, paths))
    assert [response.status_code for response in responses] == [200] * len(paths)


def test_a_request_counts_for_one_holder_until_its_response_is_sent() -> None:
    order = list[str]()

    async def app(scope: object, receive: object, send: object) -> None:
        assert isinstance(scope, dict)
        holder: tuple[str | None, str] = scope["holder"]
        try:
            count_request(scope, None, "192.0.2.1")
            count_request(scope, *holder)
            count_request(scope, *holder)
            order.append("counted")
        except Problem as problem:
            order.append(str(problem.status))
        await scope["ended"].wait()

    async def play() -> None:
        limited = OpenRequestsMiddleware(app, lambda: {"NOETL_MAX_CONNECTIONS": "16"})

        async def unused() -> dict[str, object]:
            raise AssertionError

        async def send(message: object) -> None:
            raise AssertionError

        ended = asyncio.Event()
        tasks = []
        for tenant in (*["a"] * 9, *[None] * 8):
            scope = {"type": "http", "holder": (tenant, "192.0.2.1"), "ended": ended}
            tasks.append(asyncio.ensure_future(limited(scope, unused, send)))
            await asyncio.sleep(0)
        ended.set()
        await asyncio.gather(*tasks)
        await limited({"type": "http", "holder": ("a", ""), "ended": ended}, unused, send)

    asyncio.run(play())
    # The ninth of a tenant stays one of its address, so that has its share after seven more.
    assert order == [*["counted"] * 8, "429", *["counted"] * 7, "429", "counted"]


@pytest.mark.anyio
async def test_probes_are_answered_whatever_strangers_have_open(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, find, begun = threading.Event(), WebhookService.find, threading.Semaphore(0)

    def block(service: WebhookService, path: str) -> object:
        begun.release()
        opened.wait()
        return find(service, path)

    monkeypatch.setattr(WebhookService, "find", block)
    create_keys(settings)
    app = create_app(settings | LIMIT)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, client=("192.0.2.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            waiting = [asyncio.ensure_future(client.post("/hooks/many/a")) for _ in range(8)]
            try:
                for _ in waiting:
                    await asyncio.to_thread(begun.acquire)
                refused = await client.post("/hooks/many/a")
                probes = [await client.get(path) for path in ("/healthz", "/readyz")]
            finally:
                opened.set()
            assert {response.status_code for response in await asyncio.gather(*waiting)} == {404}
    assert refused.status_code == 429
    assert json.loads(refused.text)["type"] == "urn:noetl:problem:quota-exceeded"
    assert [probe.status_code for probe in probes] == [200, 200]


def test_a_refusal_names_the_part_of_requests_without_a_caller() -> None:
    limit = ClientLimit(40, REQUESTS)
    for number in range(10):
        limit.add(None, f"192.0.2.{number}")
    with pytest.raises(Problem) as refusal:
        limit.check(None, "192.0.2.99")
    assert "10 requests without a caller are open, which is their part" in refusal.value.detail
