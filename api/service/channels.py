"""The service of channels: where notifications of a tenant are sent.

Problem: deliveries change a channel at the same time as a person.

Algorithm: a change requires the edition of the channel that was read. If another process was faster, the
channel is read again. A channel that is resumed makes its held notifications due.

Cost: one read and one write. A resumed channel releases a batch of notifications.

Limits: at most MAX_CHANNELS channels, counted before a new one is written.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import field
from typing import Any

from noetl.api.service.channel_views import ChannelEntry, ChannelPage, ChannelTest, StoredChannel
from noetl.api.service.errors import NotFoundError
from noetl.api.service.tenant import TenantContext
from noetl.executor.channels.http_post import parse_target
from noetl.executor.channels.mail_target import parse_mail_target
from noetl.executor.channels.message import make_message
from noetl.executor.channels.sender import secret_name
from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.channels import Channel
from noetl.executor.model.notifications import EVENTS
from noetl.executor.model.outbox import OutboxEntry, OutboxKind, entry_id
from noetl.executor.security.webhook_signatures import STANDARD_PREFIX, SigningSecretError, sign_standard
from noetl.planner.diagnostics.wording import abbreviate, as_code, join_words
from noetl.planner.frozen import frozen, replace
from noetl.planner.notify import MAX_CHANNEL_NAME, is_channel_name

MAX_CHANNELS = 50
"""How many channels a tenant may have."""

CHANNEL_TYPES = ("webhook", "slack", "email", "eventbridge")

NEW_SECRET = "new"
"""The secret of a request that replaces the one that signs by a generated one."""

MAX_TRIES = 10
MAX_TARGET_LENGTH = 2000


@frozen
class ChannelRequest:
    """A channel as a person declares it. Without a `secret`, one is generated for a webhook."""

    url: str
    type: str = "webhook"
    events: tuple[str, ...] = field(default_factory=tuple)
    secret: str | None = None


@frozen
class ChannelService:
    """The channels of one tenant."""

    context: TenantContext

    def find(self) -> ChannelPage:
        """Return all channels in the order of their names."""
        channels = self.context.store.channels.find(self.context.tenant)
        return ChannelPage(items=[ChannelEntry.from_channel(channel) for channel in channels])

    def get(self, name: str) -> ChannelEntry:
        """Return a channel.

        Raises:
            NotFoundError: there is no such channel.
        """
        return ChannelEntry.from_channel(self._get(name))

    def put(self, name: str, request: ChannelRequest) -> tuple[StoredChannel, bool]:
        """Add or change a channel. Return it, and whether it is new.

        A webhook keeps its secret unless the request has one. A new webhook gets one, and so does any
        for which NEW_SECRET is requested.

        Raises:
            RejectedError: `invalid_channel`; `too_many_channels`; `channel_changed`.
        """
        _check(name, request)
        store, tenant = self.context.store, self.context.tenant
        new_secret = STANDARD_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        for _ in range(MAX_TRIES):
            read = store.channels.get(tenant, name)
            if read is not None and read.settings.get("secret") == new_secret:
                # The response to the own write was lost.
                return StoredChannel.from_stored(read, new_secret), read.edition == 1
            if read is None and len(store.channels.find(tenant)) >= MAX_CHANNELS:
                raise RejectedError("too_many_channels", f"there are {MAX_CHANNELS} channels; remove one")
            written, generated = self._new_channel(name, request, read, new_secret)
            if store.channels.put(written, read):
                return StoredChannel.from_stored(written, generated), read is None
        raise _changed(name)

    def remove(self, name: str) -> None:
        """Remove a channel. Its notifications become undelivered when they are due.

        Raises:
            NotFoundError: there is no such channel.
            RejectedError: `channel_changed`.
        """
        for _ in range(MAX_TRIES):
            channel = self._get(name)
            if self.context.store.channels.remove(channel):
                self._release_held(name)
                return
        raise _changed(name)

    def pause(self, name: str) -> ChannelEntry:
        """Pause a channel: its notifications wait. A repeated request changes nothing.

        Raises:
            NotFoundError: there is no such channel.
            RejectedError: `channel_changed`.
        """

        def pause(channel: Channel) -> Channel:
            if channel.is_paused:
                return channel
            return replace(channel, is_paused=True, retry_at=None, edition=channel.edition + 1)

        return self._change(name, pause)

    def resume(self, name: str) -> ChannelEntry:
        """Resume a channel, and send what waits for it.

        Raises:
            NotFoundError: there is no such channel.
            RejectedError: `channel_changed`.
        """

        def resume(channel: Channel) -> Channel:
            if not channel.is_paused and channel.retry_at is None:
                return channel
            return replace(
                channel, is_paused=False, paused_reason=None, retry_at=None, edition=channel.edition + 1
            )

        entry = self._change(name, resume)
        self._release_held(name)
        return entry

    def test(self, name: str) -> ChannelTest:
        """Send a test message to a channel, also if it is paused. Nothing is stored.

        Raises:
            NotFoundError: there is no such channel.
            SettingError: a setting is invalid.
        """
        from noetl.executor.engine.delivery import make_courier

        channel, now = self._get(name), self.context.clock()
        courier = make_courier(self.context.store)
        message = make_message(_test_entry(channel, now), courier.public_url)
        failure = courier.sender.send(channel, message, now)
        problem = None if failure is None else failure.reason
        return ChannelTest(delivered=failure is None, problem=problem)

    def _new_channel(
        self, name: str, request: ChannelRequest, read: Channel | None, new_secret: str
    ) -> tuple[Channel, str | None]:
        """Return the channel of a request, and the new secret if it has that."""
        secret, generated = request.secret, None
        if request.type == "webhook" and secret in (None, NEW_SECRET):
            kept = None if read is None or read.type != "webhook" else read.settings.get("secret")
            generated = None if kept and secret is None else new_secret
            secret = generated or kept
        new = Channel(
            self.context.tenant,
            name,
            request.type,
            request.url.strip(),
            round(self.context.clock(), 6),
            tuple(event for event in EVENTS if event in request.events),
            {} if secret is None else {"secret": secret},
        )
        if read is not None:
            new = replace(
                new,
                created_at=read.created_at,
                is_paused=read.is_paused,
                paused_reason=read.paused_reason,
                edition=read.edition + 1,
            )
        return new, generated

    def _change(self, name: str, change: Callable[[Channel], Channel]) -> ChannelEntry:
        for _ in range(MAX_TRIES):
            read = self._get(name)
            written = change(read)
            if written is read or self.context.store.channels.put(written, read):
                return ChannelEntry.from_channel(written)
        raise _changed(name)

    def _release_held(self, name: str) -> None:
        """Make the notifications due that wait for a channel."""
        from noetl.executor.engine.release import release_held

        release_held(self.context.store, self.context.tenant, name, self.context.clock())

    def _get(self, name: str) -> Channel:
        channel = self.context.store.channels.get(self.context.tenant, name)
        if channel is None:
            raise NotFoundError(f"unknown channel `{abbreviate(name)}`")
        return channel


def _check(name: str, request: ChannelRequest) -> None:
    """Check a channel as it is declared.

    Raises:
        RejectedError: `invalid_channel`.
    """
    if not is_channel_name(name):
        raise _invalid(
            f"the name of a channel must be 1 to {MAX_CHANNEL_NAME} letters, digits, `_`, `-` or `.`,"
            " and start with a letter or digit"
        )
    if request.type not in CHANNEL_TYPES:
        raise _invalid(f"the type of a channel must be {join_words(as_code(CHANNEL_TYPES))}")
    unknown = [event for event in request.events if event not in EVENTS]
    if unknown:
        known = join_words(as_code(EVENTS))
        raise _invalid(f"a channel cannot receive `{abbreviate(unknown[0])}`: the events are {known}")
    if not request.url.strip() or len(request.url) > MAX_TARGET_LENGTH:
        raise _invalid(f"the address of a channel must have 1 to {MAX_TARGET_LENGTH} characters")
    try:
        if request.type == "email":
            _check_mail(request)
        elif request.type != "eventbridge" and secret_name(request.url) is None:
            parse_target(request.url.strip())
    except ActionError as error:
        raise _invalid(error.message) from error
    if request.secret is not None and request.type != "email":
        _check_secret(request.type, request.secret)


def _check_mail(request: ChannelRequest) -> None:
    """Check the mail server of a channel. A password is never stored: it is a secret of the operator.

    Raises:
        ActionError: the address is invalid.
        RejectedError: `invalid_channel`.
    """
    has_user = parse_mail_target(request.url.strip()).user is not None
    if has_user != (request.secret is not None):
        raise _invalid(
            "a channel of type `email` needs a secret with the password if it has a user, else none"
        )
    if request.secret is not None and secret_name(request.secret) is None:
        raise _invalid("the password of a channel must be a secret: `{{ secrets.NAME }}`")


def _check_secret(channel_type: str, secret: str) -> None:
    if channel_type != "webhook":
        raise _invalid("only a channel of type `webhook` or `email` has a secret")
    if secret != NEW_SECRET and secret_name(secret) is None:
        try:
            sign_standard(secret, "id", 0.0, b"")
        except SigningSecretError as error:
            raise _invalid(f"the secret that signs is invalid: {error}") from error


def _test_entry(channel: Channel, now: float) -> OutboxEntry:
    record: dict[str, Any] = {
        "event": "test",
        "channel": channel.name,
        "run_id": "",
        "playbook": "test",
        "version": None,
        "status": "test",
        "attempts": 1,
        "waits_for": [],
    }
    id = entry_id("test", secrets.token_hex(8), channel.name)
    return OutboxEntry(id, channel.tenant, OutboxKind.NOTIFICATION, now, None, record)


def _invalid(message: str) -> RejectedError:
    return RejectedError("invalid_channel", message)


def _changed(name: str) -> RejectedError:
    return RejectedError("channel_changed", f"channel `{name}` was changed meanwhile: try again")
