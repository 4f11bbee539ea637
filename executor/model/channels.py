"""Channels: where notifications of a tenant are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from noetl.planner.frozen import frozen


@frozen
class Channel:
    """A place to which notifications are sent.

    Attributes:
        type: `webhook`, `slack`, `email` or `eventbridge`.
        target: the address; it may be `{{ secrets.NAME }}`.
        events: the events of all runs of the tenant that it receives.
        settings: further values of its type, such as the secret that signs, or the password.
        is_paused: whether nothing is sent. Notifications wait.
        paused_reason: why it was paused by itself; None if a person has paused it.
        retry_at: when the next notification is tried, as its receiver cannot be reached; None if it can.
        edition: the number of its changes. A write requires the edition that was read.
    """

    tenant: str
    name: str
    type: str
    target: str
    created_at: float
    events: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_paused: bool = False
    paused_reason: str | None = None
    retry_at: float | None = None
    edition: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__match_args__}
        return fields | {"events": list(self.events)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Channel:
        return cls(**{**data, "events": tuple(data["events"])})
