"""Channels of type `email`: mails to a real mail server, its refusals, and the rules for egress."""

from __future__ import annotations

import email
import email.policy
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from noetl.executor.channels import mail
from noetl.executor.channels.mail_target import MAX_RECIPIENTS, parse_mail_target
from noetl.executor.channels.message import make_message
from noetl.executor.channels.sender import Sender
from noetl.executor.errors import ActionError
from noetl.executor.model.deliveries import MAX_ATTEMPTS, MAX_PROBLEM_LENGTH, delivery_state
from noetl.executor.security.secret_hosts import SecretHosts
from noetl.planner.frozen import replace
from tests.http_server import find_free_port
from tests.post_office import START, PostOffice

MAILBOXES = "from=noetl@sender.test&to=ops@receiver.test"
PASSWORD = "a long password"
ENVIRON = {"NOETL_SECRET_MAIL": PASSWORD}
HOSTS = SecretHosts({("default", "MAIL"): ("127.0.0.1", "localhost")})


@dataclass
class MailBox:
    """Handler of a mail server, and the mails that it has accepted.

    `answers` has the answers to recipients and to `data`, if they are not successes.
    """

    answers: dict[str, str] = field(default_factory=dict)
    envelopes: list[Any] = field(default_factory=list)

    async def handle_RCPT(
        self, _server: object, _session: object, envelope: Any, address: str, _options: object
    ) -> str:
        answer = self.answers.get(address, "250 OK")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: object, session: Any, envelope: Any) -> str:
        if "data" in self.answers:
            return self.answers["data"]
        envelope.has_started_tls, envelope.user = session.ssl is not None, session.auth_data
        self.envelopes.append(envelope)
        return "250 OK"

    def messages(self) -> list[Any]:
        """Return the accepted mails."""
        return [
            email.message_from_bytes(envelope.content, policy=email.policy.default)
            for envelope in self.envelopes
        ]


def authenticate(
    _server: object, _session: object, _envelope: object, _mechanism: str, data: Any
) -> AuthResult:
    is_right = data == LoginPassword(b"noetl@sender.test", PASSWORD.encode())
    return AuthResult(success=is_right, handled=False, auth_data=data.login.decode())


@contextmanager
def mail_server(box: MailBox, ssl_context: ssl.SSLContext | None = None, **options: Any) -> Iterator[int]:
    """Serve mails on a port of this machine. Return the port."""
    controller = Controller(
        box,
        "127.0.0.1",
        find_free_port(),
        ssl_context=ssl_context,
        server_hostname="localhost",
        ready_timeout=60.0,
        **options,
    )
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


@contextmanager
def scripted_server(
    *answers: bytes, context: ssl.SSLContext | None = None, lines: list[bytes] | None = None
) -> Iterator[int]:
    """Serve one connection with these answers: the greeting, and one for each line. Then be silent.

    The lines of the client are added to `lines`.
    """
    received = [] if lines is None else lines
    done = threading.Event()

    def talk(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        with suppress(ConnectionError, ssl.SSLError), connection, connection.makefile("rb") as sent:
            for number, answer in enumerate(answers):
                if number > 0:
                    received.append(sent.readline())
                connection.sendall(answer)
            done.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, args=(listener,))
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            done.set()
            thread.join(10)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """Return the context of a server for `localhost`, and the file of its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(built.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    return context, certificate_file


def add_mail(office: PostOffice, target: str, **fields: Any) -> None:
    office.add_channel(target, type="email", **fields)
    office.add(error={"type": "Timeout", "step": "load", "message": "zu spät\r\nBcc: all@receiver.test"})


def plain_target(port: int, recipients: str = "ops@receiver.test") -> str:
    return f"smtp://127.0.0.1:{port}?from=noetl@sender.test&to={recipients}&tls=none"


class TestAccepted:
    def test_a_mail_has_a_subject_a_text_and_the_same_id_in_each_attempt(self) -> None:
        box, office = MailBox(), PostOffice()
        with mail_server(box) as port:
            add_mail(office, plain_target(port, "ops@receiver.test,anna@receiver.test"))
            office.deliver_due()
            office.add()
            office.deliver_due()
        assert office.read() is None
        first, second = box.messages()
        assert first["Subject"] == "import has failed (run r1234567): Timeout in load: zu spät"
        assert (first["From"], first["To"]) == ("noetl@sender.test", "ops@receiver.test, anna@receiver.test")
        assert first["Message-ID"] == second["Message-ID"] == "<msg_n1@noetl.invalid>"
        assert first["Auto-Submitted"] == "auto-generated"
        assert first["Date"].datetime.timestamp() == START
        assert first["Bcc"] is None
        text = first.get_content().replace("\r\n", "\n")
        assert text.startswith("import has failed (run r1234567): Timeout in load: zu spät\nBcc: all")
        assert text.endswith("\nhttps://noetl.example.com/ui/runs/r1234567890\n")
        assert box.envelopes[0].rcpt_tos == ["ops@receiver.test", "anna@receiver.test"]

    @pytest.mark.parametrize("scheme", ["smtp", "smtps"])
    def test_a_user_logs_in_with_a_secret_over_tls(
        self, scheme: str, certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context, file = certificate
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        box, office = MailBox(), PostOffice(secret_hosts=HOSTS, environ=ENVIRON)
        options: dict[str, Any] = {"authenticator": authenticate}
        if scheme == "smtps":
            # The server sees no STARTTLS, so it would offer no login.
            options |= {"ssl_context": context, "auth_require_tls": False}
        else:
            options |= {"tls_context": context, "require_starttls": True, "auth_required": True}
        with mail_server(box, **options) as port:
            target = f"{scheme}://noetl%40sender.test@localhost:{port}/?{MAILBOXES}"
            add_mail(office, target, settings={"secret": "{{ secrets.MAIL }}"})
            office.deliver_due()
        assert office.read() is None, office.existing().record
        (envelope,) = box.envelopes
        assert envelope.user == "noetl@sender.test"
        assert envelope.has_started_tls == (scheme == "smtp")

    def test_a_recipient_that_is_refused_does_not_keep_others_from_it(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        box, office = MailBox({"gone@receiver.test": "550 5.1.1 no such user"}), PostOffice()
        with mail_server(box) as port, caplog.at_level(logging.WARNING, "noetl.notifications"):
            add_mail(office, plain_target(port, "gone@receiver.test,ops@receiver.test"))
            office.deliver_due()
        assert office.read() is None
        assert box.envelopes[0].rcpt_tos == ["ops@receiver.test"]
        notified = [record for record in caplog.records if record.name == "noetl.notifications"]
        assert [record.getMessage() for record in notified] == [
            "the mail server has refused the recipient gone@receiver.test: 550 5.1.1 no such user"
        ]

    def test_a_server_that_knows_only_helo_gets_the_mail(self) -> None:
        office = PostOffice()
        answers = (b"220 hi\r\n", b"502 no\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"452 full\r\n")
        with scripted_server(*answers) as port:
            add_mail(office, plain_target(port))
            office.deliver_due()
        assert office.existing().record["problem"] == f"`127.0.0.1:{port}` refused the message: 452 full"

    def test_control_signs_and_long_lines_do_not_break_the_subject(self) -> None:
        box, office = MailBox(), PostOffice()
        with mail_server(box) as port:
            office.add_channel(plain_target(port), type="email")
            office.add(error={"type": "E", "step": None, "message": "a\x07\ud800" + "b" * 400})
            office.deliver_due()
        subject = box.messages()[0]["Subject"]
        assert (len(subject), subject[-1]) == (mail.MAX_SUBJECT_LENGTH, "…")
        assert "E: a  bbb" in subject


class TestRefused:
    def test_a_long_answer_is_cut(self) -> None:
        office = PostOffice()
        with scripted_server(b"554 " + b"x" * 100_000 + b"\r\n") as port:
            add_mail(office, plain_target(port))
            channel = office.store.channels.get("default", "ops")
            assert channel is not None
            failure = office.courier.sender.send(channel, make_message(office.existing(), None), 0.0)
        assert failure is not None
        assert len(failure.reason) <= MAX_PROBLEM_LENGTH

    @pytest.mark.parametrize("refused", ["ops@receiver.test", "data"])
    def test_a_temporary_refusal_is_tried_again(self, refused: str) -> None:
        box, office = MailBox({refused: "451 4.7.1 try later"}), PostOffice()
        with mail_server(box) as port:
            add_mail(office, plain_target(port))
            office.deliver_due()
            assert (office.due_in(), delivery_state(office.existing())) == (5.0, "pending")
            assert "451 4.7.1 try later" in office.existing().record["problem"]
            box.answers.clear()
            office.clock.advance(5)
            office.deliver_due()
        assert office.read() is None
        assert len(box.envelopes) == 1

    def test_a_text_that_is_refused_is_undelivered_at_once(self) -> None:
        box, office = MailBox({"data": "554 5.7.1 spam"}), PostOffice()
        with mail_server(box) as port:
            add_mail(office, plain_target(port))
            office.deliver_due()
            assert delivery_state(office.existing()) == "undelivered"
            assert office.existing().record["attempts"] == 1
            assert not office.store.channels.get("default", "ops").is_paused
            box.answers.clear()
            office.add("n2")
            office.deliver_due()
        assert office.read("n2") is None

    def test_recipients_that_do_not_exist_pause_the_channel(self) -> None:
        box, office = MailBox({"ops@receiver.test": "550 5.1.1 no such user"}), PostOffice()
        with mail_server(box) as port:
            add_mail(office, plain_target(port))
            office.deliver_due()
        channel = office.store.channels.get("default", "ops")
        assert channel.is_paused
        assert channel.paused_reason == (
            f"`127.0.0.1:{port}` refused the recipient ops@receiver.test: 550 5.1.1 no such user"
        )
        assert delivery_state(office.existing()) == "held"

    def test_one_temporary_refusal_among_permanent_ones_lets_all_be_tried_again(self) -> None:
        answers = {"gone@receiver.test": "550 no such user", "ops@receiver.test": "450 busy"}
        box, office = MailBox(answers), PostOffice()
        with mail_server(box) as port:
            add_mail(office, plain_target(port, "gone@receiver.test,ops@receiver.test"))
            office.deliver_due()
        assert "refused the recipient ops@receiver.test: 450 busy" in office.existing().record["problem"]
        assert office.due_in() == 5.0

    def test_a_wrong_password_pauses_the_channel_and_is_not_shown(
        self, certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context, file = certificate
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        box = MailBox()
        office = PostOffice(secret_hosts=HOSTS, environ={"NOETL_SECRET_MAIL": "a wrong password"})
        with mail_server(box, tls_context=context, authenticator=authenticate) as port:
            target = f"smtp://noetl%40sender.test@localhost:{port}/?{MAILBOXES}"
            add_mail(office, target, settings={"secret": "{{ secrets.MAIL }}"})
            office.deliver_due()
        reason = office.store.channels.get("default", "ops").paused_reason
        assert reason.startswith(f"`localhost:{port}` refused the login: 535")
        assert "wrong" not in reason

    @pytest.mark.parametrize(
        ("answers", "problem"),
        [
            ((b"421 4.3.2 shutting down\r\n",), "refused the connection: 421 4.3.2 shutting down"),
            (
                (b"220 hi\r\n", b"250-hi\r\n250 STARTTLS\r\n", b"454 no TLS\r\n"),
                "refused STARTTLS: 454 no TLS",
            ),
            ((b"no mail server\r\n",), "refused the connection: -1"),
            ((b"220-hi\r\n" * 40_000,), "no response from"),
        ],
    )
    def test_a_server_that_cannot_serve_now_is_tried_again(
        self, answers: tuple[bytes, ...], problem: str
    ) -> None:
        office = PostOffice()
        with scripted_server(*answers) as port:
            office.add_channel(f"smtp://127.0.0.1:{port}?{MAILBOXES}", type="email")
            office.add()
            office.deliver_due()
        assert problem in office.existing().record["problem"]
        assert office.due_in() == 5.0

    @pytest.mark.parametrize("answer", [b"250 ok\r\n", b"235 ok\r\n", b"299 ok\r\n"])
    def test_a_success_without_tls_gets_neither_a_password_nor_a_mail(self, answer: bytes) -> None:
        office, lines = PostOffice(secret_hosts=HOSTS, environ=ENVIRON), list[bytes]()
        offer = b"250-hi\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"
        answers = (b"220 hi\r\n", offer, answer, offer, b"235 ok\r\n", *[b"250 ok\r\n"] * 3)
        with scripted_server(*answers, lines=lines) as port:
            target = f"smtp://noetl@localhost:{port}/?{MAILBOXES}"
            add_mail(office, target, settings={"secret": "{{ secrets.MAIL }}"})
            office.deliver_due()
        commands = [line.split()[0] for line in lines if line]
        assert commands == [b"ehlo", b"STARTTLS", b"quit"]
        assert f"refused STARTTLS: {answer.decode().strip()}" in office.existing().record["problem"]

    def test_a_server_without_tls_gets_no_mail(self) -> None:
        box, office = MailBox(), PostOffice()
        with mail_server(box) as port:
            office.add_channel(f"smtp://127.0.0.1:{port}?{MAILBOXES}", type="email")
            office.add()
            office.deliver_due()
        assert box.envelopes == []
        assert "refused STARTTLS: 454" in office.existing().record["problem"]

    @pytest.mark.parametrize("greeting", [(), (b"220 hi\r\n",)])
    def test_a_silent_server_fails_in_time(
        self, greeting: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mail, "SEND_SECONDS", 0.3)
        office = PostOffice()
        with scripted_server(*greeting) as port:
            add_mail(office, plain_target(port))
            office.deliver_due()
        assert office.existing().record["problem"] == f"`127.0.0.1:{port}` did not answer within 0.3 s"

    @pytest.mark.parametrize("injected", [b"", b"250-hi\r\n250 AUTH PLAIN\r\n235 ok\r\n250 ok\r\n"])
    def test_a_server_that_stops_or_goes_on_in_clear_text_after_starttls_gets_no_command(
        self, injected: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mail, "SEND_SECONDS", 0.3)
        office, lines = PostOffice(secret_hosts=HOSTS, environ=ENVIRON), list[bytes]()
        answers = (b"220 hi\r\n", b"250-hi\r\n250 STARTTLS\r\n", b"220 go\r\n" + injected)
        with scripted_server(*answers, lines=lines) as port:
            target = f"smtp://noetl@localhost:{port}/?{MAILBOXES}"
            add_mail(office, target, settings={"secret": "{{ secrets.MAIL }}"})
            office.deliver_due()
        assert [line.split()[0] for line in lines] == [b"ehlo", b"STARTTLS"]
        assert office.existing().record["problem"] == f"`localhost:{port}` did not answer within 0.3 s"

    def test_a_port_without_a_server_fails(self) -> None:
        office, port = PostOffice(), find_free_port()
        add_mail(office, plain_target(port))
        for _ in range(MAX_ATTEMPTS):
            office.deliver_due()
            office.clock.advance(office.due_in() or 0.0)
        assert f"no response from `127.0.0.1:{port}`" in office.existing().record["problem"]
        assert delivery_state(office.existing()) == "undelivered"

    def test_a_process_that_stops_does_not_wait(self) -> None:
        stopping = threading.Event()
        stopping.set()
        office = PostOffice(stopping=stopping)
        with mail_server(box := MailBox()) as port:
            add_mail(office, plain_target(port))
            office.deliver_due()
        assert box.envelopes == []
        assert office.existing().record["is_sending"]

    def test_a_certificate_that_is_not_trusted_is_refused(
        self, certificate: tuple[ssl.SSLContext, Path]
    ) -> None:
        box, office = MailBox(), PostOffice()
        with mail_server(box, tls_context=certificate[0]) as port:
            office.add_channel(f"smtp://localhost:{port}?{MAILBOXES}", type="email")
            office.add()
            office.deliver_due()
        assert box.envelopes == []
        assert "certificate verify failed" in office.existing().record["problem"]

    def test_a_login_that_is_not_offered_pauses_the_channel(
        self, certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context, file = certificate
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        monkeypatch.setattr(SMTP, "AuthLoginUsernameChallenge", "Name:")
        box, office = MailBox(), PostOffice(secret_hosts=HOSTS, environ=ENVIRON)
        options: dict[str, Any] = {"tls_context": context, "authenticator": authenticate}
        with mail_server(box, **options, auth_exclude_mechanism=["PLAIN", "LOGIN"]) as port:
            target = f"smtp://noetl@localhost:{port}/?{MAILBOXES}"
            add_mail(office, target, settings={"secret": "{{ secrets.MAIL }}"})
            office.deliver_due()
        assert "refused the login: 504" in office.store.channels.get("default", "ops").paused_reason

    @pytest.mark.parametrize(
        "challenge",
        [b"334 A\r\n", b"334 =\xff=\r\n", b"334 /w==\r\n", b"334\r\n", b"334 " + b"QUJD" * 1900 + b"\r\n"],
    )
    @pytest.mark.parametrize("mechanisms", [b"CRAM-MD5", b"LOGIN", b"PLAIN LOGIN"])
    def test_a_login_with_a_strange_challenge_ends_in_a_refusal(
        self,
        certificate: tuple[ssl.SSLContext, Path],
        monkeypatch: pytest.MonkeyPatch,
        challenge: bytes,
        mechanisms: bytes,
    ) -> None:
        context, file = certificate
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        office = PostOffice(secret_hosts=HOSTS, environ=ENVIRON)
        answers = [b"220 hi\r\n", b"250-hi\r\n250 AUTH " + mechanisms + b"\r\n", *[challenge] * 3]
        with scripted_server(*answers, b"535 no\r\n", b"535 no\r\n", context=context) as port:
            target = f"smtps://noetl@localhost:{port}/?{MAILBOXES}"
            add_mail(office, target, settings={"secret": "{{ secrets.MAIL }}"})
            office.deliver_due()
        reason = office.store.channels.get("default", "ops").paused_reason
        problem = reason or office.existing().record["problem"]
        assert problem.startswith((f"`localhost:{port}` refused", "no response from"))


class TestRules:
    def test_an_address_inside_is_refused(self) -> None:
        box, office = MailBox(), PostOffice()
        courier = replace(office.courier, sender=Sender())
        with mail_server(box) as port:
            office.add_channel(plain_target(port), type="email")
            courier.deliver(office.add(), START)
        assert box.envelopes == []
        assert "`email` must not reach" in office.existing().record["problem"]

    @pytest.mark.parametrize(
        ("hosts", "environ", "problem"),
        [
            (SecretHosts(), ENVIRON, "secret `MAIL` must not go to"),
            (HOSTS, {}, "unknown secret `MAIL`"),
            (HOSTS, {"NOETL_SECRET_MAIL": "ein längeres Wort"}, "must be in ASCII"),
        ],
    )
    def test_a_password_that_must_not_be_used_fails(
        self, hosts: SecretHosts, environ: dict[str, str], problem: str
    ) -> None:
        office = PostOffice(secret_hosts=hosts, environ=environ)
        target = f"smtps://noetl@127.0.0.1:1/?{MAILBOXES}"
        add_mail(office, target, settings={"secret": "{{ secrets.MAIL }}"})
        office.deliver_due()
        assert problem in office.existing().record["problem"]

    @pytest.mark.parametrize(
        ("target", "problem"),
        [
            ("mailto:ops@receiver.test", "must begin with smtps://"),
            (f"http://mail.test?{MAILBOXES}", "must begin with smtps://"),
            (f"smtp://?{MAILBOXES}", "must begin with smtps://"),
            (f"smtp://mail.test:port?{MAILBOXES}", "must be a URL"),
            ("smtp://mail.test?from", "must be a URL"),
            (f"smtps://me:word@mail.test?{MAILBOXES}", "must not contain a password"),
            (f"smtps://mail.test/path?{MAILBOXES}", "must have the form"),
            (f"smtps://@mail.test?{MAILBOXES}", "must have 1 to 200 characters"),
            (f"smtps://a%0ab@mail.test?{MAILBOXES}", "must have 1 to 200 characters"),
            (f"smtp://me@mail.test?{MAILBOXES}&tls=none", "needs TLS"),
            (f"smtps://mail.test?{MAILBOXES}&tls=none", "must be `none`"),
            (f"smtp://mail.test?{MAILBOXES}&tls=off", "must be `none`"),
            ("smtp://mail.test", "must have `from` and `to`"),
            (f"smtp://mail.test?{MAILBOXES}&cc=a@b.test", "must have `from` and `to`"),
            ("smtp://mail.test?from=a@b.test&to=", "must be addresses such as"),
            ("smtp://mail.test?from=a@b.test&to=a%0d%0aRCPT@b.test", "must be addresses such as"),
            ("smtp://mail.test?from=ä@b.test&to=a@b.test", "must be addresses such as"),
            (
                f"smtp://mail.test?from=a@b.test&to={','.join(f'a{n}@b.test' for n in range(21))}",
                "at most 20",
            ),
        ],
    )
    def test_an_address_that_names_no_mail_server_is_refused(self, target: str, problem: str) -> None:
        with pytest.raises(ActionError, match=r".") as caught:
            parse_mail_target(target)
        assert (caught.value.type, problem in caught.value.message) == ("ParameterError", True)

    def test_an_address_has_a_port_by_its_scheme(self) -> None:
        implicit = parse_mail_target(f"smtps://noetl%40a.test@mail.test/?{MAILBOXES}")
        assert (implicit.port, implicit.security, implicit.user) == (465, "tls", "noetl@a.test")
        later = parse_mail_target(f"smtp://mail.test?{MAILBOXES}&to=b@b.test,ops@receiver.test")
        assert (later.port, later.security, later.user) == (587, "starttls", None)
        assert later.recipients == ("ops@receiver.test", "b@b.test")
        assert len(later.recipients) < MAX_RECIPIENTS
