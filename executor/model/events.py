"""The events of a run's history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, overload

from noetl.planner.frozen import frozen

NOTIFICATION_EVENT = "notification.failed"
"""The type of the event of an undelivered notification of a run. It may follow the end of the run."""

DEBOUNCED_EVENT = "workflow.debounced"
"""The event of a run that begins and that several starts share."""


@frozen
class Event:
    """One entry of a run's history.

    The store assigns `id`, which orders the history and serves as a cursor.
    """

    type: str
    at: float
    step: str | None = None
    visit: int | None = None
    attempt: int | None = None
    duration_seconds: float | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@overload
def timestamp(seconds: float) -> str: ...


@overload
def timestamp(seconds: None) -> None: ...


@overload
def timestamp(seconds: float | None) -> str | None: ...


def timestamp(seconds: float | None) -> str | None:
    """Return a time in seconds since the epoch as an RFC 3339 timestamp in UTC, with microseconds.

    >>> timestamp(0.5)
    '1970-01-01T00:00:00.500000Z'
    """
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
