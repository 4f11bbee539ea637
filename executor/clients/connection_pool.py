"""A pool of HTTP connections: one request uses a connection at a time, and the next only if it is clean.

Problem: to open a connection takes round trips, so it is kept for the next request. A server may close it
just when that request is sent. It may also have sent more bytes than its answer has, and these would become
the answer to the next request. HTTP/1.1 gives an answer no sign of its request, so bytes that arrive late
look like one.

Algorithm: a connection belongs to the run that has opened it, so bytes that follow an answer never become
that of another run. A request without a run has a connection for itself. A request of a run takes the
connection to its server that was kept last, so no other thread can use or close it. Afterwards it is kept if
its answer is complete, and no byte follows. More bytes may be on their way: Nagle's algorithm holds them back
until the answer is acknowledged, so this is done at once. The connection is used again after the time of two
round trips and `SETTLE_SECONDS`. The next request waits for this, or takes a new connection if it is long. If
a kept connection ends without a byte of an answer, the request is sent once more on a new one. It may be: its
method is idempotent, or it has an idempotency key (RFC 9110, section 9.2.2; `net/http` of Go does the same).

Cost: a request looks through at most `MAX_KEPT` connections. Each run opens its own ones: see
`docs/decisions/0042-connections-of-runs.md`. Requests to a distant server that follow each other at once
share a few connections instead of one.

Limits: HTTP/1.1 only. A connection is kept for `KEPT_SECONDS`. Their number in use is that of the threads.
Bytes that a server sends still later, just when the next request of the same run arrives, are taken for its
answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import httpcore
import httpx

from noetl.executor.clients.deadline_stream import DeadlineStream

MAX_KEPT = 100
KEPT_SECONDS = 5.0
SETTLE_SECONDS = 0.002
"""How long a server may take to send what follows an answer, besides two round trips."""
MAX_SETTLE_SECONDS = 0.5
"""Limit of this time and the two round trips."""
MAX_WAIT_SECONDS = 0.01
"""How long a request waits for the rest of this time, instead of opening a connection."""

RUN = "run"
"""The extension of a request that has the id of its run."""

IDEMPOTENT_METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")


class _HttpConnection(NamedTuple):
    run_id: str | None
    origin: httpcore.Origin
    stream: DeadlineStream
    http: httpcore.HTTP11Connection
    kept_at: float

    def is_usable(self) -> bool:
        """Return whether another request may use it: its answer is complete, and nothing follows it."""
        if not self.http.is_available() or self.http.has_expired():
            return False
        # httpcore would read what follows as the next answer.
        surplus, _ = self.http._h11_state.trailing_data  # noqa: SLF001
        return not surplus

    def settles_at(self) -> float:
        """Return when bytes that follow the answer will have arrived (monotonic)."""
        settle_seconds = SETTLE_SECONDS + 2 * self.stream.round_trip_seconds
        return self.kept_at + min(settle_seconds, MAX_SETTLE_SECONDS)


class HttpConnectionPool(httpx.BaseTransport):
    """A transport whose connections are made by `connect`. Use it inside `time_limit`."""

    def __init__(self, connect: Callable[[httpcore.Origin], DeadlineStream]) -> None:
        self._connect = connect
        self._kept: deque[_HttpConnection] = deque()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response as soon as its head has arrived. Close the response.

        The extension `RUN` of the request says whose connections it may use.

        Raises:
            httpcore.NetworkError, httpcore.ProtocolError: there is no response.
            httpcore.TimeoutException: there is none in time.
            ActionError: `ForbiddenAddress`.
        """
        sent = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
        )
        run_id: str | None = request.extensions.get(RUN)
        kept = self._take(run_id, sent.url.origin) if run_id is not None else None
        if kept is not None:
            try:
                return self._send(kept, sent)
            except (httpcore.NetworkError, httpcore.ProtocolError):
                is_repeatable = request.method in IDEMPOTENT_METHODS or "idempotency-key" in request.headers
                if kept.stream.has_answer or not is_repeatable:
                    raise
        return self._send(self._open(run_id, sent.url.origin), sent)

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            kept, self._kept = self._kept, deque()
        for connection in kept:
            connection.http.close()

    def _open(self, run_id: str | None, origin: httpcore.Origin) -> _HttpConnection:
        stream = self._connect(origin)
        return _HttpConnection(run_id, origin, stream, httpcore.HTTP11Connection(origin, stream), 0.0)

    def _send(self, connection: _HttpConnection, request: httpcore.Request) -> httpx.Response:
        try:
            response = connection.http.handle_request(request)
        except BaseException:
            connection.http.close()
            raise
        body = _Body(response, lambda: self._keep(connection))
        return httpx.Response(
            response.status, headers=response.headers, stream=body, extensions=response.extensions
        )

    def _take(self, run_id: str, origin: httpcore.Origin) -> _HttpConnection | None:
        """Return the connection of a run to a server that was kept last and settles in time, or None."""
        while (connection := self._remove(run_id, origin)) is not None:
            time.sleep(max(connection.settles_at() - time.monotonic(), 0.0))
            if connection.is_usable():
                return connection
            connection.http.close()
        return None

    def _remove(self, run_id: str, origin: httpcore.Origin) -> _HttpConnection | None:
        """Remove the connection that `_take` returns. Close old ones."""
        ended, now, removed = [], time.monotonic(), None
        with self._lock:
            while self._kept and self._kept[0].kept_at < now - KEPT_SECONDS:
                ended.append(self._kept.popleft())
            for connection in reversed(self._kept):
                is_of_run = connection.run_id == run_id and connection.origin == origin
                if is_of_run and connection.settles_at() <= now + MAX_WAIT_SECONDS:
                    removed = connection
                    break
            if removed is not None:
                self._kept.remove(removed)
        for connection in ended:
            connection.http.close()
        return removed

    def _keep(self, connection: _HttpConnection) -> None:
        """Keep a connection after its response, unless it cannot be used again."""
        ended = []
        if connection.run_id is not None and connection.is_usable():
            connection.stream.acknowledge()
            with self._lock:
                self._kept.append(connection._replace(kept_at=time.monotonic()))
                while len(self._kept) > MAX_KEPT:
                    ended.append(self._kept.popleft())
        else:
            ended.append(connection)
        for connection_to_close in ended:
            connection_to_close.http.close()


class _Body(httpx.SyncByteStream):
    """The body of a response. `on_close` is called once, when it is closed."""

    def __init__(self, response: httpcore.Response, on_close: Callable[[], None]) -> None:
        self._response = response
        self._on_close: Callable[[], None] | None = on_close

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        """Close the response. The connection is kept if the body was read to its end."""
        self._response.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
