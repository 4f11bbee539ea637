"""The limit of requests that wait in all functions of a stack together."""

from __future__ import annotations

from functools import partial

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.api.http.open_limit import OPEN_KINDS, WAITING_REQUESTS, read_open_limit
from noetl.api.http.shared_limit import SharedLimit
from noetl.executor.errors import StoreError
from noetl.executor.model.request_counts import RequestBatch
from noetl.executor.stores import open_store
from noetl.executor.stores.memory.store import MemoryStore

ONE = "name: one\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"


def test_processes_share_the_limit_and_a_tenant_has_half() -> None:
    store = MemoryStore()
    first_process, second_process = (
        SharedLimit("waits", 4, store.keys.count_requests, lambda: 600.0) for _ in range(2)
    )
    with (
        first_process.open("a") as first,
        second_process.open("a") as second,
        first_process.open("a") as third,
    ):
        assert (first, second, third) == (True, True, False)
        with (
            first_process.open("b") as fourth,
            second_process.open("b") as fifth,
            second_process.open("c") as sixth,
        ):
            assert (fourth, fifth, sixth) == (True, True, False)
    with second_process.open("c") as may_wait:
        assert may_wait


def test_a_process_that_died_holds_its_place_for_a_minute() -> None:
    store = MemoryStore()
    assert store.keys.count_requests(RequestBatch("waits", 100, 1, 1))
    for now, expected in ((606.0, False), (660.0, False), (672.0, True)):
        limit = SharedLimit("waits", 1, store.keys.count_requests, partial(float, now))
        with limit.open("a") as may_wait:
            assert may_wait is expected


def test_without_the_store_nothing_may_be_opened() -> None:
    def fail(batch: RequestBatch) -> bool:
        raise StoreError("The store is away.")

    with SharedLimit("waits", 1, fail).open("a") as may_wait:
        assert not may_wait


def test_the_default_is_smaller_behind_a_gateway() -> None:
    assert [read_open_limit({}, kind) for kind in OPEN_KINDS] == [1000, 1000, 512, 2000]
    assert read_open_limit({}, WAITING_REQUESTS, has_gateway=True) == 50
    setting = {"NOETL_MAX_WAITING_REQUESTS": "7"}
    assert read_open_limit(setting, WAITING_REQUESTS, has_gateway=True) == 7


@pytest.mark.anyio
async def test_a_function_answers_at_once_if_others_wait(settings: dict[str, str]) -> None:
    settings |= {"NOETL_MAX_WAITING_REQUESTS": "2"}
    store = open_store(settings["NOETL_STORE"])
    text, key = create_api_key("me", ("admin",), "default", 1.0)
    store.keys.add(key)
    app = create_app(settings, has_gateway=True)
    headers = {"Authorization": f"Bearer {text}", "Content-Type": "application/yaml", "Prefer": "wait=1"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        waited = await http.post("/workflows/run", content=ONE, headers=headers)
        with SharedLimit("waits", 2, store.keys.count_requests).open("default") as other_waits:
            assert other_waits
            at_once = await http.post("/workflows/run", content=ONE, headers=headers)
    app.state.context.close()
    store.close()
    assert (waited.status_code, waited.headers["preference-applied"]) == (202, "wait=1")
    assert at_once.status_code == 202
    assert "preference-applied" not in at_once.headers
