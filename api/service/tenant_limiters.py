"""Bounds for the threads that each tenant uses for one kind of work."""

from __future__ import annotations

from weakref import WeakValueDictionary

from anyio import CapacityLimiter


class TenantLimiters:
    """A limiter for each tenant, with a number of threads. So tenants do not wait for each other.

    Only the event loop may use it. A limiter without users is forgotten.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._limiters: WeakValueDictionary[str, CapacityLimiter] = WeakValueDictionary()

    def find(self, tenant: str) -> CapacityLimiter:
        """Return the limiter of a tenant."""
        limiter = self._limiters.get(tenant)
        if limiter is None:
            limiter = self._limiters[tenant] = CapacityLimiter(self._number)
        return limiter
