"""A limit that holders share without parts that are set in advance.

Problem: with a fixed part of a limit for each holder, a few holders together use all of it. With many parts,
most of it stays unused.

Algorithm: dynamic thresholds (A. K. Choudhury and E. L. Hahne, "Dynamic queue length thresholds for
shared-memory packet switches", IEEE/ACM Transactions on Networking, 1998, with a factor of 1). A holder may
take more only while it holds less than what is free. So one that is alone gets half, two get a third each,
and N get one of N + 1 parts. One part stays free for a holder that has nothing yet. If others arrive, a
holder may have more than it could take now. It keeps that, and takes no more.

Cost: a counter for each holder that holds something.

Limits: below `min_share`, a holder may take all that is free. Few holders leave little then.
"""

from __future__ import annotations

from collections import Counter


def may_take(held: int, free: int, size: int = 1, min_share: int = 1) -> bool:
    """Return whether a holder may take `size` of what is free.

    >>> [may_take(held, free) for held, free in ((7, 9), (8, 8), (0, 1), (1, 1), (0, 0))]
    [True, False, True, False, False]
    """
    return size <= free and held + size <= max(free, min_share)


class DynamicThreshold:
    """A limit, and the parts of it that holders have. Only one thread may use it."""

    def __init__(self, limit: int, min_share: int = 1) -> None:
        self.limit = limit
        self.min_share = min_share
        self._held: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Sum of what all holders have."""
        return self._held.total()

    @property
    def free(self) -> int:
        """The part that no holder has."""
        return self.limit - self.total

    def held_by(self, holder: str) -> int:
        """Return how much a holder has."""
        return self._held[holder]

    def may_take(self, holder: str, size: int = 1) -> bool:
        """Return whether a holder may take so much more."""
        return may_take(self._held[holder], self.free, size, self.min_share)

    def take(self, holder: str, size: int = 1) -> None:
        """Count what a holder takes, also above its threshold."""
        self._held[holder] += size

    def give_back(self, holder: str, size: int = 1) -> None:
        """Count what a holder has no longer."""
        self._held[holder] -= size
        if not self._held[holder]:
            del self._held[holder]
