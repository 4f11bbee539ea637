"""Servers of Postgres that send too much, or for ever."""

from __future__ import annotations

import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.waiting import Wait

from noetl.executor.actions import _postgres_connection, action
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.arriving_data import Arrivals, process_arrivals
from noetl.testing.actions import ActionTester
from tests.action_calls import LOCAL, perform_action
from tests.security.hostile_server import HostileServer, Talk, serve_hostile

pytestmark = pytest.mark.usefixtures("no_idle_connections")

MIB = 1024 * 1024
READY = b"Z\0\0\0\x05I"
ONE_COLUMN = (
    b"T" + struct.pack(">ih", 4 + 2 + 2 + 18, 1) + b"a\0" + struct.pack(">ihihih", 0, 0, 25, -1, -1, 0)
)


def message(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack(">i", len(payload) + 4) + payload


def data_row(value: bytes) -> bytes:
    return message(b"D", struct.pack(">hi", 1, len(value)) + value)


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = client.recv(size - len(data))
        if not chunk:
            raise OSError("the client has hung up")
        data += chunk
    return data


ONE_PID = (
    message(b"T", struct.pack(">h", 1) + b"pid\0" + struct.pack(">ihihih", 0, 0, 23, 4, -1, 0))
    + data_row(b"0")
    + message(b"C", b"SELECT 1\0")
)
"""The process id that a client knows if the server has told it none."""


def start_session(client: socket.socket, server: HostileServer) -> None:
    """Accept a client without a password."""
    receive(client, int.from_bytes(receive(client, 4), "big") - 4)
    server.send(client, message(b"R", b"\0\0\0\0") + READY)


def read_message(client: socket.socket) -> tuple[bytes, bytes]:
    kind = receive(client, 1)
    return kind, receive(client, int.from_bytes(receive(client, 4), "big") - 4)


def answer_query(hostile: Callable[[socket.socket, HostileServer], None]) -> Talk:
    """Return the talk of a server that answers the first query after the settings in a hostile way."""

    def talk(client: socket.socket, server: HostileServer) -> None:
        start_session(client, server)
        while True:
            kind, text = read_message(client)
            if kind == b"Q" and text.startswith((b"set ", b"discard")):
                server.send(client, message(b"C", b"SET\0") + READY)
            elif kind == b"Q" and text.startswith(b"select pg_backend_pid()"):
                server.send(client, ONE_PID + READY)
            elif kind in (b"Q", b"S"):
                hostile(client, server)

    return talk


def repeat(block: bytes, start: bytes = b"") -> Callable[[socket.socket, HostileServer], None]:
    def send(client: socket.socket, server: HostileServer) -> None:
        server.send(client, start)
        while not server.closing.is_set():
            server.send(client, block)

    return send


def drip(block: bytes, start: bytes = b"") -> Callable[[socket.socket, HostileServer], None]:
    def send(client: socket.socket, server: HostileServer) -> None:
        server.send(client, start)
        while not server.closing.wait(0.02):
            server.send(client, block)

    return send


NOTICE = message(b"N", b"SNOTICE\0C00000\0M" + b"x" * 1000 + b"\0\0")
NOTIFICATION = message(b"A", b"\0\0\0\1c\0" + b"x" * 1000 + b"\0")
LONG_ROW = b"D" + struct.pack(">ihi", 2_000_000_000, 1, 1_999_999_990)
FLOODS = {
    "one endless row": repeat(b"x" * (MIB // 4), ONE_COLUMN + LONG_ROW),
    "notices": repeat(NOTICE * 100),
    "notifications": repeat(NOTIFICATION * 100),
    "parameters": repeat(message(b"S", b"a\0" + b"x" * 10_000 + b"\0") * 10),
}


def connection_to(server: HostileServer) -> str:
    return f"host=127.0.0.1 port={server.port} user=a dbname=a sslmode=disable"


@pytest.mark.parametrize("fetch", ["all", "none", "one"])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_is_left_at_the_limit(
    flood: Callable[[socket.socket, HostileServer], None], fetch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_postgres_connection, "MAX_CHUNK_BYTES", 2 * MIB)
    with serve_hostile(answer_query(flood)) as server:
        with pytest.raises(ActionError) as caught:
            perform_action(
                "postgres", connection=connection_to(server), query="select 1", fetch=fetch, seconds=600
            )
        assert (caught.value.type, caught.value.retryable) == ("LimitExceeded", False)
        assert server.sent < 64 * MIB
    assert process_arrivals().process.reserved == 0


def test_endless_rows_are_left_at_the_limit() -> None:
    rows = data_row(b"x" * 10_000) * 100
    with serve_hostile(answer_query(repeat(rows, ONE_COLUMN))) as server:
        with pytest.raises(ActionError, match="exceed 64 MiB") as caught:
            perform_action("postgres", connection=connection_to(server), query="select 1", seconds=600)
        assert caught.value.type == "LimitExceeded"
        assert server.sent < 128 * MIB


@pytest.mark.parametrize("fetch", ["none", "one", "value"])
def test_endless_rows_that_are_dropped_end_at_the_deadline(fetch: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = data_row(b"x" * 10_000) * 100
    with serve_hostile(answer_query(repeat(rows, ONE_COLUMN))) as server:
        with pytest.raises(ActionError) as caught:
            perform_action(
                "postgres", connection=connection_to(server), query="select 1", fetch=fetch, seconds=2
            )
        assert caught.value.type == "Timeout"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def wait_for_end(client: socket.socket, server: HostileServer) -> None:
    server.closing.wait()


ENDLESS = {
    "silence": wait_for_end,
    "notices": drip(NOTICE),
    "rows": drip(data_row(b"x"), ONE_COLUMN),
    "a row": drip(b"x", ONE_COLUMN + LONG_ROW),
    "parts of a message": drip(b"\0", b"N\0\0\1\0"),
}


@pytest.mark.parametrize("talk", ENDLESS.values(), ids=ENDLESS.keys())
def test_the_deadline_ends_every_answer(talk: Callable[[socket.socket, HostileServer], None]) -> None:
    with serve_hostile(answer_query(talk)) as server:
        with pytest.raises(ActionError) as caught:
            perform_action("postgres", connection=connection_to(server), query=["select 1"], seconds=0.5)
        assert caught.value.type == "Timeout"


@pytest.mark.parametrize("talk", ENDLESS.values(), ids=ENDLESS.keys())
def test_the_cancellation_of_the_run_ends_every_answer(
    talk: Callable[[socket.socket, HostileServer], None],
) -> None:
    with serve_hostile(answer_query(talk)) as server:
        check_cancellation(server, {"query": ["select 1"]})


def test_the_cancellation_of_the_run_ends_the_attempt_to_connect() -> None:
    with serve_hostile(wait_for_end) as server:
        check_cancellation(server, {"query": "select 1"})


@pytest.mark.parametrize("end", ["cancellation", "deadline"])
def test_the_end_of_a_call_wakes_up_a_step_of_libpq_that_opens_a_connection(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of libpq reads records of TLS for as long as they arrive. A blocked read stands for it."""
    ends: list[bytes] = []
    tester = ActionTester("postgres", LOCAL, seconds=600 if end == "cancellation" else 0.5)

    def connect(cls: type, /, *args: object, **options: object) -> Iterator[object]:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.settimeout(30)
            yield connection.fileno(), Wait.W
            if end == "cancellation":
                tester.cancelled.set()
            ends.append(connection.recv(1))
        raise psycopg.OperationalError("the socket was shut down")

    monkeypatch.setattr(psycopg.Connection, "_connect_gen", classmethod(connect))
    with serve_hostile(wait_for_end) as server:
        expected = CancelledError if end == "cancellation" else ActionError
        with pytest.raises(expected):
            tester.perform({"connection": connection_to(server), "query": "select 1"})
    assert ends == [b""]


def check_cancellation(server: HostileServer, parameters: dict[str, object]) -> None:
    tester = ActionTester("postgres", LOCAL, seconds=600)

    def cancel() -> None:
        server.is_reached.wait(30)
        time.sleep(0.3)
        tester.cancelled.set()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        tester.perform({"connection": connection_to(server), **parameters})
    canceller.join()
    assert time.monotonic() - started < 60


def test_a_reset_that_does_not_end_keeps_no_thread() -> None:
    def talk(client: socket.socket, server: HostileServer) -> None:
        start_session(client, server)
        while True:
            _, text = read_message(client)
            if not text.startswith(b"discard"):
                server.send(client, message(b"C", b"SET\0") + READY)

    with serve_hostile(talk) as server:
        result = perform_action("postgres", connection=connection_to(server), query="set x = 1", seconds=1)
        assert result == {"rows": [], "rowcount": -1}


def test_a_cancelled_run_cancels_its_statement(postgres_dsn: str) -> None:
    tester = ActionTester("postgres", LOCAL, seconds=600)
    with psycopg.connect(postgres_dsn, autocommit=True) as observer:
        active = (
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and state = 'active' and query like '%pg_sleep(500)%' and pid <> pg_backend_pid()"
        )

        def wait_for(expected: int) -> None:
            until = time.monotonic() + 60
            while observer.execute(active).fetchone() != (expected,):
                assert time.monotonic() < until
                time.sleep(0.05)

        def cancel() -> None:
            wait_for(1)
            tester.cancelled.set()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(CancelledError):
            tester.perform({"connection": postgres_dsn, "query": "select pg_sleep(500)"})
        canceller.join()
        wait_for(0)


def test_a_large_result_is_not_kept(postgres_dsn: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    query = "select repeat('x', 1000000) as a from generate_series(1, 400)"

    def select(fetch: str) -> object:
        return perform_action("postgres", connection=postgres_dsn, query=query, fetch=fetch, seconds=120)

    assert select("none") == {"rows": [], "rowcount": 400}
    assert select("value") == "x" * 1_000_000
    with pytest.raises(ActionError, match="exceed 64 MiB"):
        select("all")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024


def test_json_of_rows_counts_as_the_objects_that_it_becomes(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = Arrivals(64 * MIB)
    monkeypatch.setattr(action, "process_arrivals", lambda: arrivals)
    query = "select ('[' || repeat('[],', 600000) || '[]]')::jsonb as a"
    with pytest.raises(ActionError, match="NOETL_ANSWER_MEMORY"):
        perform_action("postgres", connection=postgres_dsn, query=query)
    assert arrivals.process.reserved == 0


def test_several_statements_in_one_text_give_the_first_result(postgres_dsn: str) -> None:
    query = "create table t (a int); insert into t values (1), (2); select * from t"
    assert perform_action("postgres", connection=postgres_dsn, query=query)["rows"] == []
    query = "select 1 as a; select 2 as b"
    assert perform_action("postgres", connection=postgres_dsn, query=query) == {
        "rows": [{"a": 1}],
        "rowcount": 1,
    }


def test_a_copy_as_a_query_is_refused(postgres_dsn: str) -> None:
    for query in ("copy (select 1) to stdout", "copy pg_class from stdin"):
        with pytest.raises(ActionError) as caught:
            perform_action("postgres", connection=postgres_dsn, query=query, seconds=20)
        assert caught.value.type == "SQLError"
