"""The share of each tenant in the requests that are processed at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from noetl.api.auth import authentication
from noetl.api.auth.api_keys import create_api_key
from noetl.api.auth.authentication import Authenticator, Caller
from noetl.api.http.request_shares import (
    CONTENDED_PART,
    CONTENTION_SECONDS,
    DEFAULT_REQUESTS,
    RequestPlace,
    RequestShares,
    TenantPlaces,
    read_tenant_requests,
)
from noetl.api.service.backfills import BackfillService
from noetl.api.service.channels import ChannelService
from noetl.api.service.playbooks import PlaybookService
from noetl.api.service.triggers import TriggerService
from noetl.api.service.views import PlaybookPage
from noetl.api.service.webhooks import WebhookService
from noetl.executor import precedence
from noetl.executor.errors import SettingError
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.stores import open_store
from noetl.executor.stores.sql.runs import SqlRuns

pytestmark = pytest.mark.anyio


@pytest.fixture
def keys(settings: dict[str, str]) -> dict[str, dict[str, str]]:
    """The headers of a caller of each of two tenants."""
    headers = {}
    store = open_store(settings["NOETL_STORE"])
    for tenant in ("many", "few"):
        text, key = create_api_key("k", ["admin"], tenant, 1.0)
        store.keys.add(key)
        headers[tenant] = {"Authorization": f"Bearer {text}"}
    store.close()
    return headers


class BlockedLists:
    """Lists of the tenant `many`, which block in the store until `opened`. `begun` counts them."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun = 0


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockedLists]:
    blocked = BlockedLists()
    find_runs, find_playbooks = SqlRuns.find, PlaybookService.find

    def block(tenant: str) -> None:
        if tenant == "many":
            blocked.begun += 1
            blocked.opened.wait()

    def block_runs(runs: SqlRuns, run_filter: RunFilter) -> tuple[list[RunSummary], str | None]:
        block(run_filter.tenant)
        return find_runs(runs, run_filter)

    def block_playbooks(playbooks: PlaybookService, *, limit: int, cursor: str | None) -> PlaybookPage:
        block(playbooks.context.tenant)
        return find_playbooks(playbooks, limit=limit, cursor=cursor)

    monkeypatch.setattr(SqlRuns, "find", block_runs)
    monkeypatch.setattr(PlaybookService, "find", block_playbooks)
    yield blocked
    blocked.opened.set()


async def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the requests did not reach the state")


@pytest.mark.parametrize(("path", "begun"), [("/playbooks", DEFAULT_REQUESTS), ("/workflows", 2)])
async def test_a_tenant_whose_requests_block_does_not_occupy_the_threads_of_others(
    http: httpx.AsyncClient, keys: dict[str, dict[str, str]], lists: BlockedLists, path: str, begun: int
) -> None:
    requests = [asyncio.ensure_future(http.get(path, headers=keys["many"])) for _ in range(45)]
    await wait_for(lambda: lists.begun == begun)
    for _ in range(3):
        assert (await http.get(path, headers=keys["few"])).status_code == 200
    assert lists.begun == begun
    lists.opened.set()
    responses = await asyncio.gather(*requests)
    assert [response.status_code for response in responses] == [200] * 45


async def test_a_tenant_waits_for_its_place_before_it_is_authenticated_again(
    http: httpx.AsyncClient,
    keys: dict[str, dict[str, str]],
    lists: BlockedLists,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authenticate, authenticated = Authenticator.authenticate, 0

    def count(authenticator: Authenticator, headers: list[str]) -> Caller:
        nonlocal authenticated
        authenticated += 1
        return authenticate(authenticator, headers)

    monkeypatch.setattr(Authenticator, "authenticate", count)
    monkeypatch.setattr(authentication, "RECENT_SECONDS", 0.0)
    assert (await http.get("/workflows/unknown", headers=keys["many"])).status_code == 404
    requests = [asyncio.ensure_future(http.get("/playbooks", headers=keys["many"])) for _ in range(20)]
    await wait_for(lambda: lists.begun == DEFAULT_REQUESTS)
    await http.get("/playbooks", headers=keys["few"])
    assert authenticated == 1 + DEFAULT_REQUESTS + 1
    lists.opened.set()
    assert {response.status_code for response in await asyncio.gather(*requests)} == {200}
    assert authenticated == 1 + 20 + 1


HOOK = """
name: hooked
triggers: [{name: a, type: webhook, path: a, auth: {scheme: none}}]
steps: [{name: a, run: [{action: log, message: a}]}]
"""


@pytest.mark.parametrize("work", ["check_sender", "deliver"])
async def test_webhooks_of_a_tenant_do_not_wait_for_those_of_another(
    http: httpx.AsyncClient,
    settings: dict[str, str],
    keys: dict[str, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    work: str,
) -> None:
    settings["NOETL_ALLOW_UNSIGNED_WEBHOOKS"] = "1"
    for headers in keys.values():
        assert (await http.post("/playbooks", json={"playbook": HOOK}, headers=headers)).status_code == 201
    opened, perform, begun = threading.Event(), getattr(WebhookService, work), 0

    def block(service: WebhookService, *arguments: object) -> object:
        nonlocal begun
        if service.context.tenant == "many":
            begun += 1
            opened.wait()
        return perform(service, *arguments)

    monkeypatch.setattr(WebhookService, work, block)
    requests = [asyncio.ensure_future(http.post("/hooks/many/a")) for _ in range(45)]
    await wait_for(lambda: begun > 0)
    try:
        for _ in range(3):
            response = await asyncio.wait_for(http.post("/hooks/few/a"), 60)
            assert response.status_code == 202
    finally:
        opened.set()
    assert {response.status_code for response in await asyncio.gather(*requests)} == {202}


@pytest.mark.parametrize(
    "slow_request",
    [
        (BackfillService, "start", "/backfills", {"playbook": "a", "trigger": "a"}),
        (TriggerService, "fire", "/triggers/a/a/fire", {}),
        (ChannelService, "test", "/channels/a/test", None),
    ],
    ids=["backfill", "fire", "channel"],
)
async def test_slow_work_of_a_tenant_occupies_no_threads_of_others(
    http: httpx.AsyncClient,
    keys: dict[str, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    slow_request: tuple[type, str, str, object],
) -> None:
    service, work, path, body = slow_request
    opened, perform, begun = threading.Event(), getattr(service, work), 0

    def block(called: Any, *arguments: object) -> object:
        nonlocal begun
        if called.context.tenant == "many":
            begun += 1
            opened.wait()
        return perform(called, *arguments)

    monkeypatch.setattr(service, work, block)
    send = partial(http.post, path, json=body)
    requests = [asyncio.ensure_future(send(headers=keys["many"])) for _ in range(DEFAULT_REQUESTS)]
    await wait_for(lambda: begun >= 2)
    try:
        response = await asyncio.wait_for(send(headers=keys["few"]), 60)
    finally:
        opened.set()
    assert {answer.status_code for answer in (response, *await asyncio.gather(*requests))} == {404}


async def test_requests_that_wait_for_a_run_occupy_no_place(
    http: httpx.AsyncClient, keys: dict[str, dict[str, str]]
) -> None:
    text = "name: waiting\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]\n"
    headers = keys["many"] | {"Content-Type": "application/yaml", "Prefer": "wait=60"}
    waiting = [
        asyncio.ensure_future(http.post("/workflows/run", content=text, headers=headers))
        for _ in range(DEFAULT_REQUESTS + 1)
    ]

    runs: list[str] = []
    for _ in range(10_000):
        listed = (await http.get("/workflows", headers=keys["many"])).json()["items"]
        runs = [run["workflow_id"] for run in listed]
        if len(runs) > DEFAULT_REQUESTS:
            break
    for run in runs:
        await http.post(f"/workflows/{run}/cancel", headers=keys["many"])
    responses = await asyncio.gather(*waiting)
    assert [response.json()["status"] for response in responses] == ["cancelled"] * (DEFAULT_REQUESTS + 1)


async def test_requests_get_places_in_order_and_one_whose_client_has_left_gets_none() -> None:
    shares = RequestShares(lambda: {"NOETL_TENANT_REQUESTS": "1"})
    order: list[str] = []

    async def request(name: str) -> None:
        async with shares.place({}, "a", "/route") as place:
            order.append(name)
            async with place.given_up():
                await asyncio.sleep(0)

    async with shares.place({}, "a", "/route"):
        tasks = [asyncio.ensure_future(request(name)) for name in ("first", "left", "last")]
        await asyncio.sleep(0)
        tasks[1].cancel()
        async with shares.place({}, "b", "/route"):
            assert order == []
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["first", "last"]


class Requests:
    """Requests that hold their place until they are `ended`. `open` of them hold one at the same time."""

    def __init__(self, shares: RequestShares) -> None:
        self._shares = shares
        self._open = 0
        self.most = 0

    async def _send(self, tenant: str | None, ended: asyncio.Event) -> None:
        async with self._shares.place({}, tenant, "/route"):
            self._open += 1
            self.most = max(self.most, self._open)
            await ended.wait()
            self._open -= 1

    async def send(self, tenant: str | None, count: int) -> int:
        """Send a number of requests together, and return how many held a place at the same time."""
        self.most, ended = 0, asyncio.Event()
        requests = [asyncio.ensure_future(self._send(tenant, ended)) for _ in range(count)]
        for _ in range(3):
            await asyncio.sleep(0)
        ended.set()
        await asyncio.gather(*requests)
        return self.most


async def test_a_tenant_has_fewer_places_while_another_sends_requests() -> None:
    now = 0.0
    requests = Requests(RequestShares(lambda: {"NOETL_TENANT_REQUESTS": "16"}, lambda: now))
    assert await requests.send("a", 30) == 16
    assert await requests.send("b", 1) == 1
    assert await requests.send("a", 30) == 16 // CONTENDED_PART
    assert await requests.send(None, 30) == 16 // CONTENDED_PART
    now += CONTENTION_SECONDS + 0.1
    assert await requests.send(None, 30) == 16
    assert await requests.send("a", 30) == 16


async def test_requests_without_a_caller_take_no_places_of_tenants() -> None:
    requests = Requests(RequestShares(lambda: {"NOETL_TENANT_REQUESTS": "16"}, lambda: 0.0))
    assert await requests.send(None, 1) == 1
    assert await requests.send("a", 30) == 16


async def test_a_tenant_has_one_place_at_least() -> None:
    requests = Requests(RequestShares(lambda: {"NOETL_TENANT_REQUESTS": "1"}, lambda: 0.0))
    await requests.send("b", 1)
    assert await requests.send("a", 3) == 1


async def test_a_place_of_a_request_that_leaves_when_it_gets_it_is_free_again() -> None:
    places = TenantPlaces(lambda: 1)
    await places.acquire()
    waiting = asyncio.ensure_future(places.acquire())
    await asyncio.sleep(0)
    places.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(places.acquire(), 5)


async def test_the_background_pauses_only_for_requests_that_have_a_place() -> None:
    before = precedence.SLICES.foreground
    place = RequestPlace(asyncio.Semaphore())
    await place.take()
    assert precedence.SLICES.foreground == before + 1
    async with place.given_up():
        assert precedence.SLICES.foreground == before
    place.give_up()
    async with place.given_up():
        pass
    assert precedence.SLICES.foreground == before


@pytest.mark.parametrize("text", ["0", "21", "-1", "many", "1" * 20])
def test_the_number_of_requests_is_checked(text: str) -> None:
    with pytest.raises(SettingError, match="NOETL_TENANT_REQUESTS"):
        read_tenant_requests({"NOETL_TENANT_REQUESTS": text})
