"""The share of each tenant in the requests that are processed at the same time.

Problem: requests are processed by one event loop and forty threads. A tenant with many connections fills the
loop, or holds all threads while its requests wait for the store. Then all other tenants wait as well.

Algorithm: a request needs a place of its tenant, of which there are few. Others of the tenant wait in the
order of their arrival. While several tenants send requests, each has an eighth of its places, because each
thread that runs delays all requests. A request gives up its place while it waits for its client, for a run,
or for a compute process. So a place is held only by what uses the loop or one thread. Requests without a
caller have places for each route. A request to a webhook moves from there to places of the webhooks of its
tenant, as soon as the webhook is found.

Cost: a counter and a queue for each tenant that has requests.

Limits: `NOETL_TENANT_REQUESTS`. How many requests wait is limited by the connections. The background pauses
for requests that have a place (`noetl.executor.precedence`).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Protocol
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.types import Scope

from noetl.api.http.route_match import ROUTE_MATCH
from noetl.executor.errors import SettingError
from noetl.executor.precedence import ForegroundWork

SETTING = "NOETL_TENANT_REQUESTS"
DEFAULT_REQUESTS = 8
MAX_REQUESTS = 20
"""Half of the threads that process requests."""

CONTENTION_SECONDS = 1.0
"""How long after its latest request a tenant counts as one that sends requests."""

CONTENDED_PART = 8
"""A tenant has its places divided by this number, at least one, while other tenants send requests."""

_PLACE = "noetl.request_place"
_SHARES = "noetl.request_shares"


def read_tenant_requests(settings: Mapping[str, str]) -> int:
    """Return how many requests of a tenant are processed at the same time.

    Raises:
        SettingError: `NOETL_TENANT_REQUESTS` is not a whole number from 1 to MAX_REQUESTS.
    """
    text = settings.get(SETTING, "").strip() or str(DEFAULT_REQUESTS)
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= MAX_REQUESTS:
        raise SettingError(f"{SETTING} is {text!r}; it must be a whole number from 1 to {MAX_REQUESTS}.")
    return int(text)


class RequestPlaces(Protocol):
    """A number of places, each of which one request holds."""

    async def acquire(self) -> object: ...

    def release(self) -> None: ...


class ActiveTenants:
    """The tenants that have sent a request in the last CONTENTION_SECONDS."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen_at: OrderedDict[str, float] = OrderedDict()

    def add(self, tenant: str) -> None:
        """Note a request of a tenant."""
        self._seen_at[tenant] = self._clock()
        self._seen_at.move_to_end(tenant)

    def has_others(self, tenant: str) -> bool:
        """Return whether a tenant other than this one sends requests."""
        oldest = self._clock() - CONTENTION_SECONDS
        while self._seen_at and next(iter(self._seen_at.values())) < oldest:
            self._seen_at.popitem(last=False)
        return len(self._seen_at) > (tenant in self._seen_at)


class TenantPlaces:
    """The places of a tenant. `limit` returns how many there are now, at least one."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a place, in the order of the calls."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._give()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a place back."""
        self._held -= 1
        self._give()

    def _give(self) -> None:
        """Give places to those that wait. While some wait, others hold places, so this is called again."""
        limit = self._limit()
        while self._waiting and self._held < limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._held += 1
                turn.set_result(None)


class RequestPlace:
    """The place of a request among those of its tenant. Only the task of the request may use it.

    `is_contended` returns whether other tenants send requests.
    """

    def __init__(self, places: RequestPlaces, is_contended: Callable[[], bool] = lambda: False) -> None:
        self.is_contended = is_contended
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

    async def move(self, places: RequestPlaces) -> None:
        """Give up the place, and wait for one of others."""
        self.give_up()
        self._places = places
        await self.take()

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

    def __init__(
        self, read_settings: Callable[[], Mapping[str, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read_settings = read_settings
        self._active = ActiveTenants(clock)
        self._places: WeakValueDictionary[str, TenantPlaces] = WeakValueDictionary()

    @cached_property
    def _number(self) -> int:
        return read_tenant_requests(self._read_settings())

    @asynccontextmanager
    async def place(self, scope: Scope, tenant: str | None, route: str) -> AsyncIterator[RequestPlace]:
        """Wait for a place of a tenant, and occupy it for the request of a scope during the block.

        Without a tenant, the place is one of the route.
        """
        holder = f" {route}" if tenant is None else tenant  # No tenant has a blank in its name.
        if tenant is not None:
            self.note(tenant)
        scope[_SHARES] = self
        places = self._places_of(holder, holder)
        place = scope[_PLACE] = RequestPlace(places, lambda: self.is_contended(holder))
        try:
            await place.take()
            yield place
        finally:
            place.give_up()

    async def move(self, place: RequestPlace, tenant: str, route: str) -> None:
        """Let a request without a caller wait for a place of a tenant at a route, and occupy that instead."""
        await place.move(self._places_of(f" {route} {tenant}", tenant))

    def note(self, tenant: str) -> None:
        """Note a request of a tenant, which has fewer places while others send requests."""
        self._active.add(tenant)

    def is_contended(self, tenant: str) -> bool:
        """Return whether tenants other than this one send requests."""
        return self._active.has_others(tenant)

    def _places_of(self, holder: str, tenant: str) -> TenantPlaces:
        """Return the places of a holder, which are fewer while other tenants send requests."""

        def limit() -> int:
            return max(self._number // CONTENDED_PART, 1) if self.is_contended(tenant) else self._number

        places = self._places.get(holder)
        if places is None:
            places = self._places[holder] = TenantPlaces(limit)
        return places


def place_of(request: Request) -> RequestPlace:
    """Return the place of a request. One that has not passed the access control has places of its own."""
    place: RequestPlace | None = request.scope.get(_PLACE)
    return RequestPlace(asyncio.Semaphore()) if place is None else place


def is_contended(scope: Scope, tenant: str) -> bool:
    """Return whether tenants other than this one send requests, for a scope that has had a place."""
    shares: RequestShares | None = scope.get(_SHARES)
    return shares is not None and shares.is_contended(tenant)


async def move_to_tenant(request: Request, tenant: str) -> None:
    """Let a request without a caller occupy a place of a tenant, which must exist, at its route.

    So requests of others at the route do not wait for the work of this tenant.
    """
    shares: RequestShares | None = request.scope.get(_SHARES)
    if shares is not None:
        await shares.move(place_of(request), tenant, request.scope[ROUTE_MATCH].route.path)


def note_tenant(request: Request, tenant: str) -> None:
    """Note a request of a tenant whose sender was recognised after the access control."""
    shares: RequestShares | None = request.scope.get(_SHARES)
    if shares is not None:
        shares.note(tenant)
