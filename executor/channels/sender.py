"""The sender of messages: it reads the secrets of a channel and sends a message by the way of its type."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import field

from noetl.executor.channels.http_post import parse_target
from noetl.executor.channels.mail_target import parse_mail_target
from noetl.executor.channels.message import Message
from noetl.executor.errors import ActionError
from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import DeliveryFailure, cut_problem
from noetl.executor.security.event_buses import BUSES_SETTING, AllowedBuses
from noetl.executor.security.redaction import redact, redacting_for
from noetl.executor.security.secret_access import SecretAccess
from noetl.executor.security.secret_hosts import SecretHosts
from noetl.executor.security.secret_sources import resolve_secret
from noetl.executor.security.webhook_signatures import SigningSecretError
from noetl.planner.frozen import frozen, replace

_SECRET = re.compile(r"\s*\{\{\s*secrets\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}\s*")


def secret_name(text: str) -> str | None:
    """Return the name of the secret that a value of a channel is, or None if it is a literal.

    >>> secret_name("{{ secrets.SLACK }}"), secret_name("https://example.com")
    ('SLACK', None)
    """
    match = _SECRET.fullmatch(text)
    return None if match is None else match[1]


@frozen
class Sender:
    """A sender of messages, with the networks, hosts of secrets and event buses that the operator allows."""

    networks: tuple[str, ...] = ()
    secret_hosts: SecretHosts = field(default_factory=SecretHosts)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    stopping: threading.Event = field(default_factory=threading.Event)
    buses: AllowedBuses = field(default_factory=AllowedBuses)

    def send(self, channel: Channel, message: Message, now: float) -> DeliveryFailure | None:
        """Send a message to a channel. Return None if its receiver has accepted it.

        A failure is stored and shown, so it has no secret of the tenant of the channel.

        Raises:
            CancelledError: `stopping` was set.
        """
        with redacting_for(channel.tenant):
            try:
                failure = self._send(channel, message, now)
            except ActionError as error:
                failure = DeliveryFailure(error.message, is_away=False)
            except SigningSecretError as error:
                failure = DeliveryFailure(f"the signing secret is invalid: {error}", is_away=False)
            if failure is None:
                return None
            # A receiver may have chosen the text, which also goes into the log.
            return replace(failure, reason=cut_problem(str(redact(failure.reason))))

    def _send(self, channel: Channel, message: Message, now: float) -> DeliveryFailure | None:
        if channel.type == "eventbridge":
            return self._put_event(channel, message)
        if channel.type == "email":
            return self._mail(channel, message, now)
        return self._post(channel, message, now)

    def _put_event(self, channel: Channel, message: Message) -> DeliveryFailure | None:
        from noetl.executor.channels.eventbridge import put_event

        rule = self.buses.missing_rule(channel.tenant, channel.target)
        if rule is not None:
            text = f"event bus `{channel.target}` is not allowed: {BUSES_SETTING} needs the rule `{rule}`"
            return DeliveryFailure(text, is_away=False)
        return put_event(channel.target, message)

    def _mail(self, channel: Channel, message: Message, now: float) -> DeliveryFailure | None:
        """Send a message by e-mail. The password may go to the mail server of the channel only.

        Raises:
            ActionError: the address or the password cannot be used.
            CancelledError: `stopping` was set.
        """
        from noetl.executor.channels.mail import Mail

        target = parse_mail_target(channel.target)
        name = secret_name(channel.settings.get("secret", ""))
        password = None
        if name is not None:
            access = SecretAccess(channel.tenant, self.secret_hosts, self.environ)
            access.set_destination(lambda: (target.host,), "the mail server of the channel")
            password = access.reveal(name)
            if not password.isascii():
                message_text = f"the password in the secret `{name}` must be in ASCII"
                raise ActionError("ParameterError", message_text, retryable=False)
        return Mail(target, message, password).send(self.networks, self.stopping, now)

    def _post(self, channel: Channel, message: Message, now: float) -> DeliveryFailure | None:
        """Send a message by HTTP.

        Raises:
            ActionError: the URL or a secret cannot be read, or must not be used.
            SigningSecretError: the secret that signs has no valid base64.
            CancelledError: `stopping` was set.
        """
        from noetl.executor.channels.slack import slack_post
        from noetl.executor.channels.webhook import webhook_post

        url = parse_target(self._read_target(channel))
        if channel.type == "slack":
            post = slack_post(url, message)
        else:
            post = webhook_post(url, message, self._read_secret(channel), now)
        return post.send(self.networks, self.stopping)

    def _read_target(self, channel: Channel) -> str:
        """Return the URL. One that is a secret must be allowed to go to its own host."""
        name = secret_name(channel.target)
        if name is None:
            return channel.target
        access = SecretAccess(channel.tenant, self.secret_hosts, self.environ)
        target = access.reveal(name)
        host = parse_target(target).host
        access.set_destination(lambda: (host,), "the host of the channel")
        return target

    def _read_secret(self, channel: Channel) -> str | None:
        """Return the secret that signs. It leaves the process as a hash only, so it may sign for any host."""
        text = channel.settings.get("secret")
        if text is None:
            return None
        name = secret_name(text)
        return text if name is None else resolve_secret(name, self.environ, channel.tenant)
