"""Views of the calendar of schedules."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.api.service.trigger_views import ScheduledFiring
from noetl.api.service.views import Timestamp, View
from noetl.executor.model.events import timestamp
from noetl.executor.model.run import RunStatus
from noetl.executor.model.triggers import Firing, FiringOutcome


class PastFiring(View, schema_name="PastFiring"):
    """Firing that was performed, or several that were missed together: `count`, of which this is the newest.

    `status` is that of the run. It is null if there is no run, or if the run was deleted or not read.
    """

    fired_at: Timestamp
    scheduled_at: Timestamp | None
    outcome: FiringOutcome
    count: int
    workflow_id: str | None
    status: RunStatus | None
    reason: str | None

    @classmethod
    def from_firing(cls, firing: Firing, status: RunStatus | None) -> PastFiring:
        return cls(
            fired_at=timestamp(firing.fired_at),
            scheduled_at=timestamp(firing.scheduled_at),
            outcome=firing.outcome,
            count=firing.count,
            workflow_id=firing.run_id,
            status=status,
            reason=firing.reason,
        )


class CalendarTrigger(View, schema_name="CalendarTrigger"):
    """Schedule with its firings of a time.

    `firings` were performed, the newest first, and `planned` are to come. If `has_earlier` is true, earlier
    firings of the time are left out. If `has_later` is true, later ones to come are left out.
    """

    playbook: str
    name: str
    paused: bool
    schedule: str
    timezone: str
    firings: Sequence[PastFiring]
    has_earlier: bool
    planned: Sequence[ScheduledFiring]
    has_later: bool


class CalendarPage(View, schema_name="CalendarPage"):
    """Schedules with their firings from `since` on and before `until`."""

    since: Timestamp
    until: Timestamp
    items: Sequence[CalendarTrigger]
    next_cursor: str | None
