"""A queue of connections whose bytes take long to parse.

Problem: h11 parses the chunks of a body one by one, for some 15 µs each, on the thread of all requests. A
megabyte may have hundreds of thousands of chunks. While 100 connections sent chunks of a byte, each other
request took five seconds.

Algorithm: round-robin (Nagle 1987). If the latest part of a connection had many lines and took longer than
SLOW_SECONDS of CPU time, the connection waits in a queue. One of them is read at a time, from each address of
a client after the other. The pause before that is PAUSE_FACTOR times as long as the parts before it took. So
all of these connections together use a quarter of the thread. What new connections need during a pause makes
it longer once, or else they could keep all others waiting. The first part of a request is small, because it
is not known yet how long it takes.

Cost: two looks at the clock for each part, and up to three more reads for a long body.

Limits: the server itself resumes a connection when its app has read 64 KiB of a body. Clients of one address
that send very small chunks wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

SLOW_SECONDS = 0.002
"""CPU time of a part from which its connection waits for turns. Most parts take a tenth of it."""

FEW_LINES = 64
"""Lines of a part that is never slow: h11 parses lines, of headers and of chunks."""

PAUSE_FACTOR = 3.0
MIN_PAUSE_SECONDS = 0.001

FIRST_READ_BYTES = 2 * 1024
"""How many bytes of a request are read first, and of a connection that waits in the queue."""

READ_BYTES = 16 * 1024
"""How many bytes of a connection are read and parsed together at most. asyncio would take 256 KiB."""

Schedule: TypeAlias = Callable[[float, Callable[[], None]], object]
"""Function that calls another one after some seconds."""


class SlowConnection(Protocol):
    """A connection that can be read no more for a while."""

    @property
    def address(self) -> str:
        """The address of the client."""
        ...

    def stop_reading(self) -> None: ...

    def continue_reading(self) -> bool:
        """Read on. Return False if the connection is closed."""
        ...


class ReadingQueue:
    """The slow connections of a server, by the addresses of their clients."""

    def __init__(self, schedule: Schedule | None = None) -> None:
        self._schedule_call = schedule
        self._waiting: OrderedDict[str, deque[SlowConnection]] = OrderedDict()
        self._pause_seconds = 0.0
        self._is_scheduled = False
        self._is_pause_extended = False

    def add(self, connection: SlowConnection, seconds: float) -> None:
        """Let a connection wait, because its latest part took some seconds."""
        connection.stop_reading()
        self._waiting.setdefault(connection.address, deque()).append(connection)
        self._pause_seconds += seconds * PAUSE_FACTOR
        if not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        schedule = self._schedule_call or asyncio.get_running_loop().call_later
        schedule(max(self._pause_seconds, MIN_PAUSE_SECONDS), self._read_next)
        self._pause_seconds = 0.0
        self._is_scheduled = True

    def _read_next(self) -> None:
        """Read the next connection, or extend the pause if more was parsed meanwhile."""
        self._is_scheduled = False
        self._is_pause_extended = bool(self._pause_seconds) and not self._is_pause_extended
        if not self._is_pause_extended:
            while self._waiting and not self._pop().continue_reading():
                pass
        if self._waiting:
            self._schedule()

    def _pop(self) -> SlowConnection:
        """Return the first connection. The next one is of another address, if there is one."""
        address, connections = self._waiting.popitem(last=False)
        connection = connections.popleft()
        if connections:
            self._waiting[address] = connections
        return connection


def next_read_bytes(read_bytes: int, *, is_first: bool) -> int:
    """Return how many bytes are read next, after a part of `read_bytes`.

    >>> next_read_bytes(2048, is_first=False), next_read_bytes(16384, is_first=True)
    (4096, 2048)
    """
    return FIRST_READ_BYTES if is_first else min(2 * read_bytes, READ_BYTES)
