"""Connections to Postgres that bound what a server sends, and end with the call that uses them.

Problem: libpq waits for as long as a server sends something, and keeps a whole result, or one row of any
length, in memory. The server may belong to an attacker.

Algorithm: psycopg waits for the socket in generators. A generator around them checks the call before each
wait and at least ten times a second. It also counts the bytes that the socket has received since the last
chunk of rows (`TCP_INFO` of Linux). Results are read in chunks of `CHUNK_ROWS` rows (libpq 17; one by one
before), so that a handler can count or drop them. Within one long message, libpq reads for as long as the
server is faster. So one thread of the process watches the sockets, and shuts down one that is over a limit.

Cost: one system call for each wait, and 50 a second for each running call.

A connection pooler, such as PgBouncer, may give each transaction another session. Behind one, the timeout of
a statement is set within a transaction only, and a statement without one is cancelled at its deadline.

Limits: libpq keeps at most one chunk, which may have `MAX_CHUNK_BYTES`, and what arrives within
`WATCH_SECONDS`. Elsewhere than on Linux, and on Unix sockets, bytes are counted when a chunk is complete.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import generators, pq
from psycopg.errors import error_from_result

from noetl.executor.errors import ActionError
from noetl.executor.model.arriving_data import VALUE_BYTES, ArrivingData

if TYPE_CHECKING:
    from noetl.executor.actions.action import Call

MAX_CHUNK_BYTES = 128 * 1024 * 1024
"""Limit of what a server sends before a chunk of rows is complete, notices and long rows included."""

CHUNK_ROWS = 32

WATCH_SECONDS = 0.02
"""How often the sockets of running calls are checked."""

_RECEIVED_OFFSET = 128
"""Position of `tcpi_bytes_received` in `struct tcp_info` of Linux."""

_CANCEL_SECONDS = 2.0
_CANCEL_GRACE_SECONDS = 1.0
"""How long the thread of a call has to cancel its statement, before its socket is shut down."""

_ROWS = (pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.TUPLES_CHUNK, pq.ExecStatus.TUPLES_OK)
_NO_ROWS = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)

Value = TypeVar("Value")

_connecting_call: ContextVar[Call] = ContextVar("connecting_call")


class CallMeter:
    """The time of the call that uses a connection, and the bytes that it has received for it."""

    def __init__(self, call: Call, arriving: ArrivingData) -> None:
        self.call = call
        self.arriving = arriving
        self._socket: socket.socket | None = None
        self._mark = 0
        self._failure: BaseException | None = None
        self._has_pooler = False
        self._ended_at: float | None = None

    @contextmanager
    def measure(self, connection: BoundedConnection) -> Iterator[None]:
        """Measure a connection in this block. After a cancellation, ask the server to cancel as well."""
        with suppress(OSError):
            # A copy stays valid if libpq closes its own descriptor, whose number is then used again.
            self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        connection.meter = self
        connection.start_chunk()
        _WATCH.add(self)
        try:
            self._has_pooler = connection.find_pooler()
            yield
        finally:
            _WATCH.remove(self)
            connection.meter = None
            if self._socket is not None:
                self._socket.close()
            must_cancel = self.call.cancelled.is_set() or (self._has_pooler and self._failure is not None)
            if must_cancel and psycopg.capabilities.has_cancel_safe():
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def fail(self, error: ActionError) -> ActionError:
        """Give the connection up, and return the error."""
        self._failure = error
        return error

    def start_chunk(self) -> None:
        """Count the bytes of a chunk from here on."""
        self._mark = self._received()

    def check(self) -> None:
        """Check that the call has time left, and that the current chunk is not too long.

        Raises:
            ActionError: `Timeout`; `LimitExceeded`.
            CancelledError: the run was cancelled.
        """
        if self._failure is not None:
            # A failed call must not wait for its server again, such as for the end of a transaction.
            raise self._failure
        try:
            self.call.remaining_seconds()
            self._check_size(self._received() - self._mark)
        except BaseException as error:
            self._failure = error
            raise

    def _check_size(self, size: int) -> None:
        if size > MAX_CHUNK_BYTES:
            message = f"the server sent more than {MAX_CHUNK_BYTES:,} bytes for {CHUNK_ROWS} rows"
            raise ActionError("LimitExceeded", message, retryable=False)
        self.arriving.hold(size)

    def shut_down_if_over(self) -> None:
        """Shut the socket down if the call has ended or its chunk is too long. This wakes up its thread."""
        call = self.call
        now = time.monotonic()
        if self._ended_at is None and (call.cancelled.is_set() or now > call.deadline):
            self._ended_at = now
        grace = _CANCEL_GRACE_SECONDS if self._has_pooler else 0.0
        is_ended = self._ended_at is not None and now >= self._ended_at + grace
        if (is_ended or self._received() - self._mark > MAX_CHUNK_BYTES) and self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _received(self) -> int:
        """Return how many bytes the socket has received; 0 if the system does not count them."""
        if self._socket is None or not sys.platform.startswith("linux"):
            return 0
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_OFFSET + 8)
        except OSError:
            return 0
        if len(info) < _RECEIVED_OFFSET + 8:
            return 0
        received: int = struct.unpack_from("=Q", info, _RECEIVED_OFFSET)[0]
        return received


class _OpeningSocket:
    """The socket of a connection that is being opened, which is shut down when `is_over()`.

    One step of libpq reads records of TLS for as long as the server sends them.
    """

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over
        self._socket: socket.socket | None = None

    def follow(self, descriptor: int) -> None:
        """Watch a descriptor of libpq from here on, and none that was watched before."""
        self.close()
        with suppress(OSError):
            self._socket = socket.socket(fileno=os.dup(descriptor))
            _WATCH.add(self)

    def close(self) -> None:
        _WATCH.remove(self)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def shut_down_if_over(self) -> None:
        """Shut the socket down if it is over. This wakes up its thread."""
        if self._socket is not None and self._is_over():
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class _SocketWatch:
    """A thread that watches the sockets of all running calls, and of connections that are being opened."""

    def __init__(self) -> None:
        self._meters: set[CallMeter | _OpeningSocket] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, meter: CallMeter | _OpeningSocket) -> None:
        with self._changed:
            self._meters.add(meter)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="noetl-postgres", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, meter: CallMeter | _OpeningSocket) -> None:
        with self._changed:
            self._meters.discard(meter)

    def _watch(self) -> None:
        with self._changed:
            while True:
                for meter in self._meters:
                    meter.shut_down_if_over()
                self._changed.wait(WATCH_SECONDS if self._meters else None)


_WATCH = _SocketWatch()


class BoundedConnection(psycopg.Connection[dict[str, Any]]):
    """A connection whose waits are checked by the meter of the call that uses it."""

    meter: CallMeter | None = None
    has_pooler: bool | None = None
    """Whether there is a pooler between the connection and its session. None: not known yet."""

    def find_pooler(self) -> bool:
        """Return whether a pooler may give each transaction of the connection another session.

        A pooler invents the process id that a connection receives at its start.
        """
        if self.has_pooler is None:
            try:
                row = self.execute("select pg_backend_pid() as pid").fetchone()
            except psycopg.ProgrammingError:
                # A server that has no such function is not known to keep sessions.
                row = None
            self.has_pooler = row is None or row["pid"] != self.info.backend_pid
        return self.has_pooler

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Return the value of a generator of psycopg, as the base class does."""
        if self.meter is not None:
            gen = _watch(gen, self.meter.check)
        return super().wait(gen, *args, **options)

    def start_chunk(self) -> None:
        """Count the bytes of the server for the current call from here on."""
        if self.meter is not None:
            self.meter.start_chunk()

    @classmethod
    def _connect_gen(cls, *args: Any, **options: Any) -> Any:
        call = _connecting_call.get()

        def is_over() -> bool:
            return call.cancelled.is_set() or time.monotonic() > call.deadline

        guarded = _shut_down_when(is_over, super()._connect_gen(*args, **options))
        return _watch(guarded, call.remaining_seconds)

    def _cancel_gen(self) -> Any:
        deadline = time.monotonic() + _CANCEL_SECONDS
        return _shut_down_when(lambda: time.monotonic() > deadline, super()._cancel_gen())

    @classmethod
    def connect_for(cls, call: Call, connection_string: str, **options: Any) -> BoundedConnection:
        """Connect in autocommit mode. The attempt ends with the call.

        Raises:
            ActionError: `Timeout`.
            CancelledError: the run was cancelled.
            psycopg.Error: there is no connection.
        """
        from psycopg.rows import dict_row

        token = _connecting_call.set(call)
        try:
            connection = cls.connect(
                connection_string, autocommit=True, prepare_threshold=None, row_factory=dict_row, **options
            )
        finally:
            _connecting_call.reset(token)
        # Without a handler, psycopg keeps all notifications of the server.
        connection.add_notify_handler(lambda _: None)
        return connection


class ChunkCursor(psycopg.Cursor[dict[str, Any]]):
    """A cursor that gives the rows of a result in chunks, and keeps none.

    `row_count` is the number of rows of the first result, or of the rows that its statement changed, or -1.
    """

    row_count = -1

    def execute_in_chunks(
        self, connection: BoundedConnection, text: str, values: Any
    ) -> Iterator[list[dict[str, Any]]]:
        """Run a text of one or several statements. Yield the rows of the first result in chunks.

        Run the iterator to its end in any case.

        Raises:
            psycopg.Error: a statement fails.
            ActionError: the server sends too much, or for too long.
        """
        meter = connection.meter
        assert meter is not None
        is_first, row_count = True, 0
        meter.start_chunk()
        connection.wait(self._send_in_chunks(text, values))
        while (result := connection.wait(generators.fetch(connection.pgconn))) is not None:
            status = pq.ExecStatus(result.status)
            if status not in _ROWS and status not in _NO_ROWS:
                self._refuse(connection, result, status)
            if is_first and result.ntuples:
                row_count += result.ntuples
                meter.arriving.hold(_weight(result))
                yield self._load(result)
            if is_first and status not in _ROWS[:2]:
                tuples = result.command_tuples
                self.row_count = row_count or (-1 if tuples is None else tuples)
                is_first = False
            meter.start_chunk()

    def _send_in_chunks(self, text: str, values: Any) -> Generator[Any, Any, None]:
        # psycopg's types require a literal text, but accept bytes.
        yield from self._start_query(text.encode())
        self._execute_send(self._convert_query(text.encode(), values))
        if psycopg.capabilities.has_stream_chunked():
            self._pgconn.set_chunked_rows_mode(CHUNK_ROWS)
        else:
            self._pgconn.set_single_row_mode()
        yield from generators.send(self._pgconn)

    def _load(self, result: pq.abc.PGresult) -> list[dict[str, Any]]:
        self.pgresult = result
        self._tx.set_pgresult(result)
        make_row = self._make_row_maker()
        return self._tx.load_rows(0, result.ntuples, make_row)

    def _refuse(self, connection: BoundedConnection, result: pq.abc.PGresult, status: pq.ExecStatus) -> None:
        if status == pq.ExecStatus.FATAL_ERROR:
            error = error_from_result(result, encoding="utf-8")
            # The rest of the results must be read, so that the connection can be used for a rollback.
            while connection.wait(generators.fetch(connection.pgconn)) is not None:
                pass
            raise error
        raise psycopg.ProgrammingError(f"`query` must not contain {status.name.replace('_', ' ')}")


def _weight(result: pq.abc.PGresult) -> int:
    """Return about how much memory the values of a result take, in bytes: arrays and JSON become objects."""
    weight = 0
    for row in range(result.ntuples):
        for column in range(result.nfields):
            value = result.get_value(row, column)
            weight += VALUE_BYTES
            if value is not None and len(value) > VALUE_BYTES:
                weight += 2 * len(value) + VALUE_BYTES * (value.count(b",") + value.count(b"["))
    return weight


def _watch(waits: Generator[Any, Any, Value], check: Callable[[], object]) -> Generator[Any, Any, Value]:
    """Yield what a generator of psycopg waits for, and call `check` after each wait."""
    check()
    try:
        state = next(waits)
        while True:
            ready = yield state
            check()
            state = waits.send(ready)
    except psycopg.Error:
        # The socket may have been shut down for the reason that `check` reports.
        check()
        raise
    except StopIteration as end:
        value: Value = end.value
        return value


def _shut_down_when(
    is_over: Callable[[], bool], waits: Generator[Any, Any, Value]
) -> Generator[Any, Any, Value]:
    """Yield what a generator that opens a connection waits for. Shut its socket down when `is_over()`."""
    opening = _OpeningSocket(is_over)
    try:
        state = next(waits)
        while True:
            descriptor, _ = state
            opening.follow(descriptor)
            ready = yield state
            state = waits.send(ready)
    except StopIteration as end:
        value: Value = end.value
        return value
    finally:
        opening.close()
