"""The interface through which commands reach channels and notifications: of a store, or of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from noetl.api.service.channel_views import (
        ChannelEntry,
        ChannelPage,
        ChannelTest,
        NotificationEntry,
        NotificationPage,
        StoredChannel,
    )
    from noetl.api.service.channels import ChannelRequest


class ChannelAccess(Protocol):
    """The channels and notifications that a command can reach.

    Methods about one raise NotFoundError if there is none.
    """

    def find(self) -> ChannelPage:
        """Return all channels."""
        ...

    def get(self, name: str) -> ChannelEntry:
        """Return a channel."""
        ...

    def put(self, name: str, request: ChannelRequest) -> StoredChannel:
        """Add or change a channel."""
        ...

    def remove(self, name: str) -> None:
        """Remove a channel."""
        ...

    def pause(self, name: str) -> ChannelEntry:
        """Pause a channel."""
        ...

    def resume(self, name: str) -> ChannelEntry:
        """Resume a channel, and send what waits for it."""
        ...

    def test(self, name: str) -> ChannelTest:
        """Send a test message."""
        ...

    def find_notifications(self, state: str | None, limit: int, cursor: str | None) -> NotificationPage:
        """Return a page of the notifications that were not delivered yet, or of those in a state."""
        ...

    def get_notification(self, id: str) -> NotificationEntry:
        """Return a notification."""
        ...

    def retry(self, id: str) -> NotificationEntry:
        """Send a notification now."""
        ...

    def discard(self, id: str) -> None:
        """Remove a notification."""
        ...
