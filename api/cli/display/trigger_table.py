"""Triggers and their firings as rows and lines of text. The arguments are JSON objects of responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from noetl.api.cli.display.run_board import format_countdown, parse_time
from noetl.executor.model.json_values import write_json
from noetl.planner.diagnostics.terminal_text import to_printable

_LIST_HEADER = ("TRIGGER", "FIRES AT", "NEXT", "LAST", "OUTCOME", "RUN")
_HISTORY_HEADER = ("SCHEDULED", "FIRED", "OUTCOME", "RUN", "REASON")
_TIME_LENGTH = 19


def format_triggers(
    triggers: Sequence[Mapping[str, Any]], now: float, *, with_header: bool
) -> list[tuple[str, ...]]:
    """Return the rows of triggers, which are items of `GET /triggers`. The header is for persons."""
    rows: list[tuple[str, ...]] = [
        (
            f"{trigger['playbook']}/{trigger['name']}",
            to_printable(trigger["summary"]),
            _format_next(trigger, now),
            _cut(trigger["last_at"]),
            _format_outcome(trigger),
            trigger["last_run"] or "-",
        )
        for trigger in triggers
    ]
    return [_LIST_HEADER, *rows] if with_header and rows else rows


def format_firings(firings: Sequence[Mapping[str, Any]], *, with_header: bool) -> list[tuple[str, ...]]:
    """Return the rows of firings, which are items of the history of a trigger."""
    rows: list[tuple[str, ...]] = [
        (
            _cut(firing["scheduled_at"]),
            _cut(firing["fired_at"]),
            firing["outcome"] if firing["count"] == 1 else f"{firing['outcome']} {firing['count']:,}",
            firing["workflow_id"] or "-",
            firing["reason"] or "",
        )
        for firing in firings
    ]
    return [_HISTORY_HEADER, *rows] if with_header and rows else rows


def format_details(trigger: Mapping[str, Any], now: float) -> str:
    """Return the lines about a trigger: its declaration, its latest firing, and its next firings."""
    last = trigger["last_at"]
    lines = [f"{trigger['playbook']}/{trigger['name']}  version {trigger['version']}"]
    for label, value in (
        ("schedule", trigger["schedule"]),
        *_DEFINITIONS[trigger["type"]](trigger["definition"]),
        ("key", trigger["key"]),
        ("if", None if trigger["condition"] is None else str(trigger["condition"])),
        ("input", write_json(trigger["input"]) if trigger["input"] else None),
        ("state", "paused" if trigger["paused"] else None),
        ("last", last and f"{_cut(last)}  {_format_outcome(trigger)}  {trigger['last_run'] or ''}".rstrip()),
    ):
        if value is not None:
            lines.append(f"{label:<9}{to_printable(value)}")
    for index, firing in enumerate(trigger["firings"]):
        label = "" if index else "next"
        lines.append(f"{label:<9}{_cut(firing['due_at'])}  {firing['local']}  {_remaining(firing, now)}")
    if trigger["schedule"] is not None and not trigger["firings"]:
        lines.append(f"{'next':<9}it does not fire any more")
    return "".join(f"{line}\n" for line in lines)


def _schedule_lines(definition: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield a label and a value for each part of a schedule. A part that is not there is None."""
    yield "start", definition["start_at"]
    yield "end", definition["end_at"]
    yield "jitter", f"{definition['jitter_seconds']:g} s" if definition["jitter_seconds"] else None
    yield "overlap", definition["overlap"]
    yield "catch up", definition["catch_up"]["mode"]


def _webhook_lines(definition: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "path", definition["path"]
    yield "method", definition["method"]
    yield "scheme", definition["scheme"]
    yield "secrets", ", ".join(definition["secrets"]) or None
    yield "header", definition["header"]
    yield "size", f"at most {definition['max_bytes']:,} bytes"
    answer = definition["answer"]
    yield "answer", f"{answer} within {definition['wait_seconds']:g} s" if answer == "result" else answer


def _run_end_lines(definition: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "after", definition["awaits"]
    yield "status", ", ".join(definition["statuses"])


def _folder_lines(definition: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "folder", definition["folder"]
    yield "files", definition["glob"]
    yield "settle", f"{definition['settle_seconds']:g} s"


def _queue_lines(definition: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "queue", definition["sqs"]
    yield "table", definition["table"]
    receives = definition["max_receives"]
    yield "receives", None if receives is None else f"at most {receives:,}"


def _bucket_lines(definition: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "bucket", definition["bucket"]
    yield "prefix", definition["prefix"] or None


def _event_lines(definition: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "source", definition["source"]
    yield "types", ", ".join(definition["detail_types"]) or None


_DEFINITIONS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[tuple[str, str | None]]]] = {
    "schedule": _schedule_lines,
    "webhook": _webhook_lines,
    "run": _run_end_lines,
    "folder": _folder_lines,
    "queue": _queue_lines,
    "s3": _bucket_lines,
    "event": _event_lines,
}
"""The parts of a definition, by the type of the trigger."""


_CAUSES: Mapping[str, str] = {"hand": " by hand", "backfill": " by a backfill"}
"""What has fired a trigger, after the outcome of its latest firing."""


def _format_outcome(trigger: Mapping[str, Any]) -> str:
    """Return the outcome of the latest firing of a trigger, and what has fired it instead of its source.

    >>> _format_outcome({"last_outcome": "started", "last_by": "hand"})
    'started by hand'
    >>> _format_outcome({"last_outcome": None, "last_by": None})
    '-'
    """
    outcome = trigger["last_outcome"]
    # An earlier version of a service does not say what has fired the trigger.
    return "-" if outcome is None else f"{outcome}{_CAUSES.get(trigger.get('last_by') or '', '')}"


def _format_next(trigger: Mapping[str, Any], now: float) -> str:
    if trigger["paused"]:
        return "paused"
    return "-" if trigger["due_at"] is None else f"{_cut(trigger['due_at'])}  {_remaining(trigger, now)}"


def _remaining(firing: Mapping[str, Any], now: float) -> str:
    """Return in what time a firing is due."""
    due_at = parse_time(firing["due_at"]) or now
    return "now" if due_at <= now else f"in {format_countdown(due_at - now)}"


def _cut(time: str | None) -> str:
    """Return a time in UTC without parts of a second.

    >>> _cut("2026-01-31T09:30:00.000000Z"), _cut(None)
    ('2026-01-31T09:30:00Z', '-')
    """
    return "-" if time is None else f"{time[:_TIME_LENGTH]}Z"
