"""The notifications that a playbook requests: who is told of the end of a run, and of a late one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from noetl.planner.frozen import frozen

NotifyEvent = Literal["succeeded", "failed", "cancelled", "late"]
"""What somebody is told of. `failed` includes `timed_out` and `completed_with_errors`."""


@frozen
class Notify:
    """The channels that are told of an event, by event.

    `late_seconds` is how long a run may take before it is late; None if nobody is told of that. It counts
    from the time of the schedule, or else from the start of the run.
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
