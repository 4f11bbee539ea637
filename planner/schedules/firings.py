"""Lists of the next firings of a schedule, as a person checks them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from noetl.planner.frozen import frozen
from noetl.planner.schedules.schedule import Schedule

_STEP = 1e-6
"""The distance of two instants, at least, in seconds."""

_DAY_SECONDS = 86_400.0


@frozen
class PlannedFiring:
    """A firing to come: its time in the zone of its trigger, and what the zone does to it, if anything."""

    local: datetime
    note: str | None = None

    @property
    def utc(self) -> str:
        """The instant in UTC, as in `trigger.scheduled_at`."""
        return self.local.astimezone(UTC).isoformat().replace("+00:00", "Z")

    def to_json(self) -> dict[str, Any]:
        return {"scheduled_at": self.utc, "local": self.local.isoformat(), "note": self.note}


def list_firings(schedule: Schedule, start: float, number: int) -> list[PlannedFiring]:
    """Return at most `number` firings from an instant on, in ascending order.

    >>> berlin = Schedule("30 2 * * *", timezone="Europe/Berlin")
    >>> [firing.utc for firing in list_firings(berlin, 1743202800.0, 2)]
    ['2025-03-29T01:30:00Z', '2025-03-30T01:00:00Z']
    """
    from noetl.planner.schedules.zone_names import find_zone

    zone = find_zone(schedule.timezone)
    firings: list[PlannedFiring] = []
    instant = schedule.next_after(start - _STEP)
    # A change that was long before the first firing does not move it.
    before = datetime.fromtimestamp(max(start, (instant or start) - _DAY_SECONDS), zone)
    while instant is not None and len(firings) < number:
        local = datetime.fromtimestamp(instant, zone)
        firings.append(PlannedFiring(local, _describe_change(schedule, before, local)))
        before, instant = local, schedule.next_after(instant)
    return firings


def _describe_change(schedule: Schedule, before: datetime, local: datetime) -> str | None:
    """Return what the zone does to a firing after another one, or None."""
    if before.utcoffset() == local.utcoffset():
        return None
    change = f"the offset changes from {_show_offset(before)} to {_show_offset(local)}"
    missing = find_moved_time(schedule, local)
    return change if missing is None else f"there is no {missing:%H:%M}: {change}"


def _show_offset(local: datetime) -> str:
    """Return the offset of a time, such as `+02:00`."""
    return local.replace(microsecond=0).isoformat()[19:]


def find_moved_time(schedule: Schedule, local: datetime) -> datetime | None:
    """Return the first wall-clock time that does not exist and fires at `local` instead, or None.

    The zone of `local` is that of the schedule.
    """
    from zoneinfo import ZoneInfo

    from noetl.planner.schedules.cron import Cron
    from noetl.planner.schedules.zone import find_gaps

    if schedule.cron is None or (cron := Cron(schedule.cron)).is_hourly:
        return None
    instant = local.astimezone(UTC)
    gaps = find_gaps(ZoneInfo(schedule.timezone), instant - timedelta(hours=12), 1)
    for gap in gaps:
        missing = next(cron.matches_from(gap.first), gap.end)
        if gap.instant == instant and missing < gap.end:
            return missing
    return None
