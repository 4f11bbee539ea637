"""Clients that do not finish their requests, and more connections than a server accepts."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Message
from uvicorn.protocols.http.h11_impl import H11Protocol

from noetl.api import connections as connections_module
from noetl.api import context, reading_queue
from noetl.api.app import create_app
from noetl.api.connections import (
    ConnectionTable,
    allow_connections,
    read_max_connections,
    read_send_seconds,
    timed_protocol,
)
from noetl.api.http import body_memory, open_bodies
from noetl.api.http.body_memory import BodyHold, BodyMemory, WaitingBytes
from noetl.api.http.open_bodies import OpenBodies
from noetl.api.http.problems import Problem
from noetl.api.http.request_shares import RequestPlace
from noetl.api.http.unsent_answers import PART_BYTES, PART_SECONDS, AnswerBudget, UnsentAnswersMiddleware
from noetl.api.reading_queue import FIRST_READ_BYTES, READ_BYTES, ReadingQueue
from noetl.executor.errors import SettingError

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = (
    b"POST /plan HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/yaml\r\nContent-Length: 1000\r\n\r\n"
)


@contextmanager
def serve(app: Any, table: ConnectionTable) -> Iterator[int]:
    """Serve an app with the protocol of `noetl serve` in a thread, and yield its port."""
    config = uvicorn.Config(
        app, http=timed_protocol(table), ws="none", log_level="critical", access_log=False
    )
    server = uvicorn.Server(config)
    # asyncio sends small packets at once only if a socket names its protocol. Else each answer takes 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def ask(client: socket.socket, request: bytes = REQUEST) -> bytes:
    client.sendall(request)
    return client.recv(4096)


def read_until_closed(client: socket.socket, drip: bytes = b"") -> bytes:
    """Return what the server sends until it closes the connection. Send `drip` again and again meanwhile."""
    received = b""
    client.settimeout(0.1 if drip else 60)
    with suppress(ConnectionError):
        while True:
            try:
                chunk = client.recv(4096)
            except TimeoutError:
                client.sendall(drip)
                continue
            if not chunk:
                break
            received += chunk
    return received


@pytest.mark.parametrize(
    ("start", "drip"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\n", b""),
        (b"GET / HTTP/1.1\r\nX: ", b"x"),
        (REQUEST, b""),
        (REQUEST, b"G"),
    ],
    ids=["silent", "unfinished", "dripping", "idle", "dripping later"],
)
def test_a_connection_without_a_header_is_closed(start: bytes, drip: bytes) -> None:
    table = ConnectionTable(100, header_seconds=0.3)
    with serve(answer, table) as port, ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(5)]
        for client in clients:
            client.sendall(start)
        for client in clients:
            assert read_until_closed(client, drip).startswith(b"HTTP/1.1 200" if start == REQUEST else b"")
        assert table.closed >= len(clients)
        assert len(table) == 0


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nIdempotency-Key: " + b"k" * 60_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nIdempotency-Key: " + b"k" * 1_000_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\x00: 1\r\n\r\n" + b"x" * 1_000_000, 400),
    ],
    ids=["60 kB", "1 MB", "malformed"],
)
def test_a_header_that_is_refused_is_answered(request_bytes: bytes, status: int) -> None:
    table = ConnectionTable(100, header_seconds=0.5)
    with serve(answer, table) as port:
        with connect(port) as client:
            client.sendall(request_bytes)
            head, _, body = read_until_closed(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == status
        with connect(port) as client:
            client.sendall(request_bytes)
            read_until_closed(client)
            with suppress(ConnectionError):
                while True:
                    client.sendall(b"x" * 1000)
                    time.sleep(0.01)
        assert is_empty_soon(table)


async def answer_slowly(scope: Any, receive: Any, send: Any) -> None:
    """Begin an answer, and end it when the client has sent or left."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    await receive()
    await send({"type": "http.response.body", "body": b"x"})


@pytest.mark.parametrize(
    ("application", "parts", "status"),
    [
        (answer, [b"zz\r\n"], 400),
        (answer, [b"", b"zz\r\n"], 200),
        (answer_slowly, [b"zz\r\n"], 400),
        (answer_slowly, [b"", b"zz\r\n"], 200),
    ],
    ids=["before the answer", "after the answer", "before a slow answer", "within a slow answer"],
)
def test_a_body_that_cannot_be_parsed_ends_its_request(
    application: Any, parts: list[bytes], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has no traceback: any client could write thousands of lines."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    table = ConnectionTable(100)
    with serve(application, table) as port:
        server_log = logging.getLogger("uvicorn.error")
        server_log.setLevel(logging.ERROR)
        server_log.addHandler(caplog.handler)
        with connect(port) as client:
            client.sendall(head + parts[0])
            for part in parts[1:]:
                time.sleep(0.3)
                client.sendall(part)
            answered = read_until_closed(client)
        server_log.removeHandler(caplog.handler)
        assert is_empty_soon(table)
    assert answered.startswith(b"HTTP/1.1 %d " % status)
    assert answered.count(b"HTTP/1.1 ") == 1
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def is_empty_soon(table: ConnectionTable) -> bool:
    """Return whether the connections of a table are closed after some seconds."""
    deadline = time.monotonic() + 10
    while len(table) and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(table) == 0


LAST_PART = 16_000_000
"""More bytes than the buffers of the system have."""


class Endless:
    """An app that sends parts of a response until the client has gone. `ended` is set then."""

    def __init__(self, parts: int = 1_000_000) -> None:
        self.parts = parts
        self.ended = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(self.parts):
                await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})
            await send({"type": "http.response.body", "body": b"y" * LAST_PART})
        finally:
            self.ended.set()


def test_a_client_that_does_not_read_is_closed() -> None:
    app, table = Endless(), ConnectionTable(100, send_seconds=0.2)
    with serve(app, table) as port, connect(port) as client:
        client.sendall(REQUEST)
        assert app.ended.wait(60)
        assert table.closed == 1
        assert len(table) == 0


def test_a_client_that_reads_slowly_gets_all() -> None:
    app, table = Endless(parts=1), ConnectionTable(100, header_seconds=0.05, send_seconds=5.0)
    with serve(app, table) as port, connect(port) as client:
        client.sendall(REQUEST)
        assert app.ended.wait(60)
        received = 0
        while received < LAST_PART:
            part = client.recv(65_536)
            assert part, f"closed after {received} bytes"
            received += len(part)
            time.sleep(0.002)


def test_the_rest_of_a_response_that_is_not_read_is_closed() -> None:
    app, table = Endless(parts=0), ConnectionTable(100, header_seconds=0.05, send_seconds=0.2)
    with serve(app, table) as port, connect(port) as client:
        client.sendall(REQUEST)
        assert app.ended.wait(60)
        while len(table):
            time.sleep(0.01)
        assert table.closed == 1


def test_answers_that_are_not_read_are_limited() -> None:
    body = b"x" * LAST_PART

    async def send_large(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    budget, table = AnswerBudget(2 * LAST_PART), ConnectionTable(100, send_seconds=1000.0)
    app = UnsentAnswersMiddleware(send_large, budget, lambda _: "a")
    with serve(app, table) as port, connect(port) as reader, connect(port) as other:
        reader.sendall(REQUEST)
        assert reader.recv(100).startswith(b"HTTP/1.1 200")
        assert budget.reserved_bytes == LAST_PART
        refusal = ask(other)
        assert refusal.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 5" in refusal or b"retry-after: 5" in refusal
        while b"urn:noetl:problem:too-many-answers" not in refusal:
            refusal += other.recv(4096)
        received = 100
        while received < LAST_PART:
            received += len(reader.recv(1_000_000))
        wait_until_sent(budget)
        with connect(port) as later:
            assert ask(later).startswith(b"HTTP/1.1 200")
        wait_until_sent(budget)  # Its client has left.


@pytest.mark.anyio
async def test_other_requests_have_their_turns_between_the_parts_of_an_answer() -> None:
    passes = 0
    passes_before: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send_large(scope: Any, receive: Any, send: Any) -> None:
        body = b"x" * (5 * PART_BYTES)
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def send_at_once(message: Message) -> None:
        if "body" in message:
            passes_before.append(passes)

    async def pass_often() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    app = UnsentAnswersMiddleware(send_large, AnswerBudget(), lambda _: "a")
    other = asyncio.ensure_future(pass_often())
    await app({"type": "http", "path": "/"}, receive, send_at_once)
    other.cancel()
    assert len(set(passes_before)) == 5


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Return a list of the pauses from now on: their time, and how many there are at the same time."""
    pausing, pauses, sleep = 0, list[tuple[float, int]](), asyncio.sleep

    async def count_pauses(seconds: float) -> None:
        nonlocal pausing
        pausing += 1
        pauses.append((seconds, pausing))
        await sleep(0.001)
        pausing -= 1

    monkeypatch.setattr("noetl.api.http.part_pauses.asyncio.sleep", count_pauses)
    return pauses


@pytest.mark.anyio
async def test_large_answers_share_their_pauses_while_other_tenants_send_requests(
    pauses: list[tuple[float, int]],
) -> None:
    async def receive() -> Message:
        return {"type": "http.request"}

    async def send_large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (5 * PART_BYTES)})

    async def send_at_once(message: Message) -> None: ...

    app = UnsentAnswersMiddleware(send_large, AnswerBudget(), lambda _: "a", lambda _, tenant: tenant == "a")
    await asyncio.gather(*(app({"type": "http", "path": "/"}, receive, send_at_once) for _ in range(3)))
    assert pauses == [(PART_SECONDS, 1)] * 15


@pytest.mark.anyio
@pytest.mark.parametrize("is_contended", [True, False])
async def test_large_bodies_share_their_pauses_while_other_tenants_send_requests(
    is_contended: bool, pauses: list[tuple[float, int]]
) -> None:
    bodies, parts = OpenBodies(dict), 5

    async def read() -> None:
        sizes = [body_memory.SMALL_BYTES] * parts

        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(sizes.pop()), "more_body": bool(sizes)}

        place = RequestPlace(asyncio.Semaphore(), lambda: is_contended)
        limited = bodies.limit(receive, "a", place)
        while (await limited())["more_body"]:
            pass

    await asyncio.gather(read(), read(), read())
    assert pauses == [(open_bodies.PART_SECONDS, 1)] * (3 * (parts - 1) * is_contended)


def wait_until_sent(budget: AnswerBudget) -> None:
    while budget.reserved_bytes:
        time.sleep(0.01)


def test_what_the_system_has_sent_counts_as_read() -> None:
    app, table = Endless(parts=0), ConnectionTable(100, send_seconds=1000.0)
    with serve(app, table) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.settimeout(60)
        client.connect(("127.0.0.1", port))
        client.sendall(REQUEST)
        assert app.ended.wait(60)
        (connection,) = table.connections
        kept = connection.unsent_bytes
        before = connection.unread_bytes
        assert before > kept
        read = 0
        while connection.unread_bytes > before - connections_module.MIN_SENT_BYTES:
            read += len(client.recv(4096))
        assert read < 200_000
        assert connection.unsent_bytes == kept  # The buffer of the system takes no more yet.


def test_two_tenants_leave_answers_of_the_budget_to_others() -> None:
    budget = AnswerBudget(120)
    with budget.reserve("a", 30), budget.reserve("a", 30), budget.reserve("b", 30):
        refused = (
            ("a", 1, "This tenant has 60"),
            ("b", 1, "This tenant has 30"),
            ("c", 31, "process has 90"),
        )
        for tenant, size, subject in refused:
            with pytest.raises(Problem, match=subject), budget.reserve(tenant, size):
                pass
        with budget.reserve("c", 30):
            assert budget.reserved_bytes == 120
    assert budget.reserved_bytes == 0


@pytest.mark.parametrize("text", ["0", "x", "3601", "1.5"])
def test_a_wrong_time_to_send_is_an_error(text: str) -> None:
    with pytest.raises(SettingError, match="NOETL_SEND_SECONDS"):
        read_send_seconds({"NOETL_SEND_SECONDS": text})


def test_a_connection_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a byte each take long to parse. Other connections have their turns between the parts."""
    sizes: list[int] = []
    receive_data = H11Protocol.data_received

    def data_received(protocol: H11Protocol, data: bytes) -> None:
        sizes.append(len(data))
        receive_data(protocol, data)

    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await answer(scope, receive, send)

    monkeypatch.setattr(H11Protocol, "data_received", data_received)
    head = b"POST /plan HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serve(read, ConnectionTable(10)) as port, connect(port) as client:
        assert ask(client, head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert sum(sizes) > 600_000
    assert max(sizes) <= READ_BYTES


def test_connections_that_are_slow_to_parse_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bodies arrive, in small parts, and another request passes them."""
    sizes: list[int] = []
    receive_data = H11Protocol.data_received

    def data_received(protocol: H11Protocol, data: bytes) -> None:
        sizes.append(len(data))
        receive_data(protocol, data)

    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await answer(scope, receive, send)

    monkeypatch.setattr(connections_module, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(connections_module, "FEW_LINES", 0)
    monkeypatch.setattr(reading_queue, "PAUSE_FACTOR", 0.0)
    monkeypatch.setattr(H11Protocol, "data_received", data_received)
    head = b"POST /plan HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serve(read, ConnectionTable(10)) as port, ExitStack() as stack, ThreadPoolExecutor() as threads:
        clients = [stack.enter_context(connect(port)) for _ in range(4)]
        request = head + b"1\r\nx\r\n" * 5_000 + b"0\r\n\r\n"
        answers = list(threads.map(lambda client: ask(client, request), clients))
        assert all(text.startswith(b"HTTP/1.1 200") for text in answers)
    assert max(sizes) <= FIRST_READ_BYTES


def test_a_client_that_leaves_is_read_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(connections_module, "FEW_LINES", 0)
    monkeypatch.setattr(reading_queue, "PAUSE_FACTOR", 0.0)
    table = ConnectionTable(10)
    with serve(answer, table) as port:
        with connect(port) as client:
            assert ask(client).startswith(b"HTTP/1.1 200")
        wait_until(lambda: len(table) == 0)


class TestReadingQueue:
    class Connection:
        def __init__(self, name: str, read: list[str]) -> None:
            self.address, _, self._name = name.partition(" ")
            self._read = read
            self.is_closed = False
            self.is_stopped = False

        def stop_reading(self) -> None:
            self.is_stopped = True

        def continue_reading(self) -> bool:
            if not self.is_closed:
                self._read.append(self._name)
            return not self.is_closed

    def test_connections_of_each_address_are_read_after_each_other(self) -> None:
        given: list[str] = []
        pauses: list[float] = []
        calls: list[Callable[[], None]] = []

        def schedule(seconds: float, call: Callable[[], None]) -> None:
            pauses.append(seconds)
            calls.append(call)

        queue = ReadingQueue(schedule)
        connections = [self.Connection(name, given) for name in ("a 1", "a 2", "a 3", "a closed", "b 4")]
        for connection in connections:
            connection.is_closed = connection._name == "closed"
            queue.add(connection, 0.01)
        assert all(connection.is_stopped for connection in connections)
        while calls:
            calls.pop(0)()
        assert given == ["1", "4", "2", "3"]
        # The first pause is that of the first part, the second one that of the other four.
        assert pauses == pytest.approx([0.03, 0.12, 0.001, 0.001, 0.001, 0.001])

    def test_new_connections_do_not_keep_others_waiting(self) -> None:
        given: list[str] = []
        calls: list[Callable[[], None]] = []
        queue = ReadingQueue(lambda _seconds, call: calls.append(call))
        queue.add(self.Connection("a first", given), 0.01)
        for number in range(10):
            queue.add(self.Connection(f"b {number}", given), 0.01)
            calls.pop(0)()
        assert given == ["first", "0", "1", "2", "3"]


def test_connections_without_a_header_keep_no_client_out() -> None:
    table = ConnectionTable(8, header_seconds=1000.0)
    with serve(answer, table) as port, ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(port))
        for _ in range(3):
            with connect(port) as client:
                assert ask(client).startswith(b"HTTP/1.1 200")
                assert ask(client).startswith(b"HTTP/1.1 200")
        assert len(table) <= 8


def test_a_server_whose_connections_all_work_refuses_others() -> None:
    release = threading.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await asyncio.to_thread(release.wait)
        await answer(scope, receive, send)

    table = ConnectionTable(2)
    with serve(wait, table) as port, ExitStack() as stack:
        working = [stack.enter_context(connect(port)) for _ in range(2)]
        for client in working:
            client.sendall(REQUEST)
        while not all(not connection.is_waiting for connection in table.connections) or len(table) < 2:
            time.sleep(0.01)
        with connect(port) as client:
            refusal = read_until_closed(client)
        release.set()
        assert refusal.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in refusal
        assert b"urn:noetl:problem:too-many-connections" in refusal
        assert all(client.recv(4096).startswith(b"HTTP/1.1 200") for client in working)


@pytest.mark.parametrize("drip", [b"", b"#"])
def test_a_body_that_does_not_end_is_refused(
    drip: bytes, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "OpenBodies", partial(OpenBodies, seconds=1.0))
    with serve(create_app(settings), ConnectionTable(100)) as port, ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(5)]
        for client in clients:
            client.sendall(POST)
        for client in clients:
            response = read_until_closed(client, drip)
            assert response.startswith(b"HTTP/1.1 408")
            assert b"urn:noetl:problem:slow-body" in response
        with connect(port) as client:
            assert ask(client).startswith(b"HTTP/1.1 200")


HOOK = """
name: hooked
triggers:
- {name: called, type: webhook, path: large, max_bytes: 5MiB, auth: {scheme: none}}
steps: [{name: rest, run: [{action: wait, seconds: 0}]}]
"""


@pytest.mark.parametrize(("size", "status"), [(5_000_000, 503), (15 * 1024 * 1024, 413)])
def test_a_refusal_reaches_a_client_that_still_sends(
    size: int, status: int, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(hold: BodyHold) -> None:
        await asyncio.Event().wait()

    settings = settings | {"NOETL_ALLOW_UNSIGNED_WEBHOOKS": "1"}
    monkeypatch.setattr(context, "OpenBodies", partial(OpenBodies, seconds=0.5))
    with (
        serve(create_app(settings), ConnectionTable(100)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        registered = client.post("/playbooks", content=HOOK, headers={"Content-Type": "application/yaml"})
        assert registered.status_code == 201, registered.text
        monkeypatch.setattr(BodyHold, "reserve", never)
        with connect(port) as sender:
            head = f"POST /hooks/default/large HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
            sender.sendall(head.encode() + b" " * size)  # A reset would end this, as in clients that wait.
            time.sleep(0.2)
            response = sender.recv(65536)
    assert response.startswith(b"HTTP/1.1 %d" % status)
    assert (b"retry-after" in response.lower()) == (status == 503)


def test_parallel_bodies_of_an_address_wait_for_each_other(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings | {"NOETL_ALLOW_UNSIGNED_WEBHOOKS": "1"}
    monkeypatch.setattr(body_memory, "MAX_UNKNOWN_BYTES", 2_000_000)
    body = json.dumps("x" * 450_000).encode()
    with (
        serve(create_app(settings), ConnectionTable(100)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
        ThreadPoolExecutor(12) as threads,
    ):
        client.post("/playbooks", content=HOOK, headers={"Content-Type": "application/yaml"})

        def send(_: int) -> int:
            headers = {"Content-Type": "application/json"}
            return client.post("/hooks/default/large", content=body, headers=headers).status_code

        assert set(threads.map(send, range(24))) == {202}


def test_strangers_that_wait_for_memory_count_as_unfinished_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies, memory = OpenBodies(lambda: {"NOETL_MAX_BODIES": "16"}), BodyMemory()

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    async def play() -> list[bool]:
        tasks = []
        for tenant in (None, None, None, None, None, "a", "a", "a", "a", "a"):
            with memory.hold({}, tenant, "192.0.2.1") as hold:
                limited = bodies.limit(never, tenant, free_place(), hold)
            hold.expect(100_000)
            tasks.append(asyncio.ensure_future(limited()))
        await asyncio.sleep(0.01)
        refused = [task.done() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return refused

    monkeypatch.setattr(BodyHold, "reserve", never)
    assert asyncio.run(play()) == [*[False] * 4, True, *[False] * 5]


@pytest.mark.parametrize(
    ("length", "sent"),
    [(1_000_000, b""), (1_000_000, bytes(120_000)), (40_001, b"[" + b"[]," * 13_333 + b"]")],
    ids=["nothing sent", "more sent than is read", "values"],
)
def test_a_client_that_leaves_does_not_wait_for_memory(
    length: int, sent: bytes, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grant, waits, has_left = WaitingBytes._grant, threading.Event(), threading.Event()

    def grant_nothing(memory: WaitingBytes) -> None:
        if memory._waiting:
            waits.set()
        elif waits.is_set():
            has_left.set()

    with (
        serve(create_app(settings | {"NOETL_ALLOW_UNSIGNED_WEBHOOKS": "1"}), ConnectionTable(100)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        client.post("/playbooks", content=HOOK, headers={"Content-Type": "application/yaml"})
        monkeypatch.setattr(WaitingBytes, "_grant", grant_nothing)
        with connect(port) as sender:
            head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            sender.sendall(b"POST /hooks/default/large HTTP/1.1\r\n" + head.encode() + sent)
            assert waits.wait(60)
        assert has_left.wait(body_memory.WAIT_SECONDS / 4)
        monkeypatch.setattr(WaitingBytes, "_grant", grant)


def test_a_signal_to_stop_ends_unfinished_bodies(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_bodies, "STOP_SECONDS", 0.2)
    app = create_app(settings)
    with serve(app, ConnectionTable(100)) as port, ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(3)]
        for client in clients:
            client.sendall(POST)
        wait_until(lambda: len(app.state.context.bodies._waiting) == len(clients))
        stopped_at = time.monotonic()
        app.state.context.stop_clients()
        for client in clients:
            assert read_until_closed(client).startswith(b"HTTP/1.1 408")
        with connect(port) as late:
            late.sendall(POST)
            assert read_until_closed(late).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - stopped_at < open_bodies.BODY_SECONDS / 2


def test_a_request_of_http_1_0_with_a_transfer_encoding_is_refused(settings: dict[str, str]) -> None:
    request = POST.replace(b"HTTP/1.1", b"HTTP/1.0").replace(
        b"Content-Length: 1000", b"Transfer-Encoding: chunked"
    )
    with serve(create_app(settings), ConnectionTable(100)) as port, connect(port) as client:
        client.sendall(request + b"7\r\nname: x\r\n0\r\n\r\n")
        response = read_until_closed(client)
    assert response.startswith(b"HTTP/1.1 400")
    assert b"HTTP/1.0 has no header Transfer-Encoding" in response


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_address_has_a_part_of_the_unfinished_bodies_of_strangers() -> None:
    bodies, memory = OpenBodies(lambda: {"NOETL_MAX_BODIES": "16"}), BodyMemory()

    async def never() -> Any:
        await asyncio.Event().wait()

    async def play() -> list[int]:
        statuses = []
        tasks = []
        for address in (*["192.0.2.1"] * 5, *["192.0.2.2"] * 2):
            with memory.hold({}, None, address) as hold:
                limited = bodies.limit(never, None, free_place(), hold)
            tasks.append(asyncio.ensure_future(limited()))
            await asyncio.sleep(0)
        for task in tasks:
            if task.done() and isinstance(problem := task.exception(), Problem):
                statuses.append(problem.status)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return statuses

    assert asyncio.run(play()) == [429]


def free_place() -> RequestPlace:
    return RequestPlace(asyncio.Semaphore())


def test_a_tenant_has_few_unfinished_bodies() -> None:
    bodies = OpenBodies(lambda: {"NOETL_MAX_BODIES": "4"})

    async def never() -> Any:
        await asyncio.Event().wait()

    async def status(receive: Callable[[], Awaitable[Any]]) -> int:
        with pytest.raises(Problem) as raised:
            await receive()
        return raised.value.status

    async def play() -> list[int]:
        opened = [
            asyncio.ensure_future(bodies.limit(never, tenant, free_place())()) for tenant in ("a", "a", "b")
        ]
        await asyncio.sleep(0)
        statuses = [await status(bodies.limit(never, tenant, free_place())) for tenant in ("a", "b")]
        opened.append(asyncio.ensure_future(bodies.limit(never, "c", free_place())()))
        await asyncio.sleep(0)
        statuses.append(await status(bodies.limit(never, "d", free_place())))
        for task in opened:
            task.cancel()
        await asyncio.gather(*opened, return_exceptions=True)
        return statuses

    assert asyncio.run(play()) == [429, 429, 503]


def test_a_complete_body_is_received_once() -> None:
    messages = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def play() -> list[Any]:
        limited = OpenBodies(dict).limit(receive, "a", free_place())
        return [await limited() for _ in range(3)]

    expected = list(messages)
    assert asyncio.run(play()) == expected


def test_the_number_of_connections_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_max_connections({}) == connections_module.DEFAULT_CONNECTIONS
    assert 1 <= allow_connections(10) <= 10
    for text in ("0", "-1", "x", "60001"):
        with pytest.raises(SettingError, match="NOETL_MAX_CONNECTIONS"):
            read_max_connections({"NOETL_MAX_CONNECTIONS": text})
