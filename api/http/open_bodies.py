"""The bodies of requests that are on their way: their time, and their number.

Problem: a client that never finishes a body holds a connection, memory and a task for as long as it likes.

Algorithm: a middleware wraps the function that receives a body. A body waits for its memory first, for
BODY_SECONDS at most. Then all of it must arrive within BODY_SECONDS, however slowly it drips. A body counts
for its tenant while the app waits for a part of it. One without a caller counts also while it waits for its
memory, or strangers would fill all connections. While other tenants send requests, large bodies of a tenant
pause together (`noetl.api.http.part_pauses`). When the process stops, bodies that are on their way have
STOP_SECONDS left.

Cost: a timer for each part of a body.

Limits: `NOETL_MAX_BODIES`, which tenants share by dynamic thresholds, and the bytes of
`noetl.api.http.body_memory`. The bodies of callbacks and webhooks count together as those of one tenant, with
half at most. Addresses share them in the same way.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import cached_property

from starlette.types import Message, Receive

from noetl.api.http.body_memory import SMALL_BYTES, BodyHold, too_many_bodies
from noetl.api.http.open_limit import BODIES, STRANGERS, ClientLimit, read_open_limit
from noetl.api.http.part_pauses import PartPauses
from noetl.api.http.problems import Problem
from noetl.api.http.request_shares import RequestPlace

BODY_SECONDS = 25.0
"""How long the body of a request may take."""

STOP_SECONDS = 2.0
"""How long it may take after the process has got a signal to stop."""

PART_SECONDS = 0.004
"""How long the large bodies of a tenant pause before a part while others send requests: 16 MB a second."""


class OpenBodies:
    """The bodies that are on their way to an app. Its settings are read at the first body."""

    def __init__(self, read_settings: Callable[[], Mapping[str, str]], seconds: float = BODY_SECONDS) -> None:
        self.seconds = seconds
        self._read_settings = read_settings
        self._is_stopping = False
        self._pauses = PartPauses(PART_SECONDS)
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Timeout]] = set()

    @cached_property
    def _open(self) -> ClientLimit:
        return ClientLimit(read_open_limit(self._read_settings(), BODIES), BODIES)

    def stop(self) -> None:
        """Let the bodies that are on their way end soon. Any thread may call it, also a signal handler."""
        self._is_stopping = True
        for loop, timeout in list(self._waiting):
            with suppress(RuntimeError):  # The loop may be closed.
                loop.call_soon_threadsafe(self._shorten, timeout)

    def _shorten(self, timeout: asyncio.Timeout) -> None:
        when = timeout.when()
        if when is not None and not timeout.expired() and self._is_waiting(timeout):
            timeout.reschedule(min(when, asyncio.get_running_loop().time() + STOP_SECONDS))

    def _is_waiting(self, timeout: asyncio.Timeout) -> bool:
        return (asyncio.get_running_loop(), timeout) in self._waiting

    @asynccontextmanager
    async def _timeout_at(self, deadline: float) -> AsyncIterator[None]:
        """Limit the time of a block to a deadline, and after a signal to STOP_SECONDS.

        Raises:
            TimeoutError: the block takes longer.
        """
        loop = asyncio.get_running_loop()
        if self._is_stopping:
            deadline = min(deadline, loop.time() + STOP_SECONDS)
        async with asyncio.timeout_at(deadline) as timeout:
            self._waiting.add((loop, timeout))
            try:
                yield
            finally:
                self._waiting.remove((loop, timeout))

    def limit(
        self, receive: Receive, tenant: str | None, place: RequestPlace, hold: BodyHold | None = None
    ) -> Receive:
        """Return a function that receives the same messages, within the limits for bodies.

        Without a tenant, the body counts for the address of its hold. The request gives up its place while it
        waits. The memory that `hold` expects is reserved before the first message is received. The function
        raises a `Problem`: 408, 429 or 503.
        """
        deadline, received, is_complete = math.inf, 0, False
        address = "" if hold is None or hold.address is None else hold.address

        async def receive_part() -> Message:
            nonlocal deadline, received, is_complete
            if deadline == math.inf:
                deadline = asyncio.get_running_loop().time() + self.seconds
            if received >= SMALL_BYTES and place.is_contended():
                async with place.given_up():
                    await self._pauses.wait(tenant or STRANGERS)
            with self._open.open(tenant, address):
                try:
                    async with place.given_up(), self._timeout_at(deadline):
                        message = await receive()
                except TimeoutError:
                    raise self._late() from None
            received += len(message.get("body", b""))
            is_complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def receive_in_time() -> Message:
            if is_complete:
                return await receive()
            if hold is None or not hold.expected:
                return await receive_part()
            async with place.given_up():
                await self._reserve(hold)
                return await receive_part()

        return receive_in_time

    async def _reserve(self, hold: BodyHold) -> None:
        """Wait for the memory of a body.

        Raises:
            ClientDisconnect: the client has left meanwhile.
            Problem: 429 or 503, too many bodies without a caller wait; 503, there is no memory in time.
        """
        count = nullcontext() if hold.address is None else self._open.open(None, hold.address)
        deadline = asyncio.get_running_loop().time() + self.seconds
        try:
            with count:
                async with self._timeout_at(deadline):
                    await hold.reserve()
        except TimeoutError:
            raise too_many_bodies("The bodies of other requests") from None

    def _late(self) -> Problem:
        detail = f"The body of the request must arrive within {self.seconds:g} s."
        return Problem(408, detail, slug="slow-body", headers={"Connection": "close"})
