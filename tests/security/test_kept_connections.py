"""Connections that are kept for the next request, and servers that close or poison them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.actions import handler
from noetl.executor.channels.http_post import HttpPost, parse_target
from noetl.executor.clients import connection_pool
from noetl.executor.errors import ActionError
from tests.action_calls import create_call, perform_action
from tests.certificates import write_certificate
from tests.http_server import StubExchange, serve

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"


@pytest.fixture(autouse=True)
def connections_settle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of these tests send all that follows an answer with it, unless a test says otherwise."""
    monkeypatch.setattr(connection_pool, "MAX_SETTLE_SECONDS", 0.0)


@contextmanager
def serve_connections(talk: Callable[[int, socket.socket], None]) -> Iterator[str]:
    """Yield the URL of a server that calls talk(number, connection) for each connection, from 1."""

    def accept() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            number += 1
            threading.Thread(target=talk, args=(number, connection), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)


def read_request(connection: socket.socket) -> bytes:
    """Return the head of a request; none at the end of the connection.

    Raises:
        ConnectionResetError: the client has closed it before it had read all bytes.
    """
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65_536)
        if not chunk:
            return b""
        data += chunk
    return data


class AnsweringServer:
    """A server that answers the first request of each connection, and closes it at the second."""

    def __init__(self, at_second: Callable[[socket.socket], None] = lambda _: None) -> None:
        self.received: list[bytes] = []
        self._at_second = at_second

    def __call__(self, number: int, connection: socket.socket) -> None:
        with connection:
            if read_request(connection):
                self.received.append(b"answered")
                connection.sendall(OK)
                if read_request(connection):
                    self.received.append(b"closed")
                    self._at_second(connection)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_a_kept_connection_that_ends_without_an_answer_is_replaced(method: str) -> None:
    server = AnsweringServer()
    with serve_connections(server) as url:
        for _ in range(3):
            assert perform_action("http", method=method, url=url)["body"] == "ok"
    assert server.received == [b"answered", b"closed", b"answered", b"closed", b"answered"]


def test_a_request_that_has_had_a_byte_of_its_answer_is_not_repeated() -> None:
    server = AnsweringServer(lambda connection: connection.sendall(b"HTTP/1.1 2"))
    with serve_connections(server) as url:
        perform_action("http", method="POST", url=url)
        with pytest.raises(ActionError) as caught:
            perform_action("http", method="POST", url=url)
    assert (caught.value.type, caught.value.retryable) == ("ConnectionFailed", True)
    assert server.received == [b"answered", b"closed"]


def test_a_new_connection_that_ends_without_an_answer_fails_a_post() -> None:
    numbers: list[int] = []

    def hang_up(number: int, connection: socket.socket) -> None:
        with connection:
            numbers.append(number)
            read_request(connection)

    with serve_connections(hang_up) as url, pytest.raises(ActionError) as caught:
        perform_action("http", method="POST", url=url)
    assert (caught.value.type, numbers) == ("ConnectionFailed", [1])


@pytest.mark.parametrize(
    "surplus", [b"x", b"\r\n", OK.replace(b"ok", b"no"), b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_bytes_after_an_answer_answer_no_other_request(surplus: bytes) -> None:
    numbers: list[int] = []

    def talk(number: int, connection: socket.socket) -> None:
        with connection, suppress(ConnectionResetError):
            while read_request(connection):
                numbers.append(number)
                connection.sendall(OK + (surplus if number == 1 else b""))

    with serve_connections(talk) as url:
        assert [perform_action("http", url=url)["body"] for _ in range(3)] == ["ok", "ok", "ok"]
    assert numbers == [1, 2, 2]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", OK),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\nok"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok"),
        ("GET", CHUNKED + b"0\r\n\r\n"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\n\r\n" + CHUNKED + OK.replace(b"ok", b"no")),
    ],
)
def test_a_body_that_an_answer_must_not_have_answers_no_other_request(method: str, answer: bytes) -> None:
    numbers: list[int] = []

    def talk(number: int, connection: socket.socket) -> None:
        with connection, suppress(ConnectionResetError):
            while read_request(connection):
                numbers.append(number)
                connection.sendall(answer if number == 1 else OK)

    with serve_connections(talk) as url:
        perform_action("http", method=method, url=url)
        assert [perform_action("http", url=url)["body"] for _ in range(2)] == ["ok", "ok"]
    assert numbers == [1, 2, 2]


def test_bytes_that_arrive_after_an_answer_answer_no_other_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nagle's algorithm holds back what a server writes after the answer."""
    monkeypatch.setattr(connection_pool, "MAX_SETTLE_SECONDS", 60.0)
    monkeypatch.setattr(connection_pool, "SETTLE_SECONDS", 60.0)
    surplus_is_sent = threading.Event()

    def talk(number: int, connection: socket.socket) -> None:
        with connection, suppress(ConnectionResetError):
            while read_request(connection):
                connection.sendall(OK)
                if number == 1:
                    connection.sendall(OK.replace(b"ok", b"no"))
                    surplus_is_sent.set()

    with serve_connections(talk) as url:
        assert perform_action("http", url=url)["body"] == "ok"
        assert perform_action("http", url=url)["body"] == "ok"
        assert surplus_is_sent.wait(5.0)
        monkeypatch.setattr(connection_pool, "MAX_SETTLE_SECONDS", 0.0)
        assert perform_action("http", url=url)["body"] == "ok"


class LateServer:
    """A server that answers again just after it has received the second request of a connection."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, number: int, connection: socket.socket) -> None:
        with connection:
            read_request(connection)
            self.numbers.append(number)
            connection.sendall(OK)
            if read_request(connection):
                self.numbers.append(number)
                connection.sendall(OK.replace(b"ok", b"no"))


def perform_in_run(run_id: str, url: str) -> Any:
    """Return the body of the answer to a request of a run."""
    call = create_call("http", {"url": url})
    return handler("http")(replace(call, labels={**call.labels, "run": run_id}))["body"]


def test_bytes_that_arrive_after_the_next_request_never_answer_another_run() -> None:
    server = LateServer()
    with serve_connections(server) as url:
        assert [perform_in_run(run_id, url) for run_id in ("a", "b", "a", "c")] == ["ok", "ok", "no", "ok"]
    assert server.numbers == [1, 2, 1, 3]


def test_a_request_of_a_channel_shares_no_connection() -> None:
    server = LateServer()
    with serve_connections(server) as url:
        for _ in range(2):
            request = HttpPost("webhook", parse_target(url), {}, b"{}")
            assert request.send(("127.0.0.0/8",), threading.Event()) is None
    assert server.numbers == [1, 2]


def test_a_request_waits_a_little_for_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that serves one connection at a time would not accept another one."""
    monkeypatch.setattr(connection_pool, "MAX_SETTLE_SECONDS", connection_pool.MAX_WAIT_SECONDS)
    with serve(lambda exchange: exchange.reply()) as server:
        for _ in range(3):
            perform_action("http", url=server.url())
    assert len(server.connections) == 1


def test_an_answer_that_is_left_early_ends_its_connection() -> None:
    def answer(exchange: StubExchange) -> None:
        exchange.reply(200, b"x" * 1000)

    with serve(answer) as server:
        with pytest.raises(ActionError) as caught:
            perform_action("http", url=server.url(), max_bytes=10)
        assert caught.value.type == "LimitExceeded"
        assert len(perform_action("http", url=server.url())["body"]) == 1000
    assert len(server.connections) == 2


def test_a_certificate_that_is_not_trusted_is_final(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(tmp_path))
    numbers: list[int] = []

    def shake_hands(number: int, connection: socket.socket) -> None:
        numbers.append(number)
        with connection, suppress(OSError):
            context.wrap_socket(connection, server_side=True)

    with serve_connections(shake_hands) as url, pytest.raises(ActionError) as caught:
        perform_action("http", url=url.replace("http:", "https:"))
    assert (caught.value.type, caught.value.retryable, numbers) == ("ConnectionFailed", False, [1])
    assert "self-signed certificate" in caught.value.message


def test_an_old_connection_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_pool, "KEPT_SECONDS", 0.0)
    with serve(lambda exchange: exchange.reply()) as server:
        for _ in range(2):
            perform_action("http", url=server.url())
    assert len(server.connections) == 2


def test_the_number_of_kept_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        with serve(lambda exchange: exchange.reply()) as earlier:
            perform_action("http", url=earlier.url())
    monkeypatch.setattr(connection_pool, "MAX_KEPT", 1)
    with (
        serve(lambda exchange: exchange.reply()) as first,
        serve(lambda exchange: exchange.reply()) as second,
    ):
        for server in (first, second, first, second):
            perform_action("http", url=server.url())
    assert (len(first.connections), len(second.connections)) == (2, 2)


def test_threads_share_connections_and_never_use_one_at_the_same_time() -> None:
    """Each connection serves one request at a time, so an answer has the number of its request."""

    def answer(exchange: StubExchange) -> None:
        exchange.reply(200, exchange.received.target.encode())

    def ask(number: int) -> tuple[str, str]:
        path = f"/{number}"
        return path, perform_action("http", method="POST", url=server.url(path))["body"]

    with serve(answer) as server, ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(600)))
    assert all(path == body for path, body in answers)
    assert len(server.connections) < 300
