"""Views of triggers and of their firings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any, Literal

from noetl.api.service.views import Timestamp, View
from noetl.executor.model.events import timestamp
from noetl.executor.model.triggers import Firing, FiringCause, FiringOutcome, LiveTrigger, extra_cause
from noetl.planner.plan import Trigger, TriggerSource
from noetl.planner.polled_sources import BucketObjects, BusEvents, Folder, Queue
from noetl.planner.schedules.schedule import Schedule
from noetl.planner.trigger_sources import EndedStatus, RunEnd, Webhook, WebhookScheme

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


class TriggerEntry(View, schema_name="Trigger"):
    """Trigger of the live version of a playbook.

    `summary` says on one line what it fires at. `schedule` is that of a schedule, in the words of the
    playbook. `next_at` is the instant at which it fires next, and `due_at` is later by its jitter. It is null
    if the trigger is paused, does not fire any more, or does not fire at times. `last_at`, `last_outcome` and
    `last_run` describe its latest firing. `last_by` is `hand` or `backfill` if one of these has fired it.
    """

    playbook: str
    name: str
    type: str
    version: str
    paused: bool
    summary: str
    schedule: str | None
    next_at: Timestamp | None
    due_at: Timestamp | None
    last_at: Timestamp | None
    last_outcome: FiringOutcome | None
    last_run: str | None
    last_by: FiringCause | None
    changed_at: Timestamp

    @classmethod
    def from_trigger(cls, trigger: LiveTrigger, source: TriggerSource, last: Firing | None) -> TriggerEntry:
        return cls(**_members_of(trigger, source, last))


class TriggerPage(View, schema_name="TriggerPage"):
    items: Sequence[TriggerEntry]
    next_cursor: str | None


class ScheduledFiring(View, schema_name="ScheduledFiring"):
    """Firing that is to come. `local` is the same instant in the zone of the schedule."""

    scheduled_at: Timestamp
    local: Timestamp
    due_at: Timestamp

    @classmethod
    def from_instant(cls, instant: float, zone: tzinfo, delay: float) -> ScheduledFiring:
        return cls(
            scheduled_at=timestamp(instant),
            local=datetime.fromtimestamp(instant, zone).isoformat(),
            due_at=timestamp(instant + delay),
        )


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


class WebhookEntry(View, schema_name="Webhook"):
    """Webhook of a trigger. `address` is the path below the address of the service.

    `secrets` are the names of its secrets. `header` is that of the signature, where the playbook names one.
    """

    path: str
    address: str
    method: Literal["POST", "PUT"]
    scheme: WebhookScheme
    secrets: Sequence[str]
    header: str | None
    max_bytes: int
    answer: Literal["accepted", "result"]
    wait_seconds: float
    remember_seconds: float

    @classmethod
    def from_webhook(cls, webhook: Webhook, tenant: str) -> WebhookEntry:
        return cls(
            path=webhook.path,
            address=f"/hooks/{tenant}/{webhook.path}",
            method=webhook.method,
            scheme=webhook.auth.scheme,
            secrets=webhook.auth.secrets,
            header=webhook.auth.header or None,
            max_bytes=webhook.max_bytes,
            answer=webhook.answer,
            wait_seconds=webhook.wait_seconds,
            remember_seconds=webhook.remember_seconds,
        )


class RunEndEntry(View, schema_name="RunEnd"):
    """Ends of runs that a trigger fires at: of which playbook, and with which statuses."""

    awaits: str
    statuses: Sequence[EndedStatus]

    @classmethod
    def from_run_end(cls, source: RunEnd) -> RunEndEntry:
        return cls(awaits=source.playbook, statuses=source.statuses)


class FolderEntry(View, schema_name="Folder"):
    """Folder whose files a trigger fires at, below the folder of files of the service."""

    folder: str
    glob: str
    settle_seconds: float

    @classmethod
    def from_folder(cls, source: Folder) -> FolderEntry:
        return cls(folder=source.folder, glob=source.glob, settle_seconds=source.settle_seconds)


class QueueEntry(View, schema_name="Queue"):
    """Queue whose messages a trigger fires at: the URL of a queue of SQS, or a table.

    `max_receives` is how often a message of the table is refused before it is dead.
    """

    sqs: str | None
    table: str | None
    max_receives: int | None

    @classmethod
    def from_queue(cls, source: Queue) -> QueueEntry:
        receives = None if source.table is None else source.max_receives
        return cls(sqs=source.url, table=source.table, max_receives=receives)


class BucketEntry(View, schema_name="Bucket"):
    """Bucket of S3 at whose new objects a trigger fires: those whose keys begin with `prefix`."""

    bucket: str
    prefix: str

    @classmethod
    def from_bucket(cls, source: BucketObjects) -> BucketEntry:
        return cls(bucket=source.bucket, prefix=source.prefix)


class BusEventsEntry(View, schema_name="BusEvents"):
    """Events of Amazon EventBridge that a trigger fires at. Without `detail_types`, all types count."""

    source: str
    detail_types: Sequence[str]

    @classmethod
    def from_events(cls, source: BusEvents) -> BusEventsEntry:
        return cls(source=source.source, detail_types=source.detail_types)


Definition = (
    ScheduleEntry | WebhookEntry | RunEndEntry | FolderEntry | QueueEntry | BucketEntry | BusEventsEntry
)
"""What a trigger fires at, by its type."""


class TriggerDetails(TriggerEntry, schema_name="TriggerDetails"):
    """Trigger with its declaration, and its next firings.

    The first members are those of `Trigger`. `definition` depends on its type. `input` has the inputs of its
    runs with their templates. `condition` is the expression under `if`, and `key` that under `key`. `inputs`
    are the declared inputs of the playbook. `line` is that of the declaration. `firings` are the next firings
    of a schedule, also of one that is paused.
    """

    definition: (
        ScheduleEntry | WebhookEntry | RunEndEntry | FolderEntry | QueueEntry | BucketEntry | BusEventsEntry
    )
    input: Mapping[str, Any]
    condition: str | bool | None
    key: str | None
    inputs: Mapping[str, Any]
    line: int
    firings: Sequence[ScheduledFiring]


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


def describe_trigger(
    trigger: LiveTrigger, declared: Trigger, last: Firing | None, **further: Any
) -> TriggerDetails:
    """Return the details of a trigger. `further` are the members that do not follow from its declaration."""
    return TriggerDetails(
        **_members_of(trigger, declared.source, last),
        definition=_definition_of(declared.source, trigger.tenant),
        input=declared.input,
        condition=declared.condition,
        key=declared.key,
        line=declared.line,
        **further,
    )


def _members_of(trigger: LiveTrigger, source: TriggerSource, last: Firing | None) -> dict[str, Any]:
    """Return the members of a trigger. `last` is its latest firing, which a schedule has itself."""
    is_schedule = isinstance(source, Schedule)
    summary = describe_source(source)
    return {
        "playbook": trigger.playbook,
        "name": trigger.name,
        "type": trigger.type,
        "version": trigger.version,
        "paused": trigger.is_paused,
        "summary": summary,
        "schedule": summary if is_schedule else None,
        "next_at": timestamp(trigger.next_at),
        "due_at": timestamp(trigger.due_at),
        "last_at": timestamp(trigger.last_at if last is None else last.fired_at),
        "last_outcome": trigger.last_outcome if last is None else last.outcome,
        "last_run": trigger.last_run if last is None else last.run_id,
        "last_by": None if last is None else extra_cause(trigger, last),
        "changed_at": timestamp(trigger.changed_at),
    }


def _definition_of(source: TriggerSource, tenant: str) -> Definition:
    match source:
        case Webhook():
            return WebhookEntry.from_webhook(source, tenant)
        case RunEnd():
            return RunEndEntry.from_run_end(source)
        case Folder():
            return FolderEntry.from_folder(source)
        case Queue():
            return QueueEntry.from_queue(source)
        case BucketObjects():
            return BucketEntry.from_bucket(source)
        case BusEvents():
            return BusEventsEntry.from_events(source)
    return ScheduleEntry.from_schedule(source)


def describe_source(source: TriggerSource) -> str:
    """Return on one line what a trigger fires at.

    >>> from noetl.planner.trigger_sources import WebhookAuth
    >>> describe_source(Webhook("shop/paid", WebhookAuth("stripe", ("SHOP",))))
    'POST shop/paid, stripe'
    >>> describe_source(RunEnd("import", ("failed", "timed_out")))
    'after import: failed, timed_out'
    """
    match source:
        case Webhook():
            return f"{source.method} {source.path}, {source.auth.scheme}"
        case RunEnd():
            return f"after {source.playbook}: {', '.join(source.statuses)}"
        case Folder():
            return f"folder {source.folder}, {source.glob}"
        case Queue():
            return f"queue {source.name}"
        case BucketObjects():
            return f"bucket {source.bucket}, {source.prefix}*"
        case BusEvents():
            return f"events {source.source}, {', '.join(source.detail_types) or 'every type'}"
    return describe_schedule(source)


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
