"""Shares of tenants: how many threads of a worker execute visits of each tenant.

Problem: a step that holds its thread for an hour cannot be interrupted. One tenant with as many such steps as
the worker has threads would keep the visits of all other tenants waiting.

Algorithm: bulkheads (Nygard 2007, "Release It!"): a tenant occupies at most `limit` threads, and the worker
has more. A claim passes over the tenants that occupy their limit. The tenant of a claim is known only after
it. So a claim that could exceed a limit waits until no other claim is in progress.

Cost: one lock for each claim and each end of a chain of visits.

Limits: shares are counted in one process. Several tenants together may occupy all threads.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from noetl.executor.model.run import Claim


class TenantShares:
    """The number of threads that each tenant occupies, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._occupied: Counter[str] = Counter()
        self._claims = 0
        self._changed = threading.Condition()

    def claim(self, claim: Callable[[frozenset[str]], Claim | None]) -> Claim | None:
        """Return the claim that a function makes, given the tenants to pass over.

        The tenant of the claim occupies a thread until `release`.
        """
        passed_over = self._begin()
        claimed = None
        try:
            claimed = claim(passed_over)
        finally:
            with self._changed:
                self._claims -= 1
                if claimed is not None:
                    self._occupied[claimed.run.tenant] += 1
                self._changed.notify_all()
        return claimed

    def release(self, tenant: str) -> None:
        """Stop counting a thread of a tenant."""
        with self._changed:
            self._occupied[tenant] -= 1
            if not self._occupied[tenant]:
                del self._occupied[tenant]
            self._changed.notify_all()

    def has_full_tenant(self) -> bool:
        """Return whether a tenant occupies its limit, so that its due visits wait for its own threads."""
        with self._changed:
            return bool(self._full_tenants())

    def _begin(self) -> frozenset[str]:
        """Return the tenants that occupy their limit, when no claim in progress can exceed a limit."""
        with self._changed:
            while self._claims and self._claims + self._most_occupied() >= self._limit:
                self._changed.wait()
            self._claims += 1
            return self._full_tenants()

    def _most_occupied(self) -> int:
        """Return the most threads that a tenant below its limit occupies."""
        return max((count for count in self._occupied.values() if count < self._limit), default=0)

    def _full_tenants(self) -> frozenset[str]:
        return frozenset(tenant for tenant, count in self._occupied.items() if count >= self._limit)
