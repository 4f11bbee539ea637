"""Servers that send too much, too slowly, or something other than HTTP."""

from __future__ import annotations

import gzip
import re
import resource
import select
import socket
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.actions import handler, http
from noetl.executor.clients import egress
from noetl.executor.errors import ActionError
from tests.action_calls import create_call, perform_action
from tests.http_server import StubExchange, serve


def fail_request(answer: Callable[[StubExchange], None], **parameters: Any) -> ActionError:
    with serve(answer) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=server.url(), **parameters)
    return caught.value


def test_a_body_longer_than_allowed_is_refused() -> None:
    error = fail_request(lambda exchange: exchange.reply(200, b"x" * 1001), max_bytes=1000)
    assert (error.type, error.retryable) == ("LimitExceeded", False)
    with serve(lambda exchange: exchange.reply(200, b"x" * 1000)) as server:
        assert len(perform_action("http", url=server.url(), max_bytes=1000)["body"]) == 1000


def send_endless_body(exchange: StubExchange) -> None:
    exchange.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        exchange.wfile.write(b"x" * 65536)


def test_an_endless_body_is_refused() -> None:
    assert fail_request(send_endless_body).type == "LimitExceeded"


def send_compression_bomb(exchange: StubExchange) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = b"".join(packer.compress(b"\0" * 1024 * 1024) for _ in range(500)) + packer.flush()
    exchange.reply(200, packed, content_encoding="gzip")


def test_a_compression_bomb_is_not_decompressed() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = fail_request(send_compression_bomb)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert error.type == "LimitExceeded"
    assert after - before < 100 * 1024


def test_a_nested_compression_bomb_is_refused() -> None:
    packed = gzip.compress(gzip.compress(b"\0" * 1_000_000))
    error = fail_request(lambda exchange: exchange.reply(200, packed, content_encoding="gzip, gzip"))
    assert (error.type, error.retryable) == ("ConnectionFailed", False)


def drip_feed(head: bytes, chunk: bytes) -> Callable[[StubExchange], None]:
    """Return an answer that sends `chunk` repeatedly until the client disconnects."""

    def answer(exchange: StubExchange) -> None:
        exchange.wfile.write(head)
        while not select.select([exchange.connection], [], [], 0.02)[0]:
            exchange.wfile.write(chunk)

    return answer


@pytest.mark.parametrize(
    ("head", "chunk"),
    [(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), (b"HTTP/1.1 200 OK\r\nx: ", b"x")],
    ids=["body", "headers"],
)
def test_a_slow_response_ends_at_the_deadline(head: bytes, chunk: bytes) -> None:
    error = fail_request(drip_feed(head, chunk), seconds=0.5)
    assert (error.type, error.retryable) == ("Timeout", True)


def stay_silent(exchange: StubExchange) -> None:
    """Send nothing until the client disconnects, or for half a second."""
    if not select.select([exchange.connection], [], [], 0.5)[0]:
        exchange.reply(200, b"at last")


def test_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "MAX_IDLE_SECONDS", 0.1)
    error = fail_request(stay_silent)
    assert (error.type, error.retryable) == ("Timeout", True)
    reason = "did not answer in time: it sent nothing for 0.1 s; set `timeout` to wait longer"
    assert re.fullmatch(rf"GET http://127\.0\.0\.1:(\d+)/: `127\.0\.0\.1:\1` {reason}", error.message)


def test_a_timeout_extends_the_wait_for_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "MAX_IDLE_SECONDS", 0.1)
    with serve(stay_silent) as server:
        call = replace(create_call("http", {"url": server.url()}), timeout_seconds=20)
        assert handler("http")(call)["body"] == "at last"


def test_a_slow_response_without_a_timeout_ends_after_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DEFAULT_TIMEOUT_SECONDS", 0.3)
    assert fail_request(drip_feed(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), seconds=60).type == "Timeout"


def test_a_server_that_reads_slowly_does_not_extend_the_deadline() -> None:
    is_done = threading.Event()
    received_sizes: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            client, _ = listener.accept()
            with client:
                while chunk := client.recv(64 * 1024):
                    received_sizes.append(len(chunk))
                    is_done.wait(0.01)

        reader = threading.Thread(target=take)
        reader.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(ActionError) as caught:
            perform_action("http", url=url, method="POST", body="x" * 32 * 1024 * 1024, seconds=0.5)
        is_done.set()
        reader.join()
    assert caught.value.type == "Timeout"
    assert sum(received_sizes) < 31 * 1024 * 1024


@pytest.mark.parametrize("most", [-1, 256 * 1024 * 1024 + 1])
def test_the_limit_of_the_body_has_a_maximum(most: int) -> None:
    error = fail_request(lambda exchange: exchange.reply(200), max_bytes=most)
    assert (error.type, error.retryable) == ("ParameterError", False)


def test_the_size_of_all_pages_together_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LARGEST_BYTES", 10_000)
    paginate = {"next": "/again", "max_pages": 1_000_000}
    error = fail_request(
        lambda exchange: exchange.reply(200, b"x" * 3_000), paginate=paginate, max_bytes=5_000
    )
    assert (error.type, error.retryable) == ("LimitExceeded", False)


def test_a_json_body_with_too_many_values_is_not_parsed() -> None:
    body = b"[" + b"[]," * 3_000_000 + b"[]]"
    error = fail_request(lambda exchange: exchange.reply(200, body, content_type="application/json"))
    assert (error.type, error.message) == ("LimitExceeded", "the content has more than 5,000,000 values")


def test_endless_headers_are_refused() -> None:
    def answer(exchange: StubExchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            exchange.wfile.write(b"x: " + b"y" * 1000 + b"\r\n")

    assert fail_request(answer).type == "ConnectionFailed"


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-x\r\n",
        b"\0" * 100,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"",
    ],
)
def test_responses_that_are_not_http_are_refused(raw: bytes) -> None:
    def answer(exchange: StubExchange) -> None:
        exchange.wfile.write(raw)
        exchange.close_connection = True

    assert fail_request(answer).type == "ConnectionFailed"
