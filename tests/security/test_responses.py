"""Servers that send too much, too slowly or what they were not asked for."""

from __future__ import annotations

import gzip
import resource
import select
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from executor.errors import ActionError
from tests.calls import perform
from tests.http_server import Exchange, serve


def failure(answer: Callable[[Exchange], None], **parameters: Any) -> ActionError:
    with serve(answer) as server, pytest.raises(ActionError) as caught:
        perform("http", url=server.url(), **parameters)
    return caught.value


def test_a_body_longer_than_allowed() -> None:
    error = failure(lambda exchange: exchange.reply(200, b"x" * 1001), max_bytes=1000)
    assert (error.type, error.retryable) == ("LimitExceeded", False)
    with serve(lambda exchange: exchange.reply(200, b"x" * 1000)) as server:
        assert len(perform("http", url=server.url(), max_bytes=1000)["body"]) == 1000


def endless(exchange: Exchange) -> None:
    exchange.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        exchange.wfile.write(b"x" * 65536)


def test_a_body_without_an_end() -> None:
    assert failure(endless).type == "LimitExceeded"


def bomb(exchange: Exchange) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = b"".join(packer.compress(b"\0" * 1024 * 1024) for _ in range(500)) + packer.flush()
    exchange.reply(200, packed, content_encoding="gzip")


def test_a_bomb_is_not_unpacked() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = failure(bomb)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert error.type == "LimitExceeded"
    assert after - before < 100 * 1024


def test_a_bomb_in_a_bomb_is_refused() -> None:
    packed = gzip.compress(gzip.compress(b"\0" * 1_000_000))
    error = failure(lambda exchange: exchange.reply(200, packed, content_encoding="gzip, gzip"))
    assert (error.type, error.retryable) == ("ConnectionFailed", False)


def drip(head: bytes, piece: bytes) -> Callable[[Exchange], None]:
    """Sends a piece every now and then until the client is gone."""

    def answer(exchange: Exchange) -> None:
        exchange.wfile.write(head)
        while not select.select([exchange.connection], [], [], 0.02)[0]:
            exchange.wfile.write(piece)

    return answer


@pytest.mark.parametrize(
    ("head", "piece"),
    [(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), (b"HTTP/1.1 200 OK\r\nx: ", b"x")],
    ids=["body", "headers"],
)
def test_a_slow_drip_ends_with_the_time_of_the_action(head: bytes, piece: bytes) -> None:
    error = failure(drip(head, piece), seconds=0.5)
    assert (error.type, error.retryable) == ("Timeout", True)


def test_headers_without_an_end() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            exchange.wfile.write(b"x: " + b"y" * 1000 + b"\r\n")

    assert failure(answer).type == "ConnectionFailed"


@pytest.mark.parametrize(
    "raw",
    [b"SSH-2.0-x\r\n", b"\0" * 100, b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", b""],
)
def test_what_is_not_http(raw: bytes) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.wfile.write(raw)
        exchange.close_connection = True

    assert failure(answer).type == "ConnectionFailed"
