"""TLS over a TCP connection, in steps that each read a bounded number of bytes.

Problem: a server may send records without content, such as session tickets (RFC 8446, section 4.6.1). One
read of an `ssl.SSLSocket` continues for as long as they arrive. Meanwhile the caller sees neither its
deadline nor a cancellation.

Algorithm: OpenSSL works on two buffers in memory. A step moves at most `STEP_BYTES` from the socket to the
first one. If this is not enough, it raises TimeoutError. So the caller checks its limits before each step.

Cost: one copy of each byte, and one call of OpenSSL for each step.

Limits: `STEP_BYTES` have a thousand tickets at most, which take about 30 ms.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TypeVar

STEP_BYTES = 16 * 1024
"""How many bytes of the server one step reads at most: the longest record."""

Result = TypeVar("Result")


class TlsConnection:
    """A connection with the methods of a socket that `DeadlineStream` needs.

    Each method may be called again after a TimeoutError. A handshake and a `send` need a `flush` afterwards.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, host: str | None) -> None:
        self.socket = connection
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._unsent = memoryview(b"")
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def close(self) -> None:
        self.socket.close()

    @property
    def has_unread(self) -> bool:
        """True if bytes of the server have been taken from the socket, but not read."""
        return bool(self._incoming.pending or self.tls.pending())

    def do_handshake(self) -> None:
        """Perform a step of the handshake.

        Raises:
            TimeoutError: it needs another one.
            OSError: the handshake or the connection has failed. `ssl.SSLError` is an OSError.
        """
        try:
            self._step(self.tls.do_handshake)
        except ssl.SSLError:
            # The server learns from an alert why the handshake ends.
            with suppress(OSError):
                self.flush()
            raise

    def recv(self, max_bytes: int) -> bytes:
        """Return the next bytes; none at the end.

        A server may answer before it has taken a request, and take no more. So it need not take what is left.

        Raises:
            TimeoutError: another step is needed.
            OSError: the connection has failed.
        """
        try:
            return self._step(lambda: self.tls.read(max_bytes), must_flush=False)
        except ssl.SSLEOFError:
            return b""

    def send(self, data: memoryview) -> int:
        """Take all of the data, and return its length. `flush` sends what is left of it.

        Raises:
            TimeoutError: the server does not take what was sent before. Nothing of the data is taken.
            OSError: the connection has failed.
        """
        return self._step(lambda: self.tls.write(data))

    def flush(self) -> None:
        """Send what OpenSSL has written.

        Raises:
            TimeoutError: the server does not take all of it. The next call continues.
            OSError: the connection has failed.
        """
        while True:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            if not self._unsent:
                return
            self._unsent = self._unsent[self.socket.send(self._unsent) :]

    def _step(self, operation: Callable[[], Result], *, must_flush: bool = True) -> Result:
        """Return the value of an operation of OpenSSL, or read some bytes for its next attempt."""
        self._flush_before(must_flush)
        try:
            return operation()
        except ssl.SSLWantReadError:
            self._flush_before(must_flush)
            received = self.socket.recv(STEP_BYTES)
            if received:
                self._incoming.write(received)
            else:
                self._incoming.write_eof()
            raise TimeoutError("the operation needs another step") from None

    def _flush_before(self, must_flush: bool) -> None:
        with nullcontext() if must_flush else suppress(OSError):
            self.flush()
