"""A budget for the bodies of requests: their bytes, and the values that are decoded from them.

Problem: a body has megabytes, and its values take up to forty times as much. Hundreds of requests that
wait for a thread, a process or a run would keep theirs. A stranger may send bodies to webhooks whose path is
known.

Algorithm: admission control with two counters (Source: admission control in operating systems). The bytes of
a body count from their arrival until the end of the request. A body beyond the budget is refused. Before it
is decoded, a request waits until there is memory for the values, in the order of arrival. It holds no other
memory for values meanwhile, so requests never wait for each other in a circle. A request that waits for a run
has dropped its body before.

Cost: an addition for each part of a body, and three counts of characters before it is decoded.

Limits: MAX_ARRIVED_BYTES and MAX_DECODED_BYTES, of which a tenant has half. Bodies of requests without a
caller have a budget of their own, a quarter of it for an address. Of each body, SMALL_BYTES are not counted.
A value that is heavier than a share counts as the whole share.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from starlette.requests import Request
from starlette.types import Scope

from noetl.api.http.problems import Problem
from noetl.api.http.request_shares import place_of
from noetl.executor.model.arriving_data import json_weight

MAX_ARRIVED_BYTES = 256 * 1024 * 1024
"""How many bytes of bodies of callers a process has in memory."""

MAX_UNKNOWN_BYTES = 128 * 1024 * 1024
"""The same for requests without a caller: callbacks and webhooks."""

MAX_DECODED_BYTES = 512 * 1024 * 1024
"""How much memory the values of all bodies may take, as estimated."""

SMALL_BYTES = 64 * 1024
"""The bytes of each body, and of its values, that are not counted. So short requests never wait."""

WAIT_SECONDS = 60.0
RETRY_SECONDS = 5

_HOLD = "noetl.body_hold"


class BodyBytes:
    """The bytes that several holders have in memory. Only one thread may use it."""

    def __init__(self, limit: int, share: int) -> None:
        self.limit = limit
        self.share = share
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Number of bytes of all holders."""
        return self._held.total()

    def fits_share(self, holder: str, size: int) -> bool:
        """Return whether a holder may have so many more bytes, whatever others have."""
        return self._held[holder] + size <= self.share

    def fits(self, size: int) -> bool:
        """Return whether the process may have so many more bytes."""
        return self.held + size <= self.limit

    def add(self, holder: str, size: int) -> None:
        """Add bytes of a holder; negative ones are taken away."""
        self._held[holder] += size
        if not self._held[holder]:
            del self._held[holder]


class _Turn(NamedTuple):
    holder: str
    size: int
    granted: asyncio.Future[None]


class WaitingBytes:
    """A counter whose holders wait for bytes, in the order of their requests. Only one thread may use it."""

    def __init__(self, limit: int) -> None:
        self._bytes = BodyBytes(limit, limit // 2)
        self._waiting: deque[_Turn] = deque()

    @property
    def held(self) -> int:
        """Number of bytes of all holders."""
        return self._bytes.held

    async def reserve(self, holder: str, size: int) -> int:
        """Wait for bytes of a holder, and return how many it has got: at most its share."""
        turn = _Turn(holder, min(size, self._bytes.share), asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        self._grant()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled():
                self.release(holder, turn.size)
            raise
        return turn.size

    def release(self, holder: str, size: int) -> None:
        """Give bytes back."""
        self._bytes.add(holder, -size)
        self._grant()

    def _grant(self) -> None:
        """Grant the turns that fit. A holder with a full share lets others pass; a full process does not."""
        passed: set[str] = set()
        kept: deque[_Turn] = deque()
        while self._waiting:
            turn = self._waiting.popleft()
            if turn.granted.done():
                continue
            if turn.holder in passed or not self._bytes.fits_share(turn.holder, turn.size):
                passed.add(turn.holder)
                kept.append(turn)
                continue
            if not self._bytes.fits(turn.size):
                kept.append(turn)
                break
            self._bytes.add(turn.holder, turn.size)
            turn.granted.set_result(None)
        self._waiting = kept + self._waiting


class BodyHold:
    """The memory that the body of one request takes. Only the task of the request may use it.

    `address` is the one that sends it, if its request has no caller.
    """

    def __init__(
        self, holder: str, arrived: BodyBytes, decoded: WaitingBytes, address: str | None = None
    ) -> None:
        self.address = address
        self._holder = holder
        self._arrived = arrived
        self._decoded = decoded
        self._received = 0
        self._reserved: tuple[str, int] | None = None

    def receive(self, size: int) -> None:
        """Count bytes that have arrived.

        Raises:
            Problem: 429, the holder has its share; 503, the process has too many.
        """
        added = max(self._received + size - SMALL_BYTES, 0) - self._counted
        if not self._arrived.fits_share(self._holder, added):
            detail = f"The bodies of this caller have {self._arrived.share:,} bytes in this process."
            raise _too_many(429, "quota-exceeded", detail)
        if not self._arrived.fits(added):
            detail = f"The bodies of requests have {self._arrived.limit:,} bytes in this process."
            raise _too_many(503, "too-many-bodies", detail)
        self._arrived.add(self._holder, added)
        self._received += size

    async def decode(self, weight: int, tenant: str | None = None) -> None:
        """Wait for the memory of the values of the body, which count for `tenant` if it is known.

        Raises:
            Problem: 503, there is none within WAIT_SECONDS.
        """
        if weight <= SMALL_BYTES or self._reserved is not None:
            return
        holder = tenant or self._holder
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                self._reserved = holder, await self._decoded.reserve(holder, weight)
        except TimeoutError:
            detail = "The values of other bodies take all memory that this process has for them."
            raise _too_many(503, "too-many-bodies", detail) from None

    def release(self) -> None:
        """Give back all that the body takes. The request must have dropped it."""
        self._arrived.add(self._holder, -self._counted)
        self._received = 0
        if self._reserved is not None:
            self._decoded.release(*self._reserved)
            self._reserved = None

    @property
    def _counted(self) -> int:
        return max(self._received - SMALL_BYTES, 0)


class BodyMemory:
    """The memory for the bodies of requests of a process. Only one thread may use it."""

    def __init__(self) -> None:
        self.arrived = BodyBytes(MAX_ARRIVED_BYTES, MAX_ARRIVED_BYTES // 2)
        self.unknown = BodyBytes(MAX_UNKNOWN_BYTES, MAX_UNKNOWN_BYTES // 4)
        self.decoded = WaitingBytes(MAX_DECODED_BYTES)

    @contextmanager
    def hold(self, scope: Scope, tenant: str | None, address: str) -> Iterator[BodyHold]:
        """Yield the memory of the body of a request, until the end of the block.

        Without a tenant it counts for the address that sends it.
        """
        if tenant is None:
            # No tenant has a blank in its name.
            hold = BodyHold(f" {address}", self.unknown, self.decoded, address)
        else:
            hold = BodyHold(tenant, self.arrived, self.decoded)
        scope[_HOLD] = hold
        try:
            yield hold
        finally:
            hold.release()


async def wait_for_memory(request: Request, body: bytes, tenant: str | None = None) -> None:
    """Wait for the memory of the JSON values of a body, which count for `tenant` if it is known.

    The request gives up its place meanwhile.

    Raises:
        Problem: 503, there is none in time.
    """
    hold: BodyHold | None = request.scope.get(_HOLD)
    if hold is None or len(body) <= SMALL_BYTES // 64:
        return
    # A character of four bytes makes all characters of its text as long.
    weight = json_weight(body.decode("latin-1")) + (0 if body.isascii() else 3 * len(body))
    if weight > SMALL_BYTES:
        async with place_of(request).given_up():
            await hold.decode(weight, tenant)


def release_body(request: Request) -> None:
    """Give back the memory of the body of a request that waits, and has dropped it."""
    hold: BodyHold | None = request.scope.get(_HOLD)
    if hold is not None:
        hold.release()


def _too_many(status: int, slug: str, detail: str) -> Problem:
    return Problem(
        status, detail, slug=slug, headers={"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
    )
