"""Events: the history of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

from noetl.planner.frozen import frozen


@frozen
class Event:
    """One entry of a run's history. `id` is given by the store: it orders the history and serves as a cursor."""

    type: str
    at: float
    step: str | None = None
    visit: int | None = None
    attempt: int | None = None
    duration_seconds: float | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def to_json(self) -> dict[str, Any]:
        """The event as HTTP and `--json` show it."""
        return {
            "id": self.id,
            "type": self.type,
            "at": timestamp(self.at),
            "step": self.step,
            "visit": self.visit,
            "attempt": self.attempt,
            "duration_ms": None if self.duration_seconds is None else round(self.duration_seconds * 1000, 3),
            "payload": dict(self.payload),
        }


def timestamp(at: float | None) -> str | None:
    """`at` (seconds since the epoch) in UTC with microseconds, as RFC 3339 writes it."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
