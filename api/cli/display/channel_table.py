"""Channels and notifications as rows of text. The arguments are JSON objects of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.planner.diagnostics.terminal_text import to_printable

_CHANNEL_HEADER = ("CHANNEL", "TYPE", "ADDRESS", "EVENTS", "STATE")
_NOTIFICATION_HEADER = ("NOTIFICATION", "CHANNEL", "EVENT", "PLAYBOOK", "RUN", "STATE", "ATTEMPTS", "PROBLEM")


def format_channels(channels: Sequence[Mapping[str, Any]], *, with_header: bool) -> list[tuple[str, ...]]:
    """Return the rows of channels, which are items of `GET /channels`. The header is for persons."""
    rows: list[tuple[str, ...]] = [
        (
            channel["name"],
            channel["type"],
            to_printable(channel["url"]),
            ",".join(channel["events"]) or "-",
            _format_state(channel),
        )
        for channel in channels
    ]
    return [_CHANNEL_HEADER, *rows] if with_header and rows else rows


def format_notifications(
    notifications: Sequence[Mapping[str, Any]], *, with_header: bool
) -> list[tuple[str, ...]]:
    """Return the rows of notifications, which are items of `GET /notifications`."""
    rows: list[tuple[str, ...]] = [
        (
            notification["id"],
            notification["channel"],
            notification["event"],
            to_printable(notification["playbook"]),
            notification["workflow_id"],
            notification["state"],
            str(notification["attempts"]),
            to_printable(notification["problem"] or ""),
        )
        for notification in notifications
    ]
    return [_NOTIFICATION_HEADER, *rows] if with_header and rows else rows


def format_members(view: Mapping[str, Any]) -> str:
    """Return one line for each member of a channel or a notification that has a value."""
    lines = []
    for name, value in view.items():
        if value is None or value is False or value == []:
            continue
        shown = ", ".join(value) if isinstance(value, list) else "yes" if value is True else str(value)
        lines.append(f"{name.replace('_', ' '):<14}{to_printable(shown)}")
    return "\n".join(lines) + "\n"


def _format_state(channel: Mapping[str, Any]) -> str:
    if channel["paused"]:
        reason = channel["paused_reason"]
        return f"paused: {to_printable(reason)}" if reason else "paused"
    return "ok" if channel["retry_at"] is None else f"fails, next attempt {channel['retry_at'][:19]}Z"
