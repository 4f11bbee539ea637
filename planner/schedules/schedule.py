"""The schedule of a trigger: when it fires by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from noetl.planner.frozen import frozen

CatchUpMode = Literal["none", "last", "all"]

MAX_JITTER_SECONDS = 86_400.0
MAX_CATCH_UP_SECONDS = 30 * 86_400.0
MAX_CATCH_UP = 1_000
"""The greatest number of missed firings that start runs, one after the other."""


@frozen
class CatchUp:
    """The treatment of firings that were missed, because no process was there to perform them.

    `none` drops them, `last` performs the newest one, and `all` performs all in order: those of the last
    `within_seconds`, and the newest `limit` of them.
    """

    mode: CatchUpMode = "last"
    within_seconds: float = MAX_CATCH_UP_SECONDS
    limit: int = MAX_CATCH_UP

    def to_json(self) -> dict[str, Any]:
        return {"mode": self.mode, "within_seconds": self.within_seconds, "limit": self.limit}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CatchUp:
        return cls(data["mode"], data["within_seconds"], data["limit"])


LAST = CatchUp()


@frozen
class Schedule:
    """The times at which a trigger fires: those of a cron expression in a zone, or every some seconds.

    Attributes:
        cron: the cron expression, or None.
        every_seconds: the interval, or None. It counts from `start_at`, or from the epoch.
        timezone: the name of the zone of `cron`.
        start_at: the first instant at which it may fire, in seconds since the epoch.
        end_at: the instant from which on it does not fire.
        catch_up: what happens to missed firings.
        jitter_seconds: the greatest delay of a firing. Each trigger has one constant delay.
        overlap: `skip`, if no run starts while the run of an earlier firing has not ended; otherwise None.
    """

    cron: str | None = None
    every_seconds: float | None = None
    timezone: str = "UTC"
    start_at: float | None = None
    end_at: float | None = None
    catch_up: CatchUp = LAST
    jitter_seconds: float = 0.0
    overlap: Literal["skip"] | None = None

    @property
    def timing(self) -> tuple[Any, ...]:
        """The values that decide when it fires. Versions with equal timing have the same next firing."""
        return self.cron, self.every_seconds, self.timezone, self.start_at, self.end_at

    def next_after(self, instant: float) -> float | None:
        """Return the first instant after `instant` at which it fires, or None if there is none.

        >>> Schedule(every_seconds=60).next_after(61.0)
        120.0
        """
        is_before = self.start_at is not None and instant < self.start_at
        if self.every_seconds is not None:
            found: float | None = self.start_at if is_before else self._next_interval(instant)
        else:
            found = self._next_match(instant if self.start_at is None else max(instant, self.start_at - 1e-6))
        return None if found is None or (self.end_at is not None and found >= self.end_at) else found

    def _next_interval(self, instant: float) -> float:
        assert self.every_seconds is not None
        first = self.start_at or 0.0
        count = math.floor((instant - first) / self.every_seconds)
        # The quotient is rounded, so the first multiple may be greater already.
        multiples = (first + (count + further) * self.every_seconds for further in range(3))
        return next(multiple for multiple in multiples if multiple > instant)

    def _next_match(self, instant: float) -> float | None:
        from zoneinfo import ZoneInfo

        from noetl.planner.schedules.cron import Cron
        from noetl.planner.schedules.zone import next_instant

        assert self.cron is not None
        after = datetime.fromtimestamp(instant, UTC)
        found = next_instant(Cron(self.cron), ZoneInfo(self.timezone), after)
        return None if found is None else found.timestamp()

    def count_between(self, start: float, end: float) -> int:
        """Return how many instants there are from `start` on and before `end`.

        >>> Schedule(every_seconds=60).count_between(60.0, 180.0)
        2
        """
        start = start if self.start_at is None else max(start, self.start_at)
        end = end if self.end_at is None else min(end, self.end_at)
        if start >= end:
            return 0
        if self.every_seconds is not None:
            return self._count_intervals_before(end) - self._count_intervals_before(start)
        from zoneinfo import ZoneInfo

        from noetl.planner.schedules.cron import Cron
        from noetl.planner.schedules.zone import count_instants

        assert self.cron is not None
        since, until = (datetime.fromtimestamp(instant, UTC) for instant in (start, end))
        return count_instants(Cron(self.cron), ZoneInfo(self.timezone), since, until)

    def _count_intervals_before(self, end: float) -> int:
        """Return the number of multiples of the interval before an instant, which is not before the first."""
        assert self.every_seconds is not None
        first = self.start_at or 0.0
        count = math.ceil((end - first) / self.every_seconds)
        # The quotient is rounded.
        return next(
            number
            for number in (count + 1, count, count - 1)
            if first + (number - 1) * self.every_seconds < end
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "cron": self.cron,
            "every_seconds": self.every_seconds,
            "timezone": self.timezone,
            "start_at": self.start_at,
            "end_at": self.end_at,
            "catch_up": self.catch_up.to_json(),
            "jitter_seconds": self.jitter_seconds,
            "overlap": self.overlap,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schedule:
        return cls(
            data["cron"],
            data["every_seconds"],
            data["timezone"],
            data["start_at"],
            data["end_at"],
            CatchUp.from_json(data["catch_up"]),
            data["jitter_seconds"],
            data["overlap"],
        )
