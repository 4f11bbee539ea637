"""The memory that the bodies of requests take while they arrive, and while their requests wait."""

from __future__ import annotations

import asyncio
import gc
import json
from statistics import median
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from noetl.api.http import body_memory
from noetl.api.http.body_memory import SMALL_BYTES, BodyHold, BodyMemory, WaitingBytes, wait_for_memory
from noetl.api.http.open_bodies import OpenBodies
from noetl.api.http.problems import Problem
from noetl.api.http.request_shares import RequestPlace
from noetl.api.http.requests import read_limited_body

pytestmark = pytest.mark.anyio

WAITING = """
name: waiting
input: {items: any}
steps: [{name: rest, run: [{action: wait, seconds: 30}]}]
"""

HOOK = """
name: hooked
input: {items: any}
triggers:
- name: called
  type: webhook
  path: large
  max_bytes: 5MiB
  answer: result
  auth: {scheme: none}
  input: {items: "{{ trigger.body | length }}"}
steps: [{name: rest, run: [{action: wait, seconds: 30}]}]
"""

ITEMS = 20_000


@pytest.fixture
def settings(settings: dict[str, str]) -> dict[str, str]:
    return settings | {"NOETL_ALLOW_UNSIGNED_WEBHOOKS": "1"}


def count_lists() -> int:
    """Return how many empty lists the process has."""
    gc.collect()
    return sum(type(value) is list and not value for value in gc.get_objects())


@pytest.mark.parametrize("path", ["/workflows/run", "/hooks/default/large"])
async def test_a_request_that_waits_for_its_run_has_dropped_its_body(
    path: str, http: httpx.AsyncClient
) -> None:
    registered = await http.post("/playbooks", content=HOOK, headers={"Content-Type": "application/yaml"})
    assert registered.status_code == 201, registered.text
    items: Any = [[] for _ in range(ITEMS)]
    body = items if "hooks" in path else {"playbook": WAITING, "input": {"items": items}}
    content = json.dumps(body)
    del items, body
    before = count_lists()
    headers = {"Content-Type": "application/json", "Prefer": "wait=5"}
    request = asyncio.ensure_future(http.post(path, content=content, headers=headers))
    counts = []
    while not request.done():
        await asyncio.sleep(0.5)
        counts.append(count_lists() - before)
    assert request.result().status_code == 202, request.result().text
    assert median(counts) < ITEMS / 2, "the values are kept as long as the request waits"


class TestWaitingBytes:
    async def test_a_holder_alone_has_three_quarters_and_lets_others_pass(self) -> None:
        budget = WaitingBytes(100)
        assert [await budget.reserve("a", size) for size in (40, 35)] == [40, 35]
        third = asyncio.ensure_future(budget.reserve("a", 10))
        other = asyncio.ensure_future(budget.reserve("b", 20))
        assert await other == 20
        assert not third.done()
        budget.release("a", 35)
        assert await third == 10
        assert budget.held == 70

    async def test_those_within_their_share_go_first(self) -> None:
        budget = WaitingBytes(100, 4)
        for _ in range(3):
            await budget.reserve("a", 25)
        await budget.reserve("b", 25)
        order: list[str] = []

        async def wait(holder: str) -> None:
            await budget.reserve(holder, 25)
            order.append(holder)

        waiting = [asyncio.ensure_future(wait(holder)) for holder in ("a", "b", "c", "d")]
        await asyncio.sleep(0)
        for _ in range(3):
            budget.release("a", 25)
            await asyncio.sleep(0.01)
        assert order == ["c", "d", "a"]
        budget.release("c", 25)
        budget.release("d", 25)
        await asyncio.gather(*waiting)
        assert budget.held == 75

    async def test_all_wait_in_their_order(self) -> None:
        budget = WaitingBytes(100)
        await budget.reserve("a", 50)
        await budget.reserve("b", 40)
        large = asyncio.ensure_future(budget.reserve("c", 30))
        small = asyncio.ensure_future(budget.reserve("d", 5))
        await asyncio.sleep(0)
        assert not (large.done() or small.done())
        budget.release("b", 40)
        assert (await large, await small) == (30, 5)

    async def test_more_than_a_share_counts_as_one(self) -> None:
        budget = WaitingBytes(100)
        assert await budget.reserve("a", 1000) == 50
        assert await budget.reserve("b", 1000) == 50

    async def test_one_that_leaves_keeps_nothing(self) -> None:
        budget = WaitingBytes(100)
        await budget.reserve("a", 50)
        waiting = asyncio.ensure_future(budget.reserve("a", 50))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        budget.release("a", 50)
        assert budget.held == 0

    async def test_those_behind_one_that_leaves_are_granted(self) -> None:
        budget = WaitingBytes(100)
        await budget.reserve("a", 50)
        await budget.reserve("b", 40)
        large = asyncio.ensure_future(budget.reserve("c", 30))
        small = asyncio.ensure_future(budget.reserve("d", 5))
        await asyncio.sleep(0)
        large.cancel()
        async with asyncio.timeout(1):
            assert await small == 5

    async def test_one_that_leaves_when_it_is_granted_keeps_nothing(self) -> None:
        budget = WaitingBytes(100)
        await budget.reserve("a", 50)
        waiting = asyncio.ensure_future(budget.reserve("a", 50))
        await asyncio.sleep(0)
        budget.release("a", 50)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert budget.held == 0


def limit_body(
    memory: BodyMemory, tenant: str | None, address: str = "", seconds: float = 10.0
) -> tuple[BodyHold, Request]:
    """Return the memory of a request whose body never ends, and the request."""

    async def receive() -> Any:
        return {"type": "http.request", "body": bytes(SMALL_BYTES), "more_body": True}

    scope: dict[str, Any] = {"type": "http", "headers": []}
    hold = memory.hold(scope, tenant, address).__enter__()
    place = RequestPlace(asyncio.Semaphore())
    limited = OpenBodies(dict, seconds).limit(receive, tenant or " public", place, hold)
    return hold, Request(scope, limited)


async def begin(memory: BodyMemory, tenant: str | None, address: str, size: int) -> BodyHold | int:
    """Let a body begin, and return its memory, or the status of its refusal."""
    hold, request = limit_body(memory, tenant, address, seconds=0.05)
    hold.expect(size + SMALL_BYTES)
    try:
        await request.receive()
    except Problem as problem:
        assert "Connection" not in (problem.headers or {}), "the client may still send, and would see a reset"
        return problem.status
    return hold


class TestArrivals:
    async def test_a_body_waits_for_those_of_others(self) -> None:
        memory = BodyMemory()
        memory.arrived = WaitingBytes(100)
        first = await begin(memory, "a", "", 50)
        assert isinstance(first, BodyHold)
        assert isinstance(await begin(memory, "b", "", 50), BodyHold)
        assert await begin(memory, "c", "", 50) == 503
        waiting = asyncio.ensure_future(begin(memory, "c", "", 50))
        await asyncio.sleep(0)
        first.release()
        assert isinstance(await waiting, BodyHold)

    async def test_strangers_have_a_budget_of_their_own(self) -> None:
        memory = BodyMemory()
        memory.unknown = WaitingBytes(100, 4)
        addresses = ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3")
        begun = [await begin(memory, None, address, 25) for address in addresses]
        assert [503 if hold == 503 else None for hold in begun] == [None, None, None, 503, None, 503]
        assert isinstance(await begin(memory, "a", "192.0.2.1", 25), BodyHold)

    async def test_small_bodies_never_wait(self) -> None:
        memory = BodyMemory()
        memory.unknown = WaitingBytes(0, 4)
        assert isinstance(await begin(memory, None, "192.0.2.1", 0), BodyHold)

    async def test_the_time_of_a_body_begins_when_it_may_be_read(self) -> None:
        memory = BodyMemory()
        memory.arrived = WaitingBytes(100)
        first = await begin(memory, "a", "", 50)
        assert isinstance(first, BodyHold)
        await begin(memory, "b", "", 50)
        hold, request = limit_body(memory, "c", seconds=0.3)
        hold.expect(SMALL_BYTES + 50)
        waiting = asyncio.ensure_future(request.receive())
        await asyncio.sleep(0.2)
        first.release()
        await waiting
        await asyncio.sleep(0.2)
        await request.receive()

    async def test_a_body_of_unknown_length_reserves_the_most_until_it_is_complete(self) -> None:
        memory = BodyMemory()
        held: list[int] = []

        async def receive() -> Any:
            held.append(memory.arrived.held)
            return {"type": "http.request", "body": bytes(SMALL_BYTES), "more_body": len(held) < 3}

        scope: dict[str, Any] = {"type": "http", "headers": []}
        with memory.hold(scope, "a", "") as hold:
            limited = OpenBodies(dict).limit(receive, "a", RequestPlace(asyncio.Semaphore()), hold)
            await read_limited_body(Request(scope, limited), 10 * SMALL_BYTES)
            assert held == [9 * SMALL_BYTES] * 3
            assert memory.arrived.held == 2 * SMALL_BYTES
        assert memory.arrived.held == 0

    async def test_what_is_thrown_away_does_not_count(self) -> None:
        memory = BodyMemory()
        _, request = limit_body(memory, None, "192.0.2.1")
        with pytest.raises(Problem) as raised:
            await read_limited_body(request, 2 * SMALL_BYTES)
        assert raised.value.status == 413
        assert memory.unknown.held == 0


async def test_values_of_strangers_have_a_budget_of_their_own() -> None:
    memory = BodyMemory()
    memory.decoded = WaitingBytes(8 * SMALL_BYTES)
    memory.unknown_decoded = WaitingBytes(8 * SMALL_BYTES, 4)
    with memory.hold({}, None, "192.0.2.1") as stranger, memory.hold({}, None, "192.0.2.2") as sender:
        await stranger.decode(100 * SMALL_BYTES)
        assert (memory.unknown_decoded.held, memory.decoded.held) == (2 * SMALL_BYTES, 0)
        await sender.decode(100 * SMALL_BYTES, "a")
        assert memory.decoded.held == 4 * SMALL_BYTES, "a signed webhook counts for its tenant"


async def test_values_wait_for_memory_and_the_wait_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_memory, "WAIT_SECONDS", 0.05)
    memory = BodyMemory()
    memory.decoded = WaitingBytes(2 * SMALL_BYTES)
    body = json.dumps([[] for _ in range(ITEMS)]).encode()
    with memory.hold({}, "a", "") as first, memory.hold(scope := {"type": "http"}, "a", ""):
        await first.decode(SMALL_BYTES + 1)
        with pytest.raises(Problem, match="take all memory"):
            await wait_for_memory(Request(scope), body)
        first.release()
        await wait_for_memory(Request(scope), body)
        assert memory.decoded.held == SMALL_BYTES
    assert memory.decoded.held == 0
