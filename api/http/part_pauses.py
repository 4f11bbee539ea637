"""Pauses between the parts of large bodies and answers, which the requests of one tenant share.

Problem: the event loop receives and sends a megabyte in many small parts. With dozens of large requests of
one tenant, there are as many parts to do before a request of another tenant has its turn.

Algorithm: between two parts, a request waits for the pauses of others of its tenant, and then for its own.
What a client sends meanwhile gathers in the socket, so parts of a body are fewer and larger.

Cost: a lock for each tenant with large requests, and a pause for each part.

Limits: those who call it do so only while other tenants send requests. Bodies and answers have pauses of
their own. A request that waits for its client is in no pause, so a slow client delays no other.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class PartPauses:
    """The pauses of all tenants, of `seconds` each. Only one event loop may use it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def wait(self, tenant: str) -> None:
        """Wait for the pauses of a tenant that began before, and for one more."""
        lock = self._locks.get(tenant)
        if lock is None:
            lock = self._locks[tenant] = asyncio.Lock()
        async with lock:
            await asyncio.sleep(self._seconds)
