"""The firing of schedules.

Problem: several processes see the same due trigger, and each may die at any point.

Algorithm: a firing also writes the next instant of the trigger. It requires that the trigger is as it was
read, so one process performs the firing. After a crash before the write, the trigger is still due.

Cost: as that of each firing.

Limits: a trigger that cannot be performed now is tried again after POSTPONE_SECONDS. Its tenant may have too
many branches, or its plan cannot be read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from noetl.executor.engine.firing import Firer, read_firer
from noetl.executor.engine.trial import try_trigger
from noetl.executor.errors import TriggerChangedError
from noetl.executor.model.due_instants import find_due
from noetl.executor.model.triggers import (
    Advance,
    FiringOutcome,
    LiveTrigger,
    advance_schedule,
    delay_of,
    fire_schedule,
    instant_key,
    postpone,
    record_firing,
)
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace
from noetl.planner.schedules.schedule import Schedule

POSTPONE_SECONDS = 10.0
"""After which time a firing that cannot be performed now is tried again."""

_JUST_BEFORE = 1e-6
_FIRST_SPAN = 60.0
_LAST_SPAN = 10 * 366 * 86_400.0


def perform_due(store: Store, trigger: LiveTrigger, now: float) -> Advance | None:
    """Perform the oldest due firing of a schedule, and record those that were missed before it.

    Return what was written, or None if nothing is due, or if another process has performed it.

    Raises:
        StoreAwayError: the store cannot be reached.
    """
    with try_trigger(trigger):
        firer = read_firer(store, trigger, now)
        try:
            return None if firer is None else _perform(firer)
        except TriggerChangedError:
            return None
    postponed = postpone(trigger, now + POSTPONE_SECONDS)
    return postponed if store.triggers.advance(postponed) else None


def view_schedule(trigger: LiveTrigger, schedule: Schedule, instant: float) -> dict[str, Any]:
    """Return what templates read under `trigger` at an instant. `trigger` is as it was before that.

    A person may fire an instant that the schedule has performed. The last firing is not before it then, but
    an instant of the schedule is.
    """
    from zoneinfo import ZoneInfo

    previous, following = trigger.last_at, schedule.next_after(instant)
    if previous is not None and previous >= instant:
        previous = find_previous(schedule, instant)
    local = datetime.fromtimestamp(instant, UTC).astimezone(ZoneInfo(schedule.timezone))
    return {
        "scheduled_at": instant_key(instant),
        "previous_at": None if previous is None else instant_key(previous),
        "next_at": None if following is None else instant_key(following),
        "local": local.isoformat(),
        "partition": None,
    }


def find_previous(schedule: Schedule, instant: float) -> float | None:
    """Return the last instant of a schedule before one of its instants, or None.

    >>> find_previous(Schedule(every_seconds=3600), 7200.0)
    3600.0
    >>> find_previous(Schedule(cron="0 9 * * MON"), 1704704400.0)
    1704099600.0
    """
    span = _FIRST_SPAN
    while not schedule.count_between(instant - span, instant):
        span *= 4
        if span > _LAST_SPAN:
            return None
    # The last instant is at `low` or later, and before `high`.
    low, high = instant - span, instant
    while schedule.count_between(low, high) > 1:
        middle = (low + high) / 2
        low, high = (middle, high) if schedule.count_between(middle, high) else (low, middle)
    return schedule.next_after(low - _JUST_BEFORE)


def _perform(firer: Firer) -> Advance | None:
    """Perform the oldest due firing. Return what was written, or None if nothing was.

    Raises:
        RejectedError: `quota_exceeded`.
        TriggerChangedError: another process has changed the trigger.
    """
    trigger, schedule = firer.trigger, firer.declared.schedule
    if trigger.next_at is None:
        return None
    catch_up = None if trigger.catch_up is None else replace(schedule.catch_up, mode=trigger.catch_up)
    until = firer.now - delay_of(trigger, schedule)
    due = find_due(schedule, trigger.next_at, until, catch_up, trigger.later_start)
    advance = advance_schedule(trigger, schedule, due, firer.now)
    if due.performed is None:
        return firer.write(advance) if due.missed else None
    firing = fire_schedule(trigger, due.performed, firer.now)
    running = _open_run(firer) if schedule.overlap == "skip" else None
    # A person may have started the run of this instant before.
    if running not in (None, firing.id):
        reason = f"run {running} of an earlier firing has not ended"
        return firer.write(record_firing(advance, firing, FiringOutcome.SKIPPED, reason))
    return firer.fire(firing, view_schedule(advance.written, schedule, due.performed), advance)


def _open_run(firer: Firer) -> str | None:
    """Return the id of the run that the last firing has started, if it has not ended."""
    run_id = firer.trigger.last_run
    if run_id is None:
        return None
    position = firer.store.runs.positions([run_id]).get(run_id)
    return None if position is None or position.status.is_final else run_id
