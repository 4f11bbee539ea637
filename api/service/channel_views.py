"""Views of channels and of notifications. They never contain a secret."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from noetl.api.service.views import Timestamp, View
from noetl.executor.channels.sender import secret_name
from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import delivery_state
from noetl.executor.model.events import timestamp
from noetl.executor.model.outbox import OutboxEntry


class ChannelEntry(View, schema_name="Channel"):
    """Channel of notifications.

    `url` is its address without the path, which may be a secret, or the reference to the secret with the
    address. `events` are those of all runs that it receives. `paused_reason` says why it was paused by
    itself. `retry_at` is when the next notification is tried if its receiver cannot be reached.
    """

    name: str
    type: str
    url: str
    events: Sequence[str]
    signed: bool
    paused: bool
    paused_reason: str | None
    retry_at: Timestamp | None
    created_at: Timestamp

    @classmethod
    def from_channel(cls, channel: Channel) -> ChannelEntry:
        return cls(**_members_of(channel))


class ChannelPage(View, schema_name="ChannelPage"):
    items: Sequence[ChannelEntry]


class StoredChannel(View, schema_name="StoredChannel"):
    """Channel that was added or changed.

    The first members are those of `Channel`. `secret` is the secret that signs if it was generated now. It is
    not shown again. A request with `new` as its secret replaces it.
    """

    name: str
    type: str
    url: str
    events: Sequence[str]
    signed: bool
    paused: bool
    paused_reason: str | None
    retry_at: Timestamp | None
    created_at: Timestamp
    secret: str | None

    @classmethod
    def from_stored(cls, channel: Channel, secret: str | None) -> StoredChannel:
        return cls(**_members_of(channel), secret=secret)


class ChannelTest(View, schema_name="ChannelTest"):
    """Result of a test of a channel. `problem` says why its message was not accepted."""

    delivered: bool
    problem: str | None


class NotificationEntry(View, schema_name="Notification"):
    """Notification that was not delivered yet.

    `state` is `pending`, `held` while its channel is paused, or `undelivered` after the last attempt.
    `due_at` is when it is tried next. `problem` is why the last attempt has failed.
    """

    id: str
    channel: str
    event: str
    workflow_id: str
    playbook: str
    version: str | None
    status: str
    state: str
    attempts: int
    created_at: Timestamp
    due_at: Timestamp | None
    expires_at: Timestamp | None
    failed_at: Timestamp | None
    problem: str | None

    @classmethod
    def from_entry(cls, entry: OutboxEntry) -> NotificationEntry:
        record = entry.record
        return cls(
            id=entry.id,
            channel=record["channel"],
            event=record["event"],
            workflow_id=record["run_id"],
            playbook=record["playbook"],
            version=record["version"],
            status=record["status"],
            state=delivery_state(entry).value,
            attempts=record["attempts"],
            created_at=timestamp(entry.created_at),
            due_at=timestamp(entry.due_at),
            expires_at=timestamp(entry.expires_at),
            failed_at=record.get("failed_at"),
            problem=record.get("problem"),
        )


class NotificationPage(View, schema_name="NotificationPage"):
    items: Sequence[NotificationEntry]
    next_cursor: str | None


def shown_url(channel: Channel) -> str:
    """Return the address of a channel without what may be a secret."""
    if channel.type == "eventbridge" or secret_name(channel.target) is not None:
        return channel.target.strip()
    parts = urlsplit(channel.target)
    if channel.type == "email":
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/?{parts.query}"
    is_short = parts.path in ("", "/") and not parts.query
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{'' if is_short else '/…'}"


def _members_of(channel: Channel) -> dict[str, Any]:
    return {
        "name": channel.name,
        "type": channel.type,
        "url": shown_url(channel),
        "events": list(channel.events),
        "signed": channel.type == "webhook" and "secret" in channel.settings,
        "paused": channel.is_paused,
        "paused_reason": channel.paused_reason,
        "retry_at": timestamp(channel.retry_at),
        "created_at": timestamp(channel.created_at),
    }
