"""The requests of a process that are open, from their header until their response is sent.

Problem: a server has a number of connections. A request may be open for long: it waits for its turn, for
memory, for a run or for its client. A tenant that opens as many as there are connections keeps all others
out, although each of these waits is limited.

Algorithm: a middleware gives each request a count, which lasts until its response is sent. Access control
counts the request for its tenant as soon as that is known, before it waits for a turn. A request without a
caller counts for its address. A webhook counts for its tenant when its sender is recognised.

Cost: a counter for each tenant and address with open requests.

Limits: `NOETL_MAX_CONNECTIONS`, of which a tenant has half. All requests without a caller have a quarter, and
an address has a quarter of that. None of these is less than 8, since a browser sends six requests at once.
Probes are not counted, so that no client lets a healthy process seem sick. Nor are requests whose credentials
are being checked. These are limited by `noetl.api.auth.rate_limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property

from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.api.http.open_limit import REQUESTS, OpenLimit, read_open_limit

STRANGER_PARTS = 4
"""All requests without a caller have one of these parts, and an address has one of as many parts of it."""

_OPEN_REQUEST = "noetl.open_request"


class OpenRequests:
    """The open requests of an app. Its setting is read at the first one."""

    def __init__(self, read_settings: Callable[[], Mapping[str, str]]) -> None:
        self._read_settings = read_settings

    @cached_property
    def _of_tenants(self) -> OpenLimit:
        return read_open_limit(self._read_settings(), REQUESTS)

    @cached_property
    def _of_strangers(self) -> OpenLimit:
        limit = self._of_tenants.limit
        limit = min(max(limit // STRANGER_PARTS, REQUESTS.min_share), limit)
        return OpenLimit(limit, REQUESTS, owner="address", parts=STRANGER_PARTS)

    @contextmanager
    def open(self, tenant: str | None, address: str) -> Iterator[None]:
        """Count a request during this block: for its tenant, or for its address if it has no caller.

        Raises:
            Problem: 429, the tenant or the address has its share; 503, there are too many.
        """
        with self._of_strangers.open(address) if tenant is None else self._of_tenants.open(tenant):
            yield


class _OpenRequest:
    """The count of one request: it is for one holder at a time."""

    def __init__(self, requests: OpenRequests) -> None:
        self._requests = requests
        self._counts = ExitStack()
        self._holder: tuple[str | None, str] | None = None

    def count(self, tenant: str | None, address: str) -> None:
        """Count the request for this holder instead of the one before.

        Raises:
            Problem: as `OpenRequests.open`. The request then still counts for the one before.
        """
        if self._holder == (tenant, address):
            return
        with ExitStack() as counts:
            counts.enter_context(self._requests.open(tenant, address))
            self.close()
            self._counts, self._holder = counts.pop_all(), (tenant, address)

    def close(self) -> None:
        """Count the request no longer."""
        self._counts.close()


class OpenRequestsMiddleware:
    """Middleware that ends the count of a request when its response is sent. `count_request` begins it."""

    def __init__(self, app: ASGIApp, read_settings: Callable[[], Mapping[str, str]]) -> None:
        self._app = app
        self._requests = OpenRequests(read_settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = scope[_OPEN_REQUEST] = _OpenRequest(self._requests)
        try:
            await self._app(scope, receive, send)
        finally:
            request.close()


def count_request(scope: Scope, tenant: str | None, address: str) -> None:
    """Count the request of a scope for its tenant, or for its address if it has no caller.

    Raises:
        Problem: 429, the tenant or the address has its share; 503, there are too many.
    """
    request: _OpenRequest | None = scope.get(_OPEN_REQUEST)
    if request is not None:
        request.count(tenant, address)
