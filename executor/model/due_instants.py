"""The instants of a schedule that have passed: which one is performed, and which are missed.

Problem: no process may have run for a minute or a month, and a schedule may fire each second. A process that
comes back must neither flood its workers nor forget silently what it has not done.

Algorithm: an instant that passed more than MISSED_SECONDS ago is missed. The catch-up of the schedule says
which of the missed instants are performed nevertheless. The oldest instant that is performed is returned,
with the number of those before it that are not. The caller asks again for the next one.

Cost: proportional to the instants that have passed, at most MAX_COUNTED and those that are performed. A
change of the timing holds locks meanwhile, so it counts MAX_COUNTED_AT_CHANGE.

Limits: `next_at` is the first instant, whatever the schedule says now. It was found with earlier rules of its
zone, or by an earlier version. If more instants of a cron expression have passed than are counted, so many
are recorded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator

from noetl.planner.frozen import frozen
from noetl.planner.schedules.schedule import MAX_CATCH_UP, CatchUp, Schedule

MISSED_SECONDS = 60.0
"""An instant that is to be performed later than this counts as missed."""

MAX_COUNTED = 10_000
"""How many passed instants are counted one by one."""

MAX_COUNTED_AT_CHANGE = 500
"""The same while a version becomes live. A playbook may have 30 triggers, and an instant takes 0.1 ms."""

_MAX_NEWEST = MAX_CATCH_UP + 64
"""At least the instants that are performed: a schedule fires once in a second."""

_JUST_BEFORE = 1e-6


@frozen
class ReadBounds:
    """The number of passed instants that are counted one by one, and of the newest that are returned."""

    counted: int
    newest: int


_AT_CHANGE = ReadBounds(MAX_COUNTED_AT_CHANGE, 2)


@frozen
class DueInstants:
    """The passed instants of a schedule.

    Attributes:
        performed: the instant to perform now, or None.
        missed: how many instants before it are not performed.
        newest_missed: the last of these, or None.
        next_at: the instant after all of them, which may have passed, too; None if there is none.
    """

    performed: float | None
    missed: int
    newest_missed: float | None
    next_at: float | None


def find_due(
    schedule: Schedule,
    next_at: float,
    now: float,
    catch_up: CatchUp | None = None,
    later_start: float | None = None,
) -> DueInstants:
    """Return what to do about the instants from `next_at` to `now`, in seconds since the epoch.

    `catch_up` replaces that of the schedule. If `next_at` has not passed, nothing is to be done. The instants
    that follow `next_at` are after `later_start`, if that is given.

    >>> find_due(Schedule(every_seconds=3600), 0.0, 7300.0)
    DueInstants(performed=7200.0, missed=2, newest_missed=3600.0, next_at=10800.0)
    """
    if next_at > now:
        return DueInstants(None, 0, None, next_at)
    count, newest = _read_passed(schedule, next_at, now, later_start)
    position = _find_performed(newest, now, catch_up or schedule.catch_up)
    missed = count - (len(newest) - position)
    newest_missed = newest[position - 1] if missed else None
    performed, following = newest[position : position + 1], newest[position + 1 : position + 2]
    next_at_then = following[0] if following else _next_after(schedule, newest[-1], later_start)
    return DueInstants(performed[0] if performed else None, missed, newest_missed, next_at_then)


def count_passed(
    schedule: Schedule, next_at: float | None, now: float, later_start: float | None = None
) -> DueInstants:
    """Return the instants from `next_at` to `now` as missed ones, none of which is performed.

    Those that follow `next_at` are after `later_start`, if that is given.
    """
    if next_at is None or next_at > now:
        return DueInstants(None, 0, None, next_at)
    count, newest = _read_passed(schedule, next_at, now, later_start)
    return DueInstants(None, count, newest[-1], _next_after(schedule, newest[-1], later_start))


def leave_instants(
    schedule: Schedule, next_at: float, now: float, later_start: float | None, *, performs_newest: bool
) -> DueInstants:
    """Return the instants from `next_at` to `now` of a schedule that ends now.

    The newest of them is performed if `performs_newest` is true. The others are missed.

    >>> leave_instants(Schedule(every_seconds=3600), 0.0, 7300.0, None, performs_newest=True)
    DueInstants(performed=7200.0, missed=2, newest_missed=3600.0, next_at=None)
    """
    count, newest = _read_passed(schedule, next_at, now, later_start, _AT_CHANGE)
    if not performs_newest:
        return DueInstants(None, count, newest[-1], None)
    return DueInstants(newest[-1], count - 1, newest[-2] if count > 1 else None, None)


def _next_after(schedule: Schedule, instant: float, later_start: float | None) -> float | None:
    return schedule.next_after(instant if later_start is None else max(instant, later_start))


def _find_performed(newest: list[float], now: float, catch_up: CatchUp) -> int:
    """Return the position of the first instant that is performed, or the number of all.

    `newest` are the last instants that have passed, in order.
    """
    fresh = bisect_left(newest, now - MISSED_SECONDS)
    if catch_up.mode == "all":
        return max(min(bisect_left(newest, now - catch_up.within_seconds), fresh), fresh - catch_up.limit)
    is_last = catch_up.mode == "last" and fresh == len(newest)
    return fresh - 1 if is_last else fresh


def _read_passed(
    schedule: Schedule,
    next_at: float,
    now: float,
    later_start: float | None,
    bounds: ReadBounds | None = None,
) -> tuple[int, list[float]]:
    """Return how many instants from `next_at` to `now` there are, and the newest of them in order."""
    bounds = bounds or ReadBounds(MAX_COUNTED, _MAX_NEWEST)
    if later_start is None:
        return _read_regular(schedule, next_at, now, bounds)
    following = _next_after(schedule, next_at, later_start)
    if following is None or following > now:
        return 1, [next_at]
    count, newest = _read_regular(schedule, following, now, bounds)
    return count + 1, [next_at, *newest][-bounds.newest :]


def _read_regular(
    schedule: Schedule, next_at: float, now: float, bounds: ReadBounds
) -> tuple[int, list[float]]:
    """Return the same for instants of which each follows the one before at once."""
    newest: deque[float] = deque(maxlen=bounds.newest)
    count = 0
    for instant in _instants(schedule, next_at, now):
        newest.append(instant)
        count += 1
        if count == bounds.counted:
            break
    else:
        return count, list(newest)
    if schedule.every_seconds is not None:
        count += int((now - newest[-1]) // schedule.every_seconds)
    # The span before `now` grows until it has enough instants.
    span = MISSED_SECONDS
    while now - span > next_at:
        following = schedule.next_after(now - span - _JUST_BEFORE)
        newest = deque(_instants(schedule, following, now), bounds.newest)
        if len(newest) == bounds.newest:
            return count, list(newest)
        span *= 2
    return count, list(deque(_instants(schedule, next_at, now), bounds.newest))


def _instants(schedule: Schedule, first: float | None, end: float) -> Iterator[float]:
    """Yield `first`, and the instants of a schedule after it, up to `end`."""
    instant = first
    while instant is not None and instant <= end:
        yield instant
        instant = schedule.next_after(instant)
