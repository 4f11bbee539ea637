"""Backfills as rows and lines of text. The arguments are JSON objects of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.planner.diagnostics.terminal_text import to_printable

_LIST_HEADER = ("ID", "TRIGGER", "STATE", "DONE", "FAILED", "STARTED")
_TIME_LENGTH = 19


def format_backfills(backfills: Sequence[Mapping[str, Any]], *, with_header: bool) -> list[tuple[str, ...]]:
    """Return the rows of backfills, which are items of `GET /backfills`. The header is for persons."""
    rows: list[tuple[str, ...]] = [
        (
            backfill["id"],
            f"{backfill['playbook']}/{backfill['trigger']}",
            backfill["state"],
            _format_progress(backfill),
            str(backfill["counts"]["failed"] + backfill["counts"]["rejected"]),
            _cut(backfill["created_at"]),
        )
        for backfill in backfills
    ]
    return [_LIST_HEADER, *rows] if with_header and rows else rows


def format_backfill(backfill: Mapping[str, Any]) -> str:
    """Return the lines about a backfill: its partitions, its progress, its open and its failed runs."""
    counts = {name: number for name, number in backfill["counts"].items() if name != "passed" and number}
    trigger = f"{backfill['playbook']}/{backfill['trigger']}"
    lines = [to_printable(f"{backfill['id']}  {trigger}  version {backfill['version']}")]
    for label, value in (
        ("state", backfill["state"]),
        ("reason", backfill["reason"]),
        ("range", _format_range(backfill)),
        ("limit", str(backfill["limit"])),
        ("redo", backfill["redo"]),
        ("retry", backfill["retry"]),
        ("done", _format_progress(backfill)),
        ("counts", ", ".join(f"{number:,} {name}" for name, number in counts.items()) or None),
        ("started", _cut(backfill["created_at"])),
        ("ended", backfill["finished_at"] and _cut(backfill["finished_at"])),
    ):
        if value is not None:
            lines.append(f"{label:<9}{to_printable(value)}")
    for label in ("open", "failures"):
        for index, run in enumerate(backfill[label]):
            shown = "" if index else {"open": "open", "failures": "failed"}[label]
            lines.append(f"{shown:<9}{run['workflow_id']}  {to_printable(run['partition'])}")
    return "".join(f"{line}\n" for line in lines)


def _format_progress(backfill: Mapping[str, Any]) -> str:
    """Return how many partitions have been done in this pass, of how many."""
    done = backfill["counts"]["passed"] - len(backfill["open"])
    return f"{done:,} of {backfill['partitions']:,}"


def _format_range(backfill: Mapping[str, Any]) -> str:
    if backfill["start_at"] is None:
        return "a list"
    seconds = backfill["every_seconds"]
    distance = "the times of the trigger" if seconds is None else f"every {seconds:,.10g} s"
    return f"{distance}, from {_cut(backfill['start_at'])} to {_cut(backfill['end_at'])}"


def _cut(time: str) -> str:
    """Return a time in UTC without parts of a second.

    >>> _cut("2026-01-31T09:30:00.000000Z")
    '2026-01-31T09:30:00Z'
    """
    return f"{time[:_TIME_LENGTH]}Z"
