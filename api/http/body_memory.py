"""A budget for the bodies of requests: their bytes, and the values that are decoded from them.

Problem: a body has megabytes, and its values take up to forty times as much. Hundreds of requests that
wait for a thread, a process or a run would keep theirs. A stranger may send bodies to webhooks whose path is
known.

Algorithm: admission control with two counters (Source: admission control in operating systems). Before its
first byte is read, a request waits for the memory of all of its body, as its header declares it. So unread
bytes slow its client down, and bodies that are half read never wait for each other. Before a body is decoded,
the request waits for the memory of its values. A request that has values waits for no more memory, so
requests never wait in a circle. One that waits for a run has dropped its body before. Bytes of a body that is
refused are thrown away as they arrive, and do not count.

Those that hold at most their share go first, in the order of arrival. One that holds more has what others
leave of three quarters. So one sender alone is fast, and others do not wait for all of its bodies.

A request whose client leaves waits no longer. The server says that by `scope[HAS_LEFT]`, since an app would
have to read the body to find out. It is asked every CHECK_SECONDS.

Cost: nothing for a small body. For others one step for each request that waits, and three counts of
characters before a body is decoded.

Limits: MAX_ARRIVED_BYTES and MAX_DECODED_BYTES, whose half is the share of a tenant. Requests without a
caller, and webhooks without a signature, have budgets of their own: MAX_UNKNOWN_BYTES and
MAX_UNKNOWN_DECODED_BYTES, whose quarter is the share of an address. Of each body, SMALL_BYTES are not
counted. A value that is heavier than a share counts as the whole share. Only `noetl serve` says whether a
client has left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from noetl.api.connections import HAS_LEFT
from noetl.api.http.problems import Problem
from noetl.api.http.request_shares import place_of
from noetl.executor.model.arriving_data import json_weight

MAX_ARRIVED_BYTES = 256 * 1024 * 1024
"""How many bytes of bodies of callers a process has in memory."""

MAX_UNKNOWN_BYTES = 128 * 1024 * 1024
"""The same for requests without a caller: callbacks and webhooks."""

MAX_DECODED_BYTES = 512 * 1024 * 1024
"""How much memory the values of bodies of tenants may take, as estimated."""

MAX_UNKNOWN_DECODED_BYTES = 256 * 1024 * 1024
"""The same for requests without a caller and without a signature."""

ADDRESS_PARTS = 4
"""The share of an address is a quarter of what all requests without a caller have."""

SMALL_BYTES = 64 * 1024
"""The bytes of each body, and of its values, that are not counted. So short requests never wait."""

WAIT_SECONDS = 60.0
"""How long a request waits for the memory of its values."""

RETRY_SECONDS = 5

CHECK_SECONDS = 0.25
"""How often a request that waits finds out whether its client has left."""

_HOLD = "noetl.body_hold"


class _Turn(NamedTuple):
    holder: str
    size: int
    granted: asyncio.Future[None]


class WaitingBytes:
    """A counter whose holders wait for bytes. Only one thread may use it.

    The share of a holder is one of `parts`. See the module for the order.
    """

    def __init__(self, limit: int, parts: int = 2) -> None:
        self.share = limit // parts
        self.held = 0
        self._limit = limit
        self._free_for_all = limit * 3 // 4
        self._held_by: Counter[str] = Counter()
        self._waiting: dict[_Turn, None] = {}

    async def reserve(self, holder: str, size: int, has_left: Callable[[], bool] = lambda: False) -> int:
        """Wait for bytes of a holder, and return how many it has got: at most its share.

        Raises:
            ClientDisconnect: the client has left meanwhile, as `has_left` says.
        """
        turn = _Turn(holder, min(size, self.share), asyncio.get_running_loop().create_future())
        self._waiting[turn] = None
        self._grant()
        try:
            while not turn.granted.done():
                await asyncio.wait({turn.granted}, timeout=CHECK_SECONDS)
                _check_presence(has_left)
        except (asyncio.CancelledError, ClientDisconnect):
            if turn in self._waiting:
                del self._waiting[turn]
                self._grant()
            else:
                self.release(holder, turn.size)
            raise
        return turn.size

    def release(self, holder: str, size: int) -> None:
        """Give bytes back."""
        self.held -= size
        self._held_by[holder] -= size
        if not self._held_by[holder]:
            del self._held_by[holder]
        self._grant()

    def _grant(self) -> None:
        """Grant the turns that fit: first those within the share of their holder, then others."""
        beyond_share: set[str] = set()
        for turn in list(self._waiting):
            if turn.holder in beyond_share or self._held_by[turn.holder] + turn.size > self.share:
                beyond_share.add(turn.holder)
            elif self.held + turn.size > self._limit:
                return
            else:
                self._start(turn)
        for turn in list(self._waiting):
            if self.held + turn.size > self._free_for_all:
                return
            self._start(turn)

    def _start(self, turn: _Turn) -> None:
        del self._waiting[turn]
        self.held += turn.size
        self._held_by[turn.holder] += turn.size
        turn.granted.set_result(None)


def _check_presence(has_left: Callable[[], bool]) -> None:
    if has_left():
        raise ClientDisconnect


class BodyHold:
    """The memory that the body of one request takes. Only the task of the request may use it.

    `address` is the one that sends it, if its request has no caller.
    """

    def __init__(self, memory: BodyMemory, scope: Scope, tenant: str | None, address: str) -> None:
        self.address = address if tenant is None else None
        self._has_left: Callable[[], bool] = scope.get(HAS_LEFT, lambda: False)
        self.expected = 0
        self._memory = memory
        # No tenant has a blank in its name.
        self._holder = f" {address}" if tenant is None else tenant
        self._arrived = memory.unknown if tenant is None else memory.arrived
        self._arrived_bytes = 0
        self._values: tuple[WaitingBytes, str, int] | None = None

    def expect(self, size: int) -> None:
        """Set how many bytes the body may have. They are reserved before the first is received."""
        self.expected = max(size - SMALL_BYTES, 0)

    async def reserve(self) -> None:
        """Wait for the memory of the bytes that are expected.

        Raises:
            ClientDisconnect: the client has left meanwhile.
        """
        expected, self.expected = self.expected, 0
        self._arrived_bytes += await self._arrived.reserve(self._holder, expected, self._has_left)

    def settle(self, size: int) -> None:
        """Give back what a complete body of this size does not need."""
        unused = self._arrived_bytes - max(size - SMALL_BYTES, 0)
        if unused > 0:
            self._arrived_bytes -= unused
            self._arrived.release(self._holder, unused)

    async def decode(self, weight: int, tenant: str | None = None) -> None:
        """Wait for the memory of the values of the body, which count for `tenant` if it is known.

        Raises:
            ClientDisconnect: the client has left meanwhile.
            Problem: 503, there is none within WAIT_SECONDS.
        """
        if weight <= SMALL_BYTES or self._values is not None:
            return
        is_unknown = tenant is None and self.address is not None
        decoded = self._memory.unknown_decoded if is_unknown else self._memory.decoded
        holder = tenant or self._holder
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                self._values = decoded, holder, await decoded.reserve(holder, weight, self._has_left)
        except TimeoutError:
            raise too_many_bodies("The values of other bodies") from None

    def release(self) -> None:
        """Give back all that the body takes. The request must have dropped it."""
        self.expected = 0
        self.settle(0)
        if self._values is not None:
            decoded, holder, size = self._values
            self._values = None
            decoded.release(holder, size)


class BodyMemory:
    """The memory for the bodies of requests of a process. Only one thread may use it."""

    def __init__(self) -> None:
        self.arrived = WaitingBytes(MAX_ARRIVED_BYTES)
        self.unknown = WaitingBytes(MAX_UNKNOWN_BYTES, ADDRESS_PARTS)
        self.decoded = WaitingBytes(MAX_DECODED_BYTES)
        self.unknown_decoded = WaitingBytes(MAX_UNKNOWN_DECODED_BYTES, ADDRESS_PARTS)

    @contextmanager
    def hold(self, scope: Scope, tenant: str | None, address: str) -> Iterator[BodyHold]:
        """Yield the memory of the body of a request, until the end of the block.

        Without a tenant it counts for the address that sends it.
        """
        hold = scope[_HOLD] = BodyHold(self, scope, tenant, address)
        try:
            yield hold
        finally:
            hold.release()


def expect_body(request: Request, size: int) -> None:
    """Let a request wait for the memory of so many bytes before it receives its body."""
    hold: BodyHold | None = request.scope.get(_HOLD)
    if hold is not None:
        hold.expect(size)


def settle_body(request: Request, size: int) -> None:
    """Give back the memory that was expected for a body, and that its size does not need."""
    hold: BodyHold | None = request.scope.get(_HOLD)
    if hold is not None:
        hold.settle(size)


async def wait_for_memory(request: Request, body: bytes, tenant: str | None = None) -> None:
    """Wait for the memory of the JSON values of a body, which count for `tenant` if it is known.

    The request gives up its place meanwhile.

    Raises:
        ClientDisconnect: the client has left meanwhile.
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


def too_many_bodies(subject: str) -> Problem:
    """Return the refusal of a body. The connection stays open, so its client may send on and can read it."""
    detail = f"{subject} take all memory that this process has for them."
    return Problem(503, detail, slug="too-many-bodies", headers={"Retry-After": str(RETRY_SECONDS)})
