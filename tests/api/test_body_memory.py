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
from noetl.api.http.body_memory import SMALL_BYTES, BodyBytes, BodyMemory, WaitingBytes, wait_for_memory
from noetl.api.http.open_bodies import OpenBodies
from noetl.api.http.problems import Problem
from noetl.api.http.request_shares import RequestPlace

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
    async def test_a_holder_has_half_and_lets_others_pass(self) -> None:
        budget = WaitingBytes(100)
        assert await budget.reserve("a", 40) == 40
        second = asyncio.ensure_future(budget.reserve("a", 20))
        other = asyncio.ensure_future(budget.reserve("b", 20))
        assert await other == 20
        assert not second.done()
        budget.release("a", 40)
        assert await second == 20
        assert budget.held == 40

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

    async def test_one_that_leaves_when_it_is_granted_keeps_nothing(self) -> None:
        budget = WaitingBytes(100)
        await budget.reserve("a", 50)
        waiting = asyncio.ensure_future(budget.reserve("a", 50))
        await asyncio.sleep(0)
        budget.release("a", 50)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert budget.held == 0


class TestArrivals:
    def receive(self, memory: BodyMemory, tenant: str | None, address: str, size: int) -> Problem | None:
        """Let a body arrive, and return its refusal."""
        hold = memory.hold({}, tenant, address).__enter__()
        try:
            hold.receive(size)
        except Problem as problem:
            return problem
        return None

    def statuses(self, problems: list[Problem | None]) -> list[int | None]:
        return [None if problem is None else problem.status for problem in problems]

    def test_a_tenant_has_half(self) -> None:
        memory = BodyMemory()
        memory.arrived = BodyBytes(10 * SMALL_BYTES, 5 * SMALL_BYTES)
        answers = [self.receive(memory, tenant, "", 5 * SMALL_BYTES) for tenant in ("a", "a", "b", "c")]
        assert self.statuses(answers) == [None, 429, None, 503]

    def test_strangers_have_a_budget_of_their_own(self) -> None:
        memory = BodyMemory()
        memory.unknown = BodyBytes(8 * SMALL_BYTES, 4 * SMALL_BYTES)
        answers = [
            self.receive(memory, None, address, 4 * SMALL_BYTES)
            for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3")
        ]
        assert self.statuses(answers) == [None, 429, None, 503]
        assert self.receive(memory, "a", "192.0.2.1", 4 * SMALL_BYTES) is None

    def test_small_bodies_always_arrive(self) -> None:
        memory = BodyMemory()
        memory.unknown = BodyBytes(0, 0)
        assert self.receive(memory, None, "192.0.2.1", SMALL_BYTES) is None
        assert self.statuses([self.receive(memory, None, "192.0.2.1", SMALL_BYTES + 1)]) == [429]

    def test_the_bytes_are_given_back(self) -> None:
        memory = BodyMemory()
        with memory.hold({}, "a", "") as hold:
            hold.receive(SMALL_BYTES)
            hold.receive(1000)
            assert memory.arrived.held == 1000
            hold.release()
            assert memory.arrived.held == 0
        assert memory.arrived.held == 0


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


async def test_a_body_without_end_is_refused_while_it_arrives() -> None:
    memory = BodyMemory()
    memory.unknown = BodyBytes(2 * SMALL_BYTES, 2 * SMALL_BYTES)

    async def receive() -> Any:
        return {"type": "http.request", "body": bytes(SMALL_BYTES), "more_body": True}

    with memory.hold({}, None, "192.0.2.1") as hold:
        limited = OpenBodies(dict).limit(receive, "a", RequestPlace(asyncio.Semaphore()), hold)
        for _ in range(3):
            await limited()
        with pytest.raises(Problem, match="bytes in this process"):
            await limited()
