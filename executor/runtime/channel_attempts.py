"""Attempts of a process to deliver notifications: which channels may begin one, and in what order.

Problem: a receiver may take 15 seconds to fail. Neither dead receivers nor a tenant with many channels may
hold up others.

Algorithm: a channel has one attempt at a time. There are bounds for all open attempts, and for the new ones.
An attempt is new for PATIENCE_SECONDS, so a dead receiver leaves its place to the next one. A channel whose
last attempt took longer is slow. Slow channels have at most half of each bound, and so has one tenant. If the
store fails for a channel, it has a pause, which doubles each time.

Tenants alternate, and so do the channels of a tenant: the one that began longest ago is first (least recently
used).

Cost: `begin` sorts the channels that it is given.

Limits: the bounds are those of one process. With more than MAX_REMEMBERED channels, what is known of them is
forgotten, and begins again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from itertools import count
from operator import itemgetter

MAX_SENDERS = 8
"""How many attempts of a process are new."""

MAX_SENDERS_OF_TENANT = MAX_SENDERS // 2

PATIENCE_SECONDS = 1.0
"""After which time without an answer another notification takes the place of an attempt."""

MAX_ATTEMPTS = 64
"""How many attempts of a process have no answer, with those that have waited for long."""

MAX_ATTEMPTS_OF_TENANT = MAX_ATTEMPTS // 2

MAX_PAUSE_SECONDS = 60.0
"""The longest pause of a channel whose notifications the store cannot read or write."""

MAX_REMEMBERED = 1000
"""For how many channels pauses, slow answers and the order of their begins are kept."""

Place = tuple[str, str]
"""A channel: its tenant and its name."""


class ChannelAttempts:
    """The open attempts of a process. The first pause of a channel takes `pause_seconds`."""

    def __init__(self, pause_seconds: float) -> None:
        self._pause_seconds = pause_seconds
        self._lock = threading.Lock()
        self._begun_at: dict[Place, float] = {}
        self._slow: set[Place] = set()
        self._pauses: dict[Place, tuple[float, float]] = {}
        self._last_begun: dict[tuple[str, ...], int] = {}
        self._numbers = count(1)

    def are_open(self) -> bool:
        """Return whether an attempt has not ended."""
        return bool(self._begun_at)

    def find_closed(self) -> tuple[set[str], set[Place]]:
        """Return those that may begin no attempt now: tenants that have their half, and single channels."""
        with self._lock:
            bounds, _ = self._find_bounds()
            tenants = set[str]().union(*(bound.find_full_tenants() for bound in bounds))
            return tenants, self._find_closed_channels()

    def begin(self, places: Iterable[Place]) -> list[Place]:
        """Begin attempts of channels as far as the bounds allow. Return those that began, in their order."""
        begun = list[Place]()
        with self._lock:
            bounds, slow_bounds = self._find_bounds()
            closed = self._find_closed_channels()
            for place in self._sort(place for place in places if place not in closed):
                of_channel = [*bounds, *slow_bounds] if place in self._slow else bounds
                if all(bound.admits(place[0]) for bound in of_channel):
                    for bound in of_channel:
                        bound.add(place[0])
                    self._begun_at[place] = time.monotonic()
                    self._record_begin(place)
                    begun.append(place)
        return begun

    def end(self, place: Place, *, has_failed: bool = False) -> None:
        """End the attempt of a channel. If the store has failed, the channel has a pause."""
        with self._lock:
            now = time.monotonic()
            is_slow = now - self._begun_at.pop(place) > PATIENCE_SECONDS
            if max(len(self._slow), len(self._pauses)) >= MAX_REMEMBERED:
                self._slow.clear()
                self._pauses.clear()
            self._slow.discard(place)
            if is_slow:
                self._slow.add(place)
            _, seconds = self._pauses.pop(place, (0.0, 0.0))
            if has_failed:
                seconds = min(2 * seconds, MAX_PAUSE_SECONDS) if seconds else self._pause_seconds
                self._pauses[place] = (now + seconds, seconds)

    def _find_bounds(self) -> tuple[list[_Bound], list[_Bound]]:
        """Return the bounds of attempts, and those of attempts of slow channels."""
        begun_after = time.monotonic() - PATIENCE_SECONDS
        all_open = set(self._begun_at)
        new = {place for place, begun_at in self._begun_at.items() if begun_at > begun_after}
        bounds = [
            _Bound(MAX_ATTEMPTS, MAX_ATTEMPTS_OF_TENANT, all_open),
            _Bound(MAX_SENDERS, MAX_SENDERS_OF_TENANT, new),
        ]
        slow_bounds = [
            _Bound(MAX_ATTEMPTS // 2, MAX_ATTEMPTS_OF_TENANT // 2, all_open & self._slow),
            _Bound(MAX_SENDERS // 2, MAX_SENDERS_OF_TENANT // 2, new & self._slow),
        ]
        return bounds, slow_bounds

    def _find_closed_channels(self) -> set[Place]:
        """Return the channels with an attempt or a pause."""
        now = time.monotonic()
        return {*self._begun_at, *(place for place, (until, _) in self._pauses.items() if until > now)}

    def _sort(self, places: Iterable[Place]) -> list[Place]:
        """Return the first channel of each tenant, then the second of each, and so on.

        The first one is that which began longest ago.
        """
        last_begun, counts = self._last_begun, Counter[str]()
        ranked = list[tuple[int, int, Place]]()
        for place in sorted(places, key=lambda place: last_begun.get(place, 0)):
            tenant, _ = place
            ranked.append((counts[tenant], last_begun.get((tenant,), 0), place))
            counts[tenant] += 1
        return [place for _, _, place in sorted(ranked, key=itemgetter(0, 1))]

    def _record_begin(self, place: Place) -> None:
        """Record that a channel and its tenant are the last ones that have begun."""
        if len(self._last_begun) > 2 * MAX_REMEMBERED:
            self._last_begun.clear()
        tenant, _ = place
        self._last_begun[place] = self._last_begun[tenant,] = next(self._numbers)


class _Bound:
    """A bound for attempts, and for those of one tenant, with the numbers that there are."""

    def __init__(self, most: int, most_of_tenant: int, places: Iterable[Place]) -> None:
        self._counts = Counter(tenant for tenant, _ in places)
        self._free = most - self._counts.total()
        self._most_of_tenant = most_of_tenant

    def find_full_tenants(self) -> set[str]:
        """Return the tenants that have as many attempts as one tenant may have."""
        return {tenant for tenant, number in self._counts.items() if number >= self._most_of_tenant}

    def admits(self, tenant: str) -> bool:
        """Return whether another attempt of a tenant may begin."""
        return self._free > 0 and self._counts[tenant] < self._most_of_tenant

    def add(self, tenant: str) -> None:
        """Count an attempt of a tenant."""
        self._counts[tenant] += 1
        self._free -= 1
