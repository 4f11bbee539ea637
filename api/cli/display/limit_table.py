"""Limits, and what holds their units or waits, as rows of text. The arguments are JSON of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.limits import format_rate

_LIMIT_HEADER = ("LIMIT", "OF", "UNITS", "HELD", "WAITING", "KEY", "TENANTS")
_USE_HEADER = ("RUN", "VISIT", "UNITS", "SINCE", "FLOW", "PRIORITY", "STATE")


def format_limits(limits: Sequence[Mapping[str, Any]], *, with_header: bool) -> list[tuple[str, ...]]:
    """Return the rows of limits, which are items of `GET /limits`. The header is for persons."""
    rows: list[tuple[str, ...]] = [
        (
            limit["id"],
            limit["kind"] or "-",
            str(limit["units"]) if limit["per"] is None else format_rate(limit["units"], limit["per"]),
            str(limit["held"]),
            str(limit["waiting"]),
            to_printable(limit["key"] or ""),
            "all" if limit["shared"] else "",
        )
        for limit in limits
    ]
    return [_LIMIT_HEADER, *rows] if with_header and rows else rows


def format_queue(
    uses: Sequence[Mapping[str, Any]], *, is_rate: bool, with_header: bool
) -> list[tuple[str, ...]]:
    """Return the rows of what holds units or waits, which are items of `GET /limits/NAME/queue`.

    What uses a rate has a time instead of a priority.
    """
    rows: list[tuple[str, ...]] = [
        (
            use["workflow_id"] or "other tenant",
            use["visit"] or "-",
            str(use["units"]),
            (use["held_at"] or use["queued_at"])[:19] + "Z",
            to_printable(use["flow"] or "-"),
            "-" if is_rate else _format_priority(use["priority"]),
            _state_of(use),
        )
        for use in uses
    ]
    return [_USE_HEADER, *rows] if with_header and rows else rows


def _format_priority(priority: float | None) -> str:
    """Return a priority, or `first` for a finally step."""
    return "first" if priority is None else f"{priority:g}"


def _state_of(use: Mapping[str, Any]) -> str:
    if use["held_at"] is not None:
        return "holds"
    return "waits" if use["begins_at"] is None else f"begins {use['begins_at'][:19]}Z"
