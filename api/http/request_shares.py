"""The share of each tenant in the requests that are processed at the same time.

Problem: requests are processed by one event loop and forty threads. A tenant with many connections fills the
loop, or holds all threads while its requests wait for the store. Then all other tenants wait as well.

Algorithm: a request needs a place of its tenant, of which there are few. Others of the tenant wait in the
order of their arrival. A request gives up its place while it waits for its client, for a run, or for a
compute process. So a place is held only by what uses the loop or one thread. Requests without a caller have
places for each route.

Cost: a semaphore for each tenant that has requests.

Limits: `NOETL_TENANT_REQUESTS`. How many requests wait is limited by the connections. The background pauses
for requests that have a place (`noetl.executor.precedence`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.types import Scope

from noetl.executor.errors import SettingError
from noetl.executor.precedence import ForegroundWork

SETTING = "NOETL_TENANT_REQUESTS"
DEFAULT_REQUESTS = 8
MAX_REQUESTS = 20
"""Half of the threads that process requests."""

_PLACE = "noetl.request_place"


def read_tenant_requests(settings: Mapping[str, str]) -> int:
    """Return how many requests of a tenant are processed at the same time.

    Raises:
        SettingError: `NOETL_TENANT_REQUESTS` is not a whole number from 1 to MAX_REQUESTS.
    """
    text = settings.get(SETTING, "").strip() or str(DEFAULT_REQUESTS)
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= MAX_REQUESTS:
        raise SettingError(f"{SETTING} is {text!r}; it must be a whole number from 1 to {MAX_REQUESTS}.")
    return int(text)


class RequestPlace:
    """The place of a request among those of its tenant. Only the task of the request may use it."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._work = ForegroundWork()
        self._is_held = False

    async def take(self) -> None:
        """Wait for a place."""
        await self._places.acquire()
        self._is_held = True
        self._work.__enter__()

    def give_up(self) -> None:
        """Give the place to the next request of the tenant."""
        if self._is_held:
            self._is_held = False
            self._work.__exit__(None, None, None)
            self._places.release()

    @asynccontextmanager
    async def given_up(self) -> AsyncIterator[None]:
        """Give up the place, if it is held, during a block that waits, and take another one afterwards."""
        was_held = self._is_held
        self.give_up()
        try:
            yield
        finally:
            if was_held:
                await self.take()


class RequestShares:
    """The places of all tenants. Their number is read from the settings at the first request."""

    def __init__(self, read_settings: Callable[[], Mapping[str, str]]) -> None:
        self._read_settings = read_settings
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @cached_property
    def _number(self) -> int:
        return read_tenant_requests(self._read_settings())

    @asynccontextmanager
    async def place(self, scope: Scope, tenant: str) -> AsyncIterator[RequestPlace]:
        """Wait for a place of a tenant, and occupy it for the request of a scope during the block."""
        places = self._places.get(tenant)
        if places is None:
            places = self._places[tenant] = asyncio.Semaphore(self._number)
        place = scope[_PLACE] = RequestPlace(places)
        try:
            await place.take()
            yield place
        finally:
            place.give_up()


def place_of(request: Request) -> RequestPlace:
    """Return the place of a request. One that has not passed the access control has places of its own."""
    place: RequestPlace | None = request.scope.get(_PLACE)
    return RequestPlace(asyncio.Semaphore()) if place is None else place
