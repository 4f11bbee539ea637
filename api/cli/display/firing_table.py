"""The next firings of triggers: what `noetl plan --triggers` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from noetl.planner.plan import Trigger
from noetl.planner.polled_sources import BucketObjects, BusEvents, Folder, Queue
from noetl.planner.schedules.firings import PlannedFiring, list_firings
from noetl.planner.schedules.schedule import Schedule
from noetl.planner.trigger_sources import RunEnd, Webhook

FiringList = tuple[Trigger, list[PlannedFiring]]
"""A trigger with its next firings. One that does not fire at times has none."""


def find_firings(triggers: Iterable[Trigger], start: float, number: int) -> list[FiringList]:
    """Return at most `number` firings of each trigger, from an instant on."""
    return [
        (
            trigger,
            list_firings(source, start, number) if isinstance(source := trigger.source, Schedule) else [],
        )
        for trigger in triggers
    ]


def firings_to_json(lists: Iterable[FiringList]) -> list[dict[str, Any]]:
    """Return an object for each trigger, with its firings."""
    return [
        {"trigger": trigger.name, "type": trigger.type, "firings": [firing.to_json() for firing in firings]}
        for trigger, firings in lists
    ]


def format_firings(lists: Sequence[FiringList]) -> str:
    """Return a table of firings for each trigger."""
    if not lists:
        return "the playbook has no triggers\n"
    return "\n".join(_format_list(trigger, firings) for trigger, firings in lists)


def _format_list(trigger: Trigger, firings: Sequence[PlannedFiring]) -> str:
    source = trigger.source
    if isinstance(source, Webhook):
        return f"{trigger.name}: {source.method} /hooks/TENANT/{source.path}, {source.auth.scheme}\n"
    if isinstance(source, RunEnd):
        return f"{trigger.name}: after runs of {source.playbook}: {', '.join(source.statuses)}\n"
    if isinstance(source, Folder):
        return f"{trigger.name}: files {source.glob} of folder {source.folder}\n"
    if isinstance(source, Queue):
        return f"{trigger.name}: messages of {source.name}\n"
    if isinstance(source, BucketObjects):
        return f"{trigger.name}: objects {source.prefix}* of bucket {source.bucket}\n"
    if isinstance(source, BusEvents):
        return (
            f"{trigger.name}: events of {source.source}: {', '.join(source.detail_types) or 'every type'}\n"
        )
    title = f"{trigger.name}: {describe_schedule(source)}\n"
    if not firings:
        return f"{title}  no more firings\n"
    rows = [("local time", "UTC", "")] + [
        (f"{firing.local:%a} {firing.local.isoformat(' ')}", firing.utc, firing.note or "")
        for firing in firings
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return title + "".join(f"  {line}\n" for line in lines)


def describe_schedule(schedule: Schedule) -> str:
    """Return a schedule in words.

    >>> describe_schedule(Schedule("30 2 * * *", timezone="Europe/Berlin", jitter_seconds=60.0))
    '30 2 * * * in Europe/Berlin, delayed by up to 1m'
    """
    text = f"{schedule.cron} in {schedule.timezone}"
    if schedule.every_seconds is not None:
        text = f"every {_show_seconds(schedule.every_seconds)}"
    jitter = schedule.jitter_seconds
    return f"{text}, delayed by up to {_show_seconds(jitter)}" if jitter else text


def _show_seconds(seconds: float) -> str:
    """Return a duration as playbooks write it.

    >>> _show_seconds(90.0), _show_seconds(7200.0), _show_seconds(1.5)
    ('90s', '2h', '1.5s')
    """
    units = ((86_400, "d"), (3_600, "h"), (60, "m"))
    size, unit = next((unit for unit in units if seconds >= unit[0] and seconds % unit[0] == 0), (1, "s"))
    return f"{seconds / size:g}{unit}"
