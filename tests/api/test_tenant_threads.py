"""The threads of a tenant for requests that read values of runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from noetl.api.routes import dependencies
from noetl.api.routes.dependencies import TenantThreads

pytestmark = pytest.mark.anyio


class LatePlace:
    """A place of a request, which is given back when `is_free` is set."""

    def __init__(self) -> None:
        self.is_free = asyncio.Event()

    @asynccontextmanager
    async def given_up(self) -> AsyncIterator[None]:
        yield
        await self.is_free.wait()


async def test_a_value_is_read_when_the_request_before_has_its_place_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, threads = LatePlace(), TenantThreads(2)
    read: list[int] = []
    begun = threading.Semaphore(0)
    request: Any = None

    def read_value(number: int) -> None:
        read.append(number)
        begun.release()

    monkeypatch.setattr(dependencies, "place_of", lambda _: place)
    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(threads.run_with_credit(request, "a", partial(read_value, number)))
        for _ in range(2):
            assert await asyncio.to_thread(begun.acquire, timeout=60)
        assert not await asyncio.to_thread(begun.acquire, timeout=0.05)
        place.is_free.set()
    assert sorted(read) == [0, 1, 2, 3, 4]
