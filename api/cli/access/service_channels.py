"""Access of commands to the channels and notifications of a service, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from noetl.api.cli.access.service_client import ServiceClient
from noetl.api.cli.access.view_requests import ViewRequests

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


class ServiceChannels:
    """The channels of a service (implements `ChannelAccess`)."""

    def __init__(self, client: ServiceClient) -> None:
        self._requests = ViewRequests(client)

    def find(self) -> ChannelPage:
        from noetl.api.service.channel_views import ChannelPage

        return self._requests.get(ChannelPage, "/channels")

    def get(self, name: str) -> ChannelEntry:
        from noetl.api.service.channel_views import ChannelEntry

        return self._requests.get(ChannelEntry, _channel(name))

    def put(self, name: str, request: ChannelRequest) -> StoredChannel:
        from noetl.api.service.channel_views import StoredChannel

        body = {"url": request.url, "type": request.type, "events": list(request.events)}
        body |= {} if request.secret is None else {"secret": request.secret}
        return self._requests.send(StoredChannel, "PUT", _channel(name), body)

    def remove(self, name: str) -> None:
        self._requests.remove(_channel(name))

    def pause(self, name: str) -> ChannelEntry:
        from noetl.api.service.channel_views import ChannelEntry

        return self._requests.send(ChannelEntry, "POST", f"{_channel(name)}/pause")

    def resume(self, name: str) -> ChannelEntry:
        from noetl.api.service.channel_views import ChannelEntry

        return self._requests.send(ChannelEntry, "POST", f"{_channel(name)}/resume")

    def test(self, name: str) -> ChannelTest:
        from noetl.api.service.channel_views import ChannelTest

        return self._requests.send(ChannelTest, "POST", f"{_channel(name)}/test")

    def find_notifications(self, state: str | None, limit: int, cursor: str | None) -> NotificationPage:
        from noetl.api.service.channel_views import NotificationPage

        return self._requests.get(NotificationPage, "/notifications", state=state, limit=limit, cursor=cursor)

    def get_notification(self, id: str) -> NotificationEntry:
        from noetl.api.service.channel_views import NotificationEntry

        return self._requests.get(NotificationEntry, _notification(id))

    def retry(self, id: str) -> NotificationEntry:
        from noetl.api.service.channel_views import NotificationEntry

        return self._requests.send(NotificationEntry, "POST", f"{_notification(id)}/retry")

    def discard(self, id: str) -> None:
        self._requests.remove(_notification(id))


def _channel(name: str) -> str:
    return f"/channels/{quote(name, safe='')}"


def _notification(id: str) -> str:
    return f"/notifications/{quote(id, safe='')}"
