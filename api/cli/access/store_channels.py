"""Access of commands to the channels and notifications of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    from noetl.api.service.services import TenantServices


class StoreChannels:
    """The channels of a store (implements `ChannelAccess`)."""

    def __init__(self, services: TenantServices) -> None:
        self._channels = services.channels
        self._notifications = services.notifications

    def find(self) -> ChannelPage:
        return self._channels.find()

    def get(self, name: str) -> ChannelEntry:
        return self._channels.get(name)

    def put(self, name: str, request: ChannelRequest) -> StoredChannel:
        return self._channels.put(name, request)[0]

    def remove(self, name: str) -> None:
        self._channels.remove(name)

    def pause(self, name: str) -> ChannelEntry:
        return self._channels.pause(name)

    def resume(self, name: str) -> ChannelEntry:
        return self._channels.resume(name)

    def test(self, name: str) -> ChannelTest:
        return self._channels.test(name)

    def find_notifications(self, state: str | None, limit: int, cursor: str | None) -> NotificationPage:
        from noetl.executor.model.deliveries import DeliveryState

        wanted = None if state is None else DeliveryState(state)
        return self._notifications.find(wanted, limit=limit, cursor=cursor)

    def get_notification(self, id: str) -> NotificationEntry:
        return self._notifications.get(id)

    def retry(self, id: str) -> NotificationEntry:
        return self._notifications.retry(id)

    def discard(self, id: str) -> None:
        self._notifications.discard(id)
