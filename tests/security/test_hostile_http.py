"""Servers of HTTP that never end: each request ends with its deadline, or with its run."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from noetl.executor.actions import action, handler
from noetl.executor.clients import egress
from noetl.executor.clients.deadline_stream import MAX_INFORMATIONAL
from noetl.executor.clients.time_limit import SLICE_SECONDS
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.arriving_data import Arrivals
from noetl.testing.actions import ActionTester
from tests.action_calls import LOCAL, perform_action
from tests.http_server import StubExchange, serve
from tests.security.hostile_server import HostileServer, Talk, serve_hostile


def read_request(client: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)


def hint_for_ever(client: socket.socket, server: HostileServer) -> None:
    read_request(client)
    while not server.closing.is_set():
        server.send(client, b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


def drip_hints(client: socket.socket, server: HostileServer) -> None:
    read_request(client)
    while not server.is_left(client, 0.02):
        server.send(client, b"HTTP/1.1 103 Early Hints\r\n\r\n")


def drip(head: bytes) -> Talk:
    def talk(client: socket.socket, server: HostileServer) -> None:
        read_request(client)
        server.send(client, head)
        while not server.is_left(client, 0.02):
            server.send(client, b"x")

    return talk


def drip_chunks(client: socket.socket, server: HostileServer) -> None:
    read_request(client)
    server.send(client, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while not server.is_left(client, 0.02):
        server.send(client, b"1\r\nx\r\n")


def stay_silent(client: socket.socket, server: HostileServer) -> None:
    while not server.is_left(client, 0.1) or not server.closing.is_set():
        if not client.recv(65536):
            return


def redirect_slowly(client: socket.socket, server: HostileServer) -> None:
    read_request(client)
    server.is_left(client, 0.2)
    server.send(
        client, b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )


ENDLESS = {
    "headers": drip(b"HTTP/1.1 200 OK\r\nx: "),
    "body": drip(b"HTTP/1.1 200 OK\r\n\r\n"),
    "long body": drip(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n"),
    "error body": drip(b"HTTP/1.1 500 Oh\r\n\r\n"),
    "chunks": drip_chunks,
    "silence": stay_silent,
}


@pytest.mark.parametrize("talk", ENDLESS.values(), ids=ENDLESS.keys())
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_deadline_ends_every_part_of_an_answer(talk: Talk, scheme: str) -> None:
    with serve_hostile(stay_silent if scheme == "https" else talk) as server:
        with pytest.raises(ActionError) as caught:
            perform_action("http", url=f"{scheme}://127.0.0.1:{server.port}/", seconds=0.5)
        assert caught.value.type == "Timeout"


@pytest.mark.parametrize("talk", ENDLESS.values(), ids=ENDLESS.keys())
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cancellation_of_the_run_ends_every_part_of_an_answer(talk: Talk, scheme: str) -> None:
    with serve_hostile(stay_silent if scheme == "https" else talk) as server:
        tester = ActionTester("http", LOCAL, seconds=600)

        def cancel() -> None:
            server.is_reached.wait(30)
            time.sleep(2 * SLICE_SECONDS)
            tester.cancelled.set()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        started = time.monotonic()
        with pytest.raises(CancelledError):
            tester.perform({"url": f"{scheme}://127.0.0.1:{server.port}/"})
        canceller.join()
    assert time.monotonic() - started < 60


def test_a_tls_handshake_that_does_not_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "CONNECT_SECONDS", 0.3)
    with serve_hostile(stay_silent) as server:
        with pytest.raises(ActionError) as caught:
            perform_action("http", url=f"https://127.0.0.1:{server.port}/", seconds=600)
        assert caught.value.type == "Timeout"


@pytest.mark.parametrize("talk", [hint_for_ever, drip_hints])
def test_a_server_may_send_only_some_informational_answers(talk: Talk) -> None:
    with serve_hostile(talk) as server:
        with pytest.raises(ActionError) as caught:
            perform_action("http", method="POST", url=f"http://127.0.0.1:{server.port}/", seconds=600)
        assert caught.value.type == "ConnectionFailed"
        assert caught.value.message.endswith("more than 20 informational answers")


def test_informational_answers_precede_an_answer() -> None:
    def talk(client: socket.socket, server: HostileServer) -> None:
        read_request(client)
        for byte in b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * MAX_INFORMATIONAL:
            server.send(client, bytes([byte]))
        server.send(
            client,
            b"HTTP/1.1 200 OK\r\ncontent-length: 36\r\n\r\n\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n\r\n\r\n",
        )

    with serve_hostile(talk) as server:
        answer = perform_action("http", url=f"http://127.0.0.1:{server.port}/")
    assert (answer["status"], len(answer["body"])) == (200, 36)


def test_redirects_share_one_deadline() -> None:
    with serve_hostile(redirect_slowly) as server:
        with pytest.raises(ActionError) as caught:
            url = f"http://127.0.0.1:{server.port}/"
            perform_action("http", url=url, follow_redirects=1_000_000, seconds=1)
        assert caught.value.type == "Timeout"


def test_a_body_of_10_gb_is_left_at_the_limit() -> None:
    block = b"x" * 1024 * 1024

    def talk(client: socket.socket, server: HostileServer) -> None:
        read_request(client)
        server.send(client, b"HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n")
        for _ in range(10 * 1024):
            server.send(client, block)

    with serve_hostile(talk) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=f"http://127.0.0.1:{server.port}/")
    assert caught.value.type == "LimitExceeded"
    assert server.sent < 64 * len(block)


def test_10_gb_in_10_mb_are_not_decompressed() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    start = packer.compress(b"\0" * 4 * 1024 * 1024) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"\0" * 4 * 1024 * 1024) + packer.flush(zlib.Z_FULL_FLUSH)

    def talk(client: socket.socket, server: HostileServer) -> None:
        read_request(client)
        server.send(client, b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + start)
        for _ in range(2560):
            server.send(client, block)

    with serve_hostile(talk) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=f"http://127.0.0.1:{server.port}/")
    assert caught.value.type == "LimitExceeded"


def test_compressed_bytes_without_content_count_too() -> None:
    empty = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS).flush()

    def talk(client: socket.socket, server: HostileServer) -> None:
        read_request(client)
        server.send(client, b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n")
        while not server.closing.is_set():
            server.send(client, empty * 10)

    with serve_hostile(talk) as server:
        with pytest.raises(ActionError) as caught:
            perform_action("http", url=f"http://127.0.0.1:{server.port}/", max_bytes=1000, seconds=600)
        assert caught.value.type == "LimitExceeded"


EMPTY_MEMBER = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS).flush()
GZIPPED = gzip.compress(b"hello", mtime=0)


def test_a_body_of_tiny_members_ends_with_its_deadline() -> None:
    """Each member of 20 bytes takes time of its own, so a body within its limit may take seconds."""

    def talk(client: socket.socket, server: HostileServer) -> None:
        read_request(client)
        server.send(client, b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n")
        while not server.closing.is_set():
            server.send(client, EMPTY_MEMBER * 1000)

    started = time.monotonic()
    with serve_hostile(talk) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=f"http://127.0.0.1:{server.port}/", max_bytes=67_108_864, seconds=0.3)
    assert caught.value.type == "Timeout"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("coding", "body", "message"),
    [
        (b"gzip, gzip, gzip", gzip.compress(gzip.compress(GZIPPED, mtime=0), mtime=0), "was not requested"),
        (b"gzip\r\ncontent-encoding: gzip", gzip.compress(GZIPPED, mtime=0), "was not requested"),
        (b"br", b"abc", "was not requested"),
        (b"g" * 5000, b"abc", "was not requested"),
        (b"gzip", b"plain text", "cannot be decompressed"),
        (b"deflate", b"plain text", "cannot be decompressed"),
        (b"gzip", GZIPPED + b"garbage", "cannot be decompressed"),
        (b"gzip", GZIPPED[:-8] + bytes(8), "cannot be decompressed"),
        (b"gzip", GZIPPED[:-5], "ends too early"),
        (b"gzip", GZIPPED[:10] + b"\0\0\0\xff\xff" * 1_000_000, "ends too early"),
        (b"gzip", b"\x1f\x8b\x08\x08\0\0\0\0\0\x03" + b"a" * 1_000_000, "ends too early"),
    ],
)
def test_a_body_that_is_not_compressed_as_declared_is_an_error(
    coding: bytes, body: bytes, message: str
) -> None:
    def talk(client: socket.socket, server: HostileServer) -> None:
        read_request(client)
        server.send(client, b"HTTP/1.1 200 OK\r\ncontent-encoding: " + coding + b"\r\n\r\n" + body)

    with serve_hostile(talk) as server, pytest.raises(ActionError, match=message) as caught:
        perform_action("http", url=f"http://127.0.0.1:{server.port}/")
    assert caught.value.type == "ConnectionFailed"


def test_a_lookup_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def silent(host: str, port: int) -> list[str]:
        end.wait()
        return []

    tester = ActionTester("http", LOCAL, seconds=600)
    threading.Timer(2 * SLICE_SECONDS, tester.cancelled.set).start()
    call = tester.create_call({"url": "http://x.test/"})
    monkeypatch.setattr(egress, "resolve_host", silent)
    original = egress.vetted_transport
    monkeypatch.setattr(
        egress, "vetted_transport", lambda networks, action: original(networks, action, silent)
    )
    with pytest.raises(CancelledError):
        handler("http")(call)
    end.set()


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arrivals]:
    """The budgets of a process with 64 MiB for answers."""
    arrivals = Arrivals(64 * 1024 * 1024)
    monkeypatch.setattr(action, "process_arrivals", lambda: arrivals)
    yield arrivals
    assert arrivals.process.reserved == 0


def test_answers_at_the_same_time_share_the_memory(small_memory: Arrivals) -> None:
    body = b"x" * 10 * 1024 * 1024
    most: list[int] = []

    def answer(exchange: StubExchange) -> None:
        exchange.reply(200, body)
        most.append(small_memory.process.reserved)

    lengths: list[int] = []
    with serve(answer) as server:

        def fetch() -> None:
            result = perform_action("http", url=server.url(), max_bytes=len(body), seconds=120)
            lengths.append(len(result["body"]))

        threads = [threading.Thread(target=fetch) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert lengths == [len(body)] * 16
    assert max(most) <= small_memory.process.limit


def test_json_counts_as_the_objects_that_it_becomes(small_memory: Arrivals) -> None:
    body = b"[" + b"[]," * 600_000 + b"[]]"
    with serve(lambda exchange: exchange.reply(200, body, content_type="application/json")) as server:
        with pytest.raises(ActionError) as caught:
            perform_action("http", url=server.url())
        assert (caught.value.type, caught.value.retryable) == ("LimitExceeded", False)
        assert "NOETL_ANSWER_MEMORY" in caught.value.message
    with serve(lambda exchange: exchange.reply(200, body)) as server:
        assert len(perform_action("http", url=server.url())["body"]) == len(body)


def test_pages_count_together(small_memory: Arrivals) -> None:
    with serve(lambda exchange: exchange.reply(200, b"x" * 3_000_000)) as server:
        with pytest.raises(ActionError) as caught:
            perform_action("http", url=server.url(), paginate={"next": "/again", "max_pages": 1000})
        assert "NOETL_ANSWER_MEMORY" in caught.value.message
        assert len(server.requests) < 15


def test_the_cancellation_of_the_run_ends_the_reading_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    tester = ActionTester("http", LOCAL, seconds=600)
    monkeypatch.setattr("noetl.executor.model.large_json.wait_for_slice", tester.cancelled.set)
    body = b"[" + b"1," * 500_000 + b"1]"
    with (
        serve(lambda exchange: exchange.reply(200, body, content_type="application/json")) as server,
        pytest.raises(CancelledError),
    ):
        tester.perform({"url": server.url()})
