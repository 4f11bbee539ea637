"""Rates: the times at which units may be taken, so that no window of a rate has more than its limit.

Problem: a limit of 100 units in one minute must hold in each minute, not only in those that a clock begins.
An owner that has to wait must know its time, so that a timer can resume it.

Algorithm: a sliding log of reservations (compare the sliding-window log of rate limiters). A rate keeps the
times at which units were taken, and times in the future that are reserved. A reservation is never earlier
than the one before it. So the window that ends at its time has all units that count. The earliest time is
that at which enough of the oldest units have left the window.

The log is bounded. A limit of at most `MAX_ENTRIES` units has no more entries in a window. At a greater one,
a reservation is merged with those in the same sixtieth of the window, at the latest of their times. So a
window may get fewer units than its limit, but never more.

| method of `RateLog` | what it returns |
| --- | --- |
| `find_time` | the earliest time at which units may be taken |
| `take` | the log with one reservation more |
| `turn_back` | the log after a clock was moved back |

Cost: linear in the entries, at most some 60.

Limits: the order is that of arrival. A reservation whose owner is cancelled is lost. A merged entry delays
the next reservation by a sixtieth of the window at most. An owner that begins late keeps its time in the
log, so after an outage more than the limit may begin at once.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from noetl.planner.frozen import frozen, replace

MAX_ENTRIES = 60
"""The greatest limit whose reservations are exact, and in how many parts a window is divided above it."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Reservation(NamedTuple):
    """A number of units that were taken at a time, or will be."""

    time: float
    units: int


@frozen
class RateLog:
    """The reservations of a rate, oldest first, and its window in seconds. `read_at` is the latest time at
    which one was made.
    """

    per: float
    taken: tuple[Reservation, ...] = ()
    read_at: float = 0.0

    @property
    def idle_at(self) -> float:
        """The time at which all units have left the window."""
        return self.taken[-1].time + self.per if self.taken else self.read_at

    def count_taken(self, limit: int, now: float) -> int:
        """Return how many units of a limit are taken in the window that ends now.

        If units are reserved for later, all units count as taken. No reservation is earlier than the last
        one, so none is free now. The log may have only the window that ends with the last one, too.
        """
        if self.count_reserved(now):
            return limit
        return sum(units for time, units in self.taken if now < time + self.per)

    def count_reserved(self, now: float) -> int:
        """Return how many units are reserved for later, of those in the last window."""
        return sum(units for time, units in self.taken if time > now)

    def find_time(self, limit: int, units: int, since: float) -> float:
        """Return the earliest time from `since` on at which units may be taken.

        >>> RateLog(60.0, (Reservation(5.0, 2),)).find_time(2, 1, since=6.0)
        65.0
        """
        time = max([since, *(last.time for last in self.taken[-1:])])
        counted = [entry for entry in self.taken if entry.time + self.per > time]
        excess = sum(entry.units for entry in counted) + units - limit
        for entry in counted:
            if excess <= 0:
                break
            excess -= entry.units
            time = max(time, entry.time + self.per)
        return time

    def take(self, limit: int, units: int, time: float, now: float) -> RateLog:
        """Return the log with a reservation, which is not earlier than the others."""
        since = merged_since(limit, self.per, time)
        counted = [entry for entry in self.taken if entry.time + self.per > time]
        kept = [entry for entry in counted if entry.time < since]
        merged = units + sum(entry.units for entry in counted[len(kept) :])
        return replace(self, taken=(*kept, Reservation(time, merged)), read_at=max(self.read_at, now))

    def turn_back(self, now: float) -> RateLog:
        """Return the log as of now. A clock that was moved back by more than a window moves all entries.

        So the clock delays a new owner by a window at most.
        """
        seconds = self.read_at - now
        if seconds <= self.per:
            return self
        moved = tuple(Reservation(time - seconds, units) for time, units in self.taken)
        return replace(self, taken=moved, read_at=now)

    def to_text(self) -> str:
        """Return the log as JSON."""
        return _encode([self.per, self.read_at, self.taken])

    @classmethod
    def from_text(cls, text: str) -> RateLog:
        """Return the log that `to_text` describes."""
        per, read_at, taken = json.loads(text)
        return cls(per, tuple(Reservation(*entry) for entry in taken), read_at)


def merged_since(limit: int, per: float, time: float) -> float:
    """Return the time from which on reservations are merged with one at a time.

    >>> merged_since(60, 120.0, 7.5), merged_since(61, 120.0, 7.5)
    (7.5, 6.0)
    """
    if limit <= MAX_ENTRIES:
        return time
    part = per / MAX_ENTRIES
    return min(math.floor(time / part) * part, time)
