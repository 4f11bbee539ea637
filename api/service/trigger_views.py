"""Views of triggers and of their firings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from noetl.api.service.views import Timestamp, View
from noetl.executor.model.events import timestamp
from noetl.executor.model.triggers import Firing, FiringOutcome, LiveTrigger
from noetl.planner.schedules.schedule import Schedule

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


class TriggerEntry(View, schema_name="Trigger"):
    """Trigger of the newest version of a playbook.

    `schedule` is its schedule in the words of the playbook. `next_at` is the instant at which it fires next,
    and `due_at` is later by its jitter. It is null if the trigger is paused or does not fire any more.
    `last_at`, `last_outcome` and `last_run` describe its latest firing.
    """

    playbook: str
    name: str
    type: str
    version: str
    paused: bool
    schedule: str
    next_at: Timestamp | None
    due_at: Timestamp | None
    last_at: Timestamp | None
    last_outcome: FiringOutcome | None
    last_run: str | None
    changed_at: Timestamp

    @classmethod
    def from_trigger(cls, trigger: LiveTrigger, schedule: Schedule) -> TriggerEntry:
        return cls(**_members_of(trigger, schedule))


class TriggerPage(View, schema_name="TriggerPage"):
    items: Sequence[TriggerEntry]
    next_cursor: str | None


class ScheduledFiring(View, schema_name="ScheduledFiring"):
    """Firing that is to come. `local` is the same instant in the zone of the schedule."""

    scheduled_at: Timestamp
    local: Timestamp
    due_at: Timestamp


class CatchUpEntry(View, schema_name="CatchUp"):
    """Use of missed firings: which start runs, how old they may be, and how many there may be."""

    mode: Literal["none", "last", "all"]
    within_seconds: float
    limit: int


class ScheduleEntry(View, schema_name="Schedule"):
    """Schedule of a trigger. One of `cron` and `every_seconds` is not null."""

    cron: str | None
    every_seconds: float | None
    timezone: str
    start_at: Timestamp | None
    end_at: Timestamp | None
    catch_up: CatchUpEntry
    jitter_seconds: float
    overlap: Literal["skip"] | None

    @classmethod
    def from_schedule(cls, schedule: Schedule) -> ScheduleEntry:
        catch_up = schedule.catch_up
        return cls(
            cron=schedule.cron,
            every_seconds=schedule.every_seconds,
            timezone=schedule.timezone,
            start_at=timestamp(schedule.start_at),
            end_at=timestamp(schedule.end_at),
            catch_up=CatchUpEntry(
                mode=catch_up.mode, within_seconds=catch_up.within_seconds, limit=catch_up.limit
            ),
            jitter_seconds=schedule.jitter_seconds,
            overlap=schedule.overlap,
        )


class TriggerDetails(View, schema_name="TriggerDetails"):
    """Trigger with its declaration, and its next firings.

    The first members are those of `Trigger`. `input` has the inputs of its runs with their templates, and
    `condition` is the expression under `if`. `inputs` are the declared inputs of the playbook. `line` is that
    of the declaration. `firings` are the next firings, also of a trigger that is paused.
    """

    playbook: str
    name: str
    type: str
    version: str
    paused: bool
    schedule: str
    next_at: Timestamp | None
    due_at: Timestamp | None
    last_at: Timestamp | None
    last_outcome: FiringOutcome | None
    last_run: str | None
    changed_at: Timestamp
    definition: ScheduleEntry
    input: Mapping[str, Any]
    condition: str | bool | None
    inputs: Mapping[str, Any]
    line: int
    firings: Sequence[ScheduledFiring]

    @classmethod
    def from_trigger(cls, trigger: LiveTrigger, schedule: Schedule, **declared: Any) -> TriggerDetails:
        definition = ScheduleEntry.from_schedule(schedule)
        return cls(**_members_of(trigger, schedule), definition=definition, **declared)


class FiringEntry(View, schema_name="Firing"):
    """Firing of a trigger, or several that were missed together: `count`, of which this is the newest.

    `workflow_id` is the run that was started, and `reason` says why there is none.
    """

    id: str
    key: str
    version: str
    outcome: FiringOutcome
    fired_at: Timestamp
    scheduled_at: Timestamp | None
    count: int
    workflow_id: str | None
    reason: str | None

    @classmethod
    def from_firing(cls, firing: Firing) -> FiringEntry:
        return cls(
            id=firing.id,
            key=firing.key,
            version=firing.version,
            outcome=firing.outcome,
            fired_at=timestamp(firing.fired_at),
            scheduled_at=timestamp(firing.scheduled_at),
            count=firing.count,
            workflow_id=firing.run_id,
            reason=firing.reason,
        )


class FiringPage(View, schema_name="FiringPage"):
    items: Sequence[FiringEntry]
    next_cursor: str | None


def _members_of(trigger: LiveTrigger, schedule: Schedule) -> dict[str, Any]:
    return {
        "playbook": trigger.playbook,
        "name": trigger.name,
        "type": trigger.type,
        "version": trigger.version,
        "paused": trigger.is_paused,
        "schedule": describe_schedule(schedule),
        "next_at": timestamp(trigger.next_at),
        "due_at": timestamp(trigger.due_at),
        "last_at": timestamp(trigger.last_at),
        "last_outcome": trigger.last_outcome,
        "last_run": trigger.last_run,
        "changed_at": timestamp(trigger.changed_at),
    }


def describe_schedule(schedule: Schedule) -> str:
    """Return a schedule as the playbook writes it, on one line.

    >>> describe_schedule(Schedule(cron="30 2 * * MON-FRI", timezone="Europe/Berlin"))
    'cron 30 2 * * MON-FRI, Europe/Berlin'
    >>> describe_schedule(Schedule(every_seconds=5400))
    'every 90m'
    """
    if schedule.every_seconds is None:
        return f"cron {schedule.cron}, {schedule.timezone}"
    seconds = schedule.every_seconds
    size, unit = next((pair for pair in _UNITS if seconds % pair[0] == 0), (1, "s"))
    return f"every {seconds / size:.10g}{unit}"
