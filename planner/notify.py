"""The notifications that a playbook requests: about ends of its runs, and about late ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from noetl.planner.frozen import frozen

NotifyEvent = Literal["succeeded", "failed", "cancelled", "late"]
"""The event of a notification. `failed` includes `timed_out` and `completed_with_errors`."""


@frozen
class Notify:
    """The channels that receive an event, by event.

    `late_seconds` is how long a run may take before it is late; None if no channel receives that. It counts
    from the instant of the schedule, or else from the creation of the run.
    """

    channels: Mapping[NotifyEvent, tuple[str, ...]]
    late_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        channels = {event: list(names) for event, names in self.channels.items()}
        return {"channels": channels, "late_seconds": self.late_seconds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Notify:
        channels = {event: tuple(names) for event, names in data["channels"].items()}
        return cls(channels, data["late_seconds"])
