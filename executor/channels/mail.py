"""Channels of type `email`: a text to recipients by a mail server (SMTP, RFC 5321).

Problem: smtplib resolves and connects by itself, and waits without a deadline. The name of a mail server
may lead into the network of the service. A server may answer a little before each timeout for ever.

Algorithm: smtplib speaks the protocol over a connection that the rules for egress have vetted, and whose
operations end with the block of `time_limit`. A refusal is judged by its code and by the command. 4xx is
temporary. 5xx to the text refuses this notification, and 5xx to anything else refuses all of the channel.

Cost: one connection for each notification.

Limits: one recipient that the server accepts is enough. The log names those that it refuses. Addresses are
in ASCII. A process that dies sends again, with the same `Message-ID`.
"""

from __future__ import annotations

import io
import logging
import smtplib
import threading
import time
from contextlib import closing, suppress
from email.message import EmailMessage
from email.policy import SMTP as MAIL_LINES
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import httpcore

from noetl.executor.channels.mail_target import MailTarget
from noetl.executor.channels.message import Message
from noetl.executor.clients.deadline_stream import DeadlineStream, connect
from noetl.executor.clients.egress import CONNECT_SECONDS, resolve_and_vet
from noetl.executor.clients.time_limit import time_limit
from noetl.executor.model.deliveries import SEND_SECONDS, DeliveryFailure, cut_problem
from noetl.executor.patience import bounded_by_invocation
from noetl.executor.security.redaction import redact
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    import ssl

MAX_ANSWER_BYTES = 256 * 1024
"""How many bytes of answers one connection may have."""

MAX_SUBJECT_LENGTH = 200

logger = logging.getLogger("noetl.notifications")


@frozen
class Mail:
    """A message to a mail server. `password` is that of the user of the target."""

    target: MailTarget
    message: Message
    password: str | None = None

    def send(
        self, networks: tuple[str, ...], stopping: threading.Event, now: float
    ) -> DeliveryFailure | None:
        """Send the mail. Return None if the server has accepted it for at least one recipient.

        `networks` are those that are allowed although they are not public.

        Raises:
            ActionError: `ForbiddenAddress`.
            CancelledError: `stopping` was set.
        """
        server = f"{self.target.host}:{self.target.port}"
        seconds = bounded_by_invocation(SEND_SECONDS)
        try:
            with (
                time_limit(time.monotonic() + seconds, cancelled=stopping),
                closing(_open_session(self.target, networks)) as session,
            ):
                return self._deliver(session, now)
        except _RefusalError as refusal:
            return refusal.judge(server)
        except (httpcore.TimeoutException, TimeoutError):
            return DeliveryFailure(f"`{server}` did not answer within {round(seconds, 1):g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, smtplib.SMTPException, OSError) as error:
            return DeliveryFailure(
                f"no response from `{server}`: {redact(str(error)) or type(error).__name__}"
            )

    def _deliver(self, session: _MailSession, now: float) -> DeliveryFailure | None:
        """Log in, and send the envelope and the text."""
        _say_hello(session)
        if self.target.security == "starttls":
            session.secure()
            _say_hello(session)
        if self.target.user is not None:
            self._log_in(session)
        _check(session.mail(self.target.sender), "the sender")
        answers = [(name, session.rcpt(name)) for name in self.target.recipients]
        refused = [(name, answer) for name, answer in answers if answer[0] not in (250, 251)]
        if len(refused) == len(answers):
            # One that is refused for a time lets all be tried again.
            name, answer = min(refused, key=lambda pair: pair[1][0])
            _check(answer, f"the recipient {name}")
        try:
            _check(session.data(_compose(self.target, self.message, now)), "the message")
        except smtplib.SMTPDataError as error:
            raise _RefusalError(error.smtp_code, error.smtp_error, "the message") from None
        for name, answer in refused:
            logger.warning("the mail server has refused the recipient %s: %s", name, _describe(*answer))
        return None

    def _log_in(self, session: _MailSession) -> None:
        """Log in with the user and the password."""
        user, password = str(self.target.user), self.password or ""
        try:
            session.login(user, password)
        except smtplib.SMTPResponseException as error:
            raise _RefusalError(error.smtp_code, error.smtp_error, "the login") from None
        except smtplib.SMTPServerDisconnected:
            raise
        except smtplib.SMTPException as error:
            raise _RefusalError(504, str(error), "the login") from None
        except ValueError:
            raise _RefusalError(454, "the challenge of the server is not valid", "the login") from None


class _RefusalError(Exception):
    """An answer of a mail server that is no success, and what it refuses."""

    def __init__(self, code: int, text: bytes | str, refused: str) -> None:
        super().__init__(refused)
        self._code = code
        self._text = text
        self._refused = refused

    def judge(self, server: str) -> DeliveryFailure:
        """Return what the refusal means for the notification and its channel."""
        reason = f"`{server}` refused {self._refused}: {_describe(self._code, self._text)}"
        if not 500 <= self._code < 600:
            return DeliveryFailure(reason)
        if self._refused == "the message":
            return DeliveryFailure(reason, is_final=True, is_away=False)
        return DeliveryFailure(reason, refuses_all=True, is_away=False)


class _MailSession(smtplib.SMTP):
    """A session of smtplib over a vetted connection. It never opens a connection itself."""

    def __init__(self, stream: DeadlineStream, host: str, context: ssl.SSLContext) -> None:
        own_address = stream.get_extra_info("socket").getsockname()[0]
        literal = f"IPv6:{own_address}" if ":" in own_address else own_address
        # Without a name, smtplib resolves that of this machine.
        super().__init__(local_hostname=f"[{literal}]")
        self._server_name = host
        self._context = context
        self._use(stream)

    def secure(self) -> None:
        """Send STARTTLS, and continue with TLS.

        Raises:
            _RefusalError: the answer is not 220. Another success would go on without TLS.
        """
        answer = self.docmd("STARTTLS")
        if answer[0] != 220:
            raise _RefusalError(*answer, "STARTTLS")
        self._use(self._stream.start_tls(self._context, self._server_name))
        # What the server said before is forgotten (RFC 3207, section 4.2).
        self.helo_resp = self.ehlo_resp = None
        self.esmtp_features = {}
        self.does_esmtp = False

    def close(self) -> None:
        """Send QUIT without waiting for the answer, and close the connection."""
        with suppress(Exception):
            if self.sock is not None:
                self.putcmd("quit")
        super().close()

    def _use(self, stream: DeadlineStream) -> None:
        self._stream = stream
        self.file = None
        self.sock: Any = _MailConnection(stream)


class _MailConnection:
    """Socket as smtplib needs it."""

    def __init__(self, stream: DeadlineStream) -> None:
        self._stream = stream

    def sendall(self, data: bytes) -> None:
        """Send all bytes."""
        self._stream.write(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a file of what the server answers."""
        return io.BufferedReader(_Answers(self._stream))

    def close(self) -> None:
        self._stream.close()


class _Answers(io.RawIOBase):
    """The answers of a server as a file, which ends after MAX_ANSWER_BYTES."""

    def __init__(self, stream: DeadlineStream) -> None:
        self._stream = stream
        self._left = MAX_ANSWER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes into a buffer, and return how many."""
        chunk = self._stream.read(min(len(buffer), self._left))
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)


def _open_session(target: MailTarget, networks: tuple[str, ...]) -> _MailSession:
    """Return a session with a server that has greeted."""
    import httpx

    context = httpx.create_ssl_context()
    failure: Exception = OSError("it has no address")
    for address in resolve_and_vet(target.host, target.port, networks, "email"):
        try:
            stream = connect(address, target.port, CONNECT_SECONDS)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            failure = error
            continue
        if target.security == "tls":
            stream = stream.start_tls(context, target.host)
        session = _MailSession(stream, target.host, context)
        try:
            _check(session.getreply(), "the connection")
        except BaseException:
            session.close()
            raise
        return session
    raise failure


def _say_hello(session: _MailSession) -> None:
    if session.ehlo()[0] != 250:
        _check(session.helo(), "the connection")


def _check(answer: tuple[int, bytes], refused: str) -> None:
    """Check that an answer is a success.

    Raises:
        _RefusalError: it is not.
    """
    if not 200 <= answer[0] < 300:
        raise _RefusalError(*answer, refused)


def _describe(code: int, text: bytes | str) -> str:
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return cut_problem(f"{code} {redact(' '.join(decoded.split()))}".strip())


def _compose(target: MailTarget, message: Message, now: float) -> bytes:
    """Return a mail as it is sent. Its first line is the subject."""
    subject = "".join(sign if sign.isprintable() else " " for sign in message.text.splitlines()[0])
    mail = EmailMessage(MAIL_LINES)
    mail["From"] = target.sender
    mail["To"] = ", ".join(target.recipients)
    is_long = len(subject) > MAX_SUBJECT_LENGTH
    mail["Subject"] = f"{subject[: MAX_SUBJECT_LENGTH - 1]}…" if is_long else subject
    mail["Date"] = formatdate(now)
    mail["Message-ID"] = f"<{message.id}@noetl.invalid>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text.encode("utf-8", "replace").decode() + "\n", cte="quoted-printable")
    return mail.as_bytes()
