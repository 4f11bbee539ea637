"""The next firings of the schedules of a draft, which an editor shows next to them."""

from __future__ import annotations

from dataclasses import dataclass

from noetl.planner.lower import lower_schedule
from noetl.planner.program.program import Program
from noetl.planner.schedules.cron import CronError
from noetl.planner.schedules.firings import PlannedFiring, list_firings
from noetl.planner.syntax.models import ScheduleDeclaration

SHOWN_FIRINGS = 3
MAX_SHOWN_SCHEDULES = 50


@dataclass(frozen=True, slots=True)
class DraftSchedule:
    """A schedule of a draft: the line of its `cron` or `every`, its zone, and its next firings."""

    trigger: str
    line: int
    timezone: str
    firings: tuple[PlannedFiring, ...]


def find_next_firings(program: Program, now: float) -> tuple[DraftSchedule, ...]:
    """Return the valid schedules of a draft, at most MAX_SHOWN_SCHEDULES, with their firings after `now`."""
    declared = [trigger for trigger in program.playbook.triggers if isinstance(trigger, ScheduleDeclaration)]
    found = [_describe(program, trigger, now) for trigger in declared[:MAX_SHOWN_SCHEDULES]]
    return tuple(schedule for schedule in found if schedule is not None)


def _describe(program: Program, trigger: ScheduleDeclaration, now: float) -> DraftSchedule | None:
    """Return a schedule with its next firings, or None if it is invalid."""
    if (trigger.cron is None) == (trigger.interval is None):
        return None
    try:
        schedule = lower_schedule(trigger)
        firings = tuple(list_firings(schedule, now, SHOWN_FIRINGS))
    except (CronError, KeyError):
        return None
    key = "every" if trigger.cron is None else "cron"
    line = program.document.span((*trigger.path, key)).line
    return DraftSchedule(trigger.name, line, trigger.timezone, firings)
