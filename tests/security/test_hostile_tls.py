"""Servers that send records of TLS without end: each operation is checked again after some of them."""

from __future__ import annotations

import math
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpcore
import pytest

from noetl.executor.clients import time_limit as limits
from noetl.executor.clients.deadline_stream import DeadlineStream, connect
from noetl.executor.errors import CancelledError
from tests.certificates import write_certificate
from tests.security.hostile_server import HostileServer, serve_hostile

TICKETS = 2_000
ANSWER = b"answer"


class TicketTalk:
    """A server that sends thousands of session tickets in one go, and then its answer.

    A ticket has no content for the client. Its `sent` is set when all bytes have left.
    """

    def __init__(self, certificate: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._context.num_tickets = TICKETS
        self.sent = threading.Event()
        self.flood_bytes = 0

    def __call__(self, client: socket.socket, server: HostileServer) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                server.send(client, outgoing.read())
                incoming.write(client.recv(65536))
        tls.write(ANSWER)
        flood = outgoing.read()
        self.flood_bytes = len(flood)
        # The buffers of the system take all of it before the client reads.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(flood))
        server.send(client, flood)
        self.sent.set()
        while not server.is_left(client, 0.1):
            pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def talk(certificate: Path) -> TicketTalk:
    return TicketTalk(certificate)


@pytest.fixture
def stream(talk: TicketTalk, certificate: Path) -> Iterator[DeadlineStream]:
    """Yield a stream whose server has sent everything before the first read."""
    context = ssl.create_default_context(cafile=certificate)
    with serve_hostile(talk) as server, limits.time_limit(math.inf):
        secured = connect("127.0.0.1", server.port, 10).start_tls(context, "localhost")
        assert talk.sent.wait(30)
        try:
            yield secured
        finally:
            secured.close()


def test_the_time_is_checked_between_the_records_of_one_read(
    stream: DeadlineStream, talk: TicketTalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = 0
    check_time = limits.check_time

    def count() -> None:
        nonlocal checks
        checks += 1
        check_time()

    monkeypatch.setattr(limits, "check_time", count)
    assert stream.read(65536) == ANSWER
    assert checks > talk.flood_bytes // 32_768


def test_a_cancellation_ends_a_read_of_records_without_content(
    stream: DeadlineStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = threading.Event()
    check_time = limits.check_time
    checks = iter(range(100))

    def cancel_at_the_third() -> None:
        if next(checks) == 2:
            cancelled.set()
        check_time()

    monkeypatch.setattr(limits, "check_time", cancel_at_the_third)
    with limits.time_limit(math.inf, cancelled=cancelled), pytest.raises(CancelledError):
        stream.read(65536)


def test_an_answer_is_read_from_a_server_that_takes_no_more_of_the_request(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def answer_early(client: socket.socket, server: HostileServer) -> None:
        # The answer leaves before the connection is reset, although the tickets were not acknowledged.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(client, server_side=True) as secured:
            secured.recv(1)
            secured.send(ANSWER)

    client_context = ssl.create_default_context(cafile=certificate)
    with serve_hostile(answer_early) as server, limits.time_limit(math.inf):
        stream = connect("127.0.0.1", server.port, 10).start_tls(client_context, "localhost")
        try:
            with pytest.raises(httpcore.WriteError):
                stream.write(b"x" * 50_000_000)
            assert stream.read(65536) == ANSWER
        finally:
            stream.close()
