"""The address of a channel of type `email`: a mail server, and who sends to whom.

    smtps://USER@mail.example.com/?from=noetl@example.com&to=ops@example.com,anna@example.com

`smtps` speaks TLS from the start, at port 465. `smtp` requires STARTTLS, at port 587. With `tls=none` there
is neither TLS nor a user.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

from noetl.executor.errors import ActionError
from noetl.planner.frozen import frozen

MAX_RECIPIENTS = 20
"""How many recipients a channel has."""

_PORTS = {"smtps": 465, "smtp": 587}
_MAILBOX = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,188}[A-Za-z0-9])?"
)
"""An address without quotes and comments, in ASCII."""

_USER = re.compile(r"[\x21-\x7e]{0,200}")


@frozen
class MailTarget:
    """A mail server, the sender and the recipients.

    Attributes:
        host: the name of the server, or its IP address.
        user: the user that logs in; None if none does.
        security: `tls` from the start, `starttls`, or `none`.
    """

    host: str
    port: int
    user: str | None
    security: str
    sender: str
    recipients: tuple[str, ...]


def parse_mail_target(text: str) -> MailTarget:
    """Return the mail server and the recipients of a channel.

    >>> parse_mail_target("smtp://mail.test?from=noetl@a.test&to=ops@a.test").port
    587

    Raises:
        ActionError: `ParameterError`, with what is wrong.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise _invalid("the address of a mail server must be a URL") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise _invalid("the address of a mail server must begin with smtps:// or smtp://")
    if parts.password is not None:
        raise _invalid("the address of a mail server must not contain a password: give it as the secret")
    if parts.path not in ("", "/") or parts.fragment or not parts.hostname.isascii():
        raise _invalid("the address of a mail server must have the form smtps://USER@HOST/?from=…&to=…")
    user = None if parts.username is None else unquote(parts.username)
    if user is not None and (not user or not _USER.fullmatch(user)):
        raise _invalid("the user of a mail server must have 1 to 200 characters of ASCII, and no blanks")
    security = _read_security(parts.scheme, options.pop("tls", []), user)
    sender, recipients = _read_mailboxes(options)
    return MailTarget(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        user=user,
        security=security,
        sender=sender,
        recipients=recipients,
    )


def _read_security(scheme: str, values: list[str], user: str | None) -> str:
    if not values:
        return "tls" if scheme == "smtps" else "starttls"
    if values != ["none"] or scheme != "smtp":
        raise _invalid("`tls` of a mail server must be `none`, and only with smtp://")
    if user is not None:
        raise _invalid("a user of a mail server needs TLS, so that the password is not sent in clear text")
    return "none"


def _read_mailboxes(options: dict[str, list[str]]) -> tuple[str, tuple[str, ...]]:
    if set(options) != {"from", "to"} or len(options["from"]) != 1:
        raise _invalid("the address of a mail server must have `from` and `to`, such as ?from=…&to=…")
    sender = options["from"][0]
    recipients = tuple(dict.fromkeys(word.strip() for value in options["to"] for word in value.split(",")))
    if len(recipients) > MAX_RECIPIENTS:
        raise _invalid(f"a channel of type `email` has at most {MAX_RECIPIENTS} recipients")
    for mailbox in (sender, *recipients):
        if not _MAILBOX.fullmatch(mailbox):
            raise _invalid("`from` and `to` must be addresses such as ops@example.com, in ASCII")
    return sender, recipients


def _invalid(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)
