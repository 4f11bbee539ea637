"""The notifications that a playbook requests: about ends of its runs, and about late ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from noetl.planner.frozen import frozen

MAX_CHANNELS = 20
"""How many channels may receive an event. Stores write one entry for each at the end of a run."""

MAX_CHANNEL_NAME = 63
"""How many characters the name of a channel may have."""

_CHANNEL_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_CHANNEL_NAME - 1}}}")

NotifyEvent = Literal["succeeded", "failed", "cancelled", "late"]
"""The event of a notification. `failed` includes `timed_out` and `completed_with_errors`."""


def is_channel_name(name: str) -> bool:
    """Return whether a channel may have this name.

    >>> is_channel_name("on-call"), is_channel_name("on call"), is_channel_name("")
    (True, False, False)
    """
    return _CHANNEL_NAME.fullmatch(name) is not None


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
