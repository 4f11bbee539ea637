"""Channels and notifications over HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.service.channel_views import (
    ChannelEntry,
    ChannelPage,
    ChannelTest,
    NotificationEntry,
    NotificationPage,
    StoredChannel,
)
from noetl.api.service.channels import MAX_CHANNELS, ChannelRequest
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.channels import Channel
from noetl.executor.stores.memory.store import MemoryStore
from tests.api.responses import assert_problem, read_view
from tests.http_server import StubExchange, StubServer, serve

pytestmark = pytest.mark.anyio

MAILBOXES = "from=noetl@a.test&to=ops@a.test"
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
FAILING = """\
name: load
notify: {failed: ops}
steps: [{name: load, run: [{action: fail, message: no rows}]}]
"""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubServer]:
    """Receiver that accepts everything. Actions may reach it."""
    monkeypatch.setenv("NOETL_ALLOW_NETWORKS", "127.0.0.0/8")
    with serve(lambda exchange: exchange.reply(204)) as server:
        yield server


async def put(http: httpx.AsyncClient, name: str = "ops", status: int = 201, **body: Any) -> Any:
    response = await http.put(f"/channels/{name}", json={"url": "https://hooks.test/T/secret", **body})
    assert response.status_code == status, response.text
    return response.json()


async def test_a_channel_is_added_changed_and_removed(http: httpx.AsyncClient) -> None:
    added = read_view(StoredChannel, await put(http, events=["late", "failed"]))
    assert (added.name, added.type, added.url) == ("ops", "webhook", "https://hooks.test/…")
    assert (added.events, added.signed, added.paused) == (["failed", "late"], True, False)
    assert added.secret is not None
    assert added.secret.startswith("whsec_")
    # It keeps its secret, which is not shown again.
    changed = read_view(StoredChannel, await put(http, status=200, url="https://other.test/"))
    assert (changed.url, changed.events, changed.signed) == ("https://other.test", [], True)
    assert (changed.secret, changed.created_at) == (None, added.created_at)
    replaced = read_view(StoredChannel, await put(http, status=200, url="https://other.test/", secret="new"))
    assert replaced.secret not in (None, added.secret)
    assert read_view(StoredChannel, await put(http, "given", secret=SECRET)).secret is None
    slack = read_view(StoredChannel, await put(http, "slack", type="slack", url="{{ secrets.SLACK }}"))
    assert (slack.url, slack.signed, slack.secret) == ("{{ secrets.SLACK }}", False, None)
    bus = read_view(StoredChannel, await put(http, "bus", type="eventbridge", url="default"))
    assert bus.url == "default"
    address = f"smtps://me@mail.test:465/?{MAILBOXES}"
    values: dict[str, Any] = {"type": "email", "url": address, "secret": "{{ secrets.MAIL }}"}
    mail = read_view(StoredChannel, await put(http, "mail", **values))
    assert (mail.url, mail.signed, mail.secret) == (f"smtps://mail.test:465/?{MAILBOXES}", False, None)
    page = read_view(ChannelPage, (await http.get("/channels")).json())
    assert [channel.name for channel in page.items] == ["bus", "given", "mail", "ops", "slack"]
    text = json.dumps((await http.get("/channels")).json())
    assert "secret" not in text.replace("secrets.SLACK", "")
    assert (await http.delete("/channels/ops")).status_code == 204
    assert_problem(await http.get("/channels/ops"), 404, "not-found")
    assert_problem(await http.delete("/channels/ops"), 404, "not-found")


def test_a_lost_response_of_the_store_loses_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = create_services(MemoryStore(), catalogue()).channels
    store = channels.context.store.channels
    written, lost = store.put, [True, False, True, False]

    def lose(channel: Channel, read: Channel | None) -> bool:
        return written(channel, read) and not lost.pop(0)

    monkeypatch.setattr(store, "put", lose)
    stored, is_new = channels.put("ops", ChannelRequest("https://hooks.test"))
    read = store.get("default", "ops")
    assert read is not None
    assert (stored.secret, is_new) == (read.settings["secret"], True)
    again, is_new = channels.put("ops", ChannelRequest("https://hooks.test"))
    assert (again.secret, is_new) == (None, False)
    replaced, is_new = channels.put("ops", ChannelRequest("https://hooks.test", secret="new"))
    current = store.get("default", "ops")
    assert current is not None
    assert (replaced.secret, is_new) == (current.settings["secret"], False)
    assert replaced.secret != stored.secret


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("on call", {}),
        ("ops", {"url": "ftp://hooks.test"}),
        ("ops", {"url": "https://me:word@hooks.test"}),
        ("ops", {"url": " "}),
        ("ops", {"url": "https://xn--a"}),
        ("ops", {"url": "https://hooks.test:65536"}),
        ("ops", {"secret": "whsec_?"}),
        ("ops", {"type": "slack", "secret": SECRET}),
        ("ops", {"type": "email", "url": "mailto:ops@a.test"}),
        ("ops", {"type": "email", "url": f"smtps://me@mail.test?{MAILBOXES}"}),
        ("ops", {"type": "email", "url": f"smtps://me@mail.test?{MAILBOXES}", "secret": "a password"}),
        ("ops", {"type": "email", "url": f"smtps://mail.test?{MAILBOXES}", "secret": "{{ secrets.MAIL }}"}),
    ],
)
async def test_a_wrong_channel_is_refused(http: httpx.AsyncClient, name: str, body: dict[str, Any]) -> None:
    response = await http.put(f"/channels/{name}", json={"url": "https://hooks.test", **body})
    assert_problem(response, 422, "invalid-channel")


async def test_a_body_with_wrong_members_is_refused(http: httpx.AsyncClient) -> None:
    for body in ({}, {"url": "https://hooks.test", "events": ["other"]}, {"url": "x", "type": "pager"}):
        response = await http.put("/channels/ops", json=body)
        assert response.status_code == 422, response.text


async def test_a_tenant_has_a_limited_number_of_channels(http: httpx.AsyncClient) -> None:
    for number in range(MAX_CHANNELS):
        await put(http, f"c{number}")
    response = await http.put("/channels/more", json={"url": "https://hooks.test"})
    assert_problem(response, 409, "too-many-channels")
    await put(http, "c0", status=200)


async def test_a_channel_is_tested(http: httpx.AsyncClient, receiver: StubServer) -> None:
    await put(http, url=receiver.url("/hook"))
    tested = read_view(ChannelTest, (await http.post("/channels/ops/test")).json())
    assert (tested.delivered, tested.problem) == (True, None)
    assert json.loads(receiver.requests[0].body)["type"] == "test"
    await put(http, url="http://10.1.2.3/", status=200)
    refused = read_view(ChannelTest, (await http.post("/channels/ops/test")).json())
    assert not refused.delivered
    assert "must not reach" in str(refused.problem)
    assert_problem(await http.post("/channels/none/test"), 404, "not-found")


async def test_other_requests_do_not_wait_for_a_silent_receiver(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOETL_ALLOW_NETWORKS", "127.0.0.0/8")
    app = create_app({**settings, "NOETL_TENANT_REQUESTS": "1"})
    arrived, may_answer = threading.Event(), threading.Event()

    def answer(exchange: StubExchange) -> None:
        arrived.set()
        may_answer.wait(timeout=60)
        exchange.reply(204)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
        with serve(answer) as server:
            await put(http, url=server.url())
            test = asyncio.create_task(http.post("/channels/ops/test"))
            assert await asyncio.to_thread(arrived.wait, 60)
            listed = asyncio.create_task(http.get("/channels"))
            await asyncio.wait({test, listed}, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            is_before = listed.done() and not test.done()
            may_answer.set()
            assert (await test).json() == {"delivered": True, "problem": None}
            assert (await listed).status_code == 200
            assert is_before
    app.state.context.close()


async def test_notifications_wait_for_a_paused_channel(http: httpx.AsyncClient, receiver: StubServer) -> None:
    await put(http, url=receiver.url())
    assert (await http.post("/playbooks", json={"playbook": FAILING})).status_code == 201
    for _ in range(2):
        paused = read_view(ChannelEntry, (await http.post("/channels/ops/pause")).json())
        assert (paused.paused, paused.paused_reason) == (True, None)
    started = await http.post("/workflows/run", json={"playbook": {"name": "load"}})
    run = started.json()["workflow_id"]
    await http.get(f"/workflows/result/{run}", headers={"Prefer": "wait=20"})
    page = await http.get("/notifications")
    (entry,) = read_view(NotificationPage, page.json()).items
    assert (entry.channel, entry.event, entry.workflow_id, entry.status) == ("ops", "failed", run, "failed")
    assert read_view(NotificationEntry, (await http.get(f"/notifications/{entry.id}")).json()).id == entry.id
    undelivered = await http.get("/notifications", params={"state": "undelivered"})
    assert undelivered.json() == {"items": [], "next_cursor": None}
    assert (await http.get("/notifications", params={"state": "other"})).status_code == 400
    retried = read_view(NotificationEntry, (await http.post(f"/notifications/{entry.id}/retry")).json())
    assert (retried.state, retried.attempts, retried.expires_at) == ("pending", 0, None)
    for _ in range(2):
        resumed = read_view(ChannelEntry, (await http.post("/channels/ops/resume")).json())
        assert not resumed.paused
    response = await http.delete(f"/notifications/{entry.id}")
    # The worker may have sent it already.
    assert response.status_code in (204, 404)
    assert_problem(await http.post(f"/notifications/{entry.id}/retry"), 404, "not-found")
    assert_problem(await http.get("/notifications", params={"cursor": "?"}), 400, "invalid-cursor")


async def test_a_playbook_with_an_unknown_channel_is_refused(http: httpx.AsyncClient) -> None:
    response = await http.post("/playbooks", json={"playbook": FAILING})
    assert response.status_code == 422
    assert response.json()["diagnostics"][0]["code"] == "NP851"
    await put(http)
    assert (await http.post("/playbooks", json={"playbook": FAILING})).status_code == 201
