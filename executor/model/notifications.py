"""Notifications: messages to channels about ends of runs and about late runs.

Problem: people want to know that a run has failed, also if the process that ended it dies at once.

Algorithm: the commit that ends a run writes one entry of the outbox for each channel that receives it (see
`noetl.executor.model.outbox`). The id of an entry follows from the run, the number of its ending and the
channel, so the same end writes the same entries. A late run writes its entries when its time has passed.

Cost: one entry for each channel. Entries keep no data of the run but the text of its first error.

Limits: channels that an operator has subscribed receive nothing about runs that other runs have started. The
run that has started them ends with a failure, too, or it has handled it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from noetl.executor.model.outbox import OutboxEntry, OutboxKind, Subscribers, notification_id
from noetl.executor.model.run import SERVICE_QUEUE, ErrorRecord, Run, RunEnding, RunStatus
from noetl.planner.frozen import frozen
from noetl.planner.notify import Notify, NotifyEvent
from noetl.planner.plan import Header

MAX_MESSAGE_LENGTH = 500
"""How many characters of the message of an error a notification has."""

MAX_EARLIER_ENDINGS = 5
"""How many earlier endings of a run a notification waits for."""

EVENTS: tuple[NotifyEvent, ...] = ("failed", "succeeded", "cancelled", "late")
"""The events of runs that a channel may receive."""

_EVENT_OF: Mapping[RunStatus, NotifyEvent] = MappingProxyType(
    {
        RunStatus.SUCCEEDED: "succeeded",
        RunStatus.COMPLETED_WITH_ERRORS: "failed",
        RunStatus.FAILED: "failed",
        RunStatus.TIMED_OUT: "failed",
        RunStatus.CANCELLED: "cancelled",
    }
)


def notification_entries(
    run: Run, ending: RunEnding, notify: Notify | None, subscribers: Subscribers, now: float
) -> list[OutboxEntry]:
    """Return the entries for the end of a run: one for each receiving channel, in the order of names.

    No channel receives anything about a skipped run.
    """
    event = _EVENT_OF.get(ending.status)
    if event is None:
        return []
    record = _run_record(run, event, ending.status) | _error_fields(ending.errors)
    earlier = _earlier_endings(run)
    if notify is not None and notify.late_seconds is not None:
        earlier.append("late")
    cause = _Cause(f"end {run.resumes}", record, earlier)
    channels = _channels_of(run, event, notify, subscribers)
    return [_notification(run, channel, cause, now) for channel in channels]


def late_entries(run: Run, notify: Notify | None, subscribers: Subscribers, now: float) -> list[OutboxEntry]:
    """Return the entries for a run that has not ended in time: one for each receiving channel."""
    cause = _Cause("late", _run_record(run, "late", run.status), _earlier_endings(run))
    channels = _channels_of(run, "late", notify, subscribers)
    return [_notification(run, channel, cause, now) for channel in channels]


def late_time(header: Header, run: Run) -> float | None:
    """Return when a run is late, or None if no channel receives that.

    The time counts from the instant of the schedule that started the run, else from its creation. A run of a
    backfill, and one that continues another one, count from their own creation.
    """
    notify = header.notify
    if notify is None or notify.late_seconds is None or run.queue != SERVICE_QUEUE:
        return None
    cause = run.trigger or {}
    instant = cause.get("scheduled_at")
    is_on_schedule = run.resumed_from is None and cause.get("backfill") is None
    begin = (
        datetime.fromisoformat(instant).timestamp()
        if is_on_schedule and isinstance(instant, str)
        else run.created_at
    )
    return begin + notify.late_seconds


def _channels_of(run: Run, event: NotifyEvent, notify: Notify | None, subscribers: Subscribers) -> list[str]:
    """Return the names of the channels that receive an event of a run."""
    requested: Iterable[str] = () if notify is None else notify.channels.get(event, ())
    is_child = run.parent is not None
    subscribed = [name for name, events in subscribers.channels.items() if event in events and not is_child]
    return sorted({*requested, *subscribed})


def _run_record(run: Run, event: NotifyEvent, status: RunStatus) -> dict[str, Any]:
    return {
        "event": event,
        "run_id": run.id,
        "playbook": run.playbook,
        "version": run.version,
        "status": status.value,
        "ending": run.resumes,
        "attempts": 0,
    }


def _error_fields(errors: Sequence[ErrorRecord]) -> dict[str, Any]:
    """Return the first error of a run as a notification shows it."""
    if not errors:
        return {}
    first = errors[0]
    text = first["message"]
    message = text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[: MAX_MESSAGE_LENGTH - 1]}…"
    return {"error": {"type": first["type"], "step": first["step"], "message": message}}


@frozen
class _Cause:
    """The cause of a notification: its name within the run, its data, and the names of earlier causes."""

    name: str
    record: Mapping[str, Any]
    earlier: Sequence[str]


def _earlier_endings(run: Run) -> list[str]:
    return [f"end {number}" for number in range(max(run.resumes - MAX_EARLIER_ENDINGS, 0), run.resumes)]


def _notification(run: Run, channel: str, cause: _Cause, now: float) -> OutboxEntry:
    """Return the entry of a notification. It waits for the earlier ones of its run and channel."""
    waits_for = [notification_id(run.id, name, run.tenant, channel) for name in cause.earlier]
    return OutboxEntry(
        id=notification_id(run.id, cause.name, run.tenant, channel),
        tenant=run.tenant,
        kind=OutboxKind.NOTIFICATION,
        created_at=now,
        due_at=now,
        record={**cause.record, "channel": channel, "waits_for": waits_for},
    )
