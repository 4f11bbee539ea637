"""The requests of a process that are open, from their header until their response is sent.

Problem: a server has a number of connections. A request may be open for long: it waits for its turn, for
memory, for a run or for its client. A tenant that opens as many as there are connections keeps all others
out, although each of these waits is limited.

Algorithm: a middleware gives each request a count, which lasts until its response is sent. Access control
counts the request for its tenant as soon as that is known, before it waits for a turn. A request without a
caller counts for its address. A webhook counts for its tenant when its sender is recognised.

Tenants share the connections by dynamic thresholds (`noetl.api.http.dynamic_threshold`): a tenant may open
one more request while it has fewer than connections are free. All requests without a caller are together like
one tenant, with a quarter at most. Addresses share that part in the same way.

Cost: a counter for each tenant and address with open requests.

Limits: `NOETL_MAX_CONNECTIONS`. While a connection is free, a tenant and an address may have 8 requests,
since a browser sends six at once.
Probes are not counted, so that no client lets a healthy process seem sick. Nor are requests whose credentials
are being checked. These are limited by `noetl.api.auth.rate_limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.api.http.open_limit import REQUESTS, ClientLimit, read_open_limit
from noetl.api.http.problems import Problem

_OPEN_REQUEST = "noetl.open_request"


class _OpenRequest:
    """The count of one request: it is for one holder at a time."""

    def __init__(self, limit: ClientLimit) -> None:
        self._limit = limit
        self._holder: tuple[str | None, str] | None = None

    def count(self, tenant: str | None, address: str) -> None:
        """Count the request for this holder instead of the one before.

        Raises:
            Problem: as `ClientLimit.check`. The request then still counts for the one before.
        """
        before, holder = self._holder, (tenant, address)
        if before == holder:
            return
        self.close()
        try:
            self._limit.check(*holder)
        except Problem:
            if before is not None:
                self._add(before)
            raise
        self._add(holder)

    def _add(self, holder: tuple[str | None, str]) -> None:
        self._limit.add(*holder)
        self._holder = holder

    def close(self) -> None:
        """Count the request no longer."""
        if self._holder is not None:
            self._limit.remove(*self._holder)
            self._holder = None


class OpenRequestsMiddleware:
    """Middleware that ends the count of a request when its response is sent. `count_request` begins it."""

    def __init__(self, app: ASGIApp, read_settings: Callable[[], Mapping[str, str]]) -> None:
        self._app = app
        self._read_settings = read_settings

    @cached_property
    def _limit(self) -> ClientLimit:
        """The limit, whose setting is read at the first request."""
        return ClientLimit(read_open_limit(self._read_settings(), REQUESTS), REQUESTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = scope[_OPEN_REQUEST] = _OpenRequest(self._limit)
        try:
            await self._app(scope, receive, send)
        finally:
            request.close()


def count_request(scope: Scope, tenant: str | None, address: str) -> None:
    """Count the request of a scope for its tenant, or for its address if it has no caller.

    Raises:
        Problem: 429, the tenant or the address has as many as it may have; 503, there are too many.
    """
    request: _OpenRequest | None = scope.get(_OPEN_REQUEST)
    if request is not None:
        request.count(tenant, address)
