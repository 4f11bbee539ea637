"""One read of the key set of a token issuer, which can be ended from another thread.

Problem: a timeout of a socket bounds the pause between two bytes only. An issuer that sends a byte every few
seconds holds its reader for hours. That is so in the TLS handshake, the head and the body alike.

Algorithm: the read happens on a daemon thread of its own. Who waits for it has a deadline, and then shuts
down the connection. The thread sees the end of the stream, wherever it is.

Cost: a thread and a second file descriptor for the connection while the key set is read.

Limits: MAX_KEY_SET_BYTES. The name of the host is looked up by the system, which has its own time limit.
"""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError

MAX_KEY_SET_BYTES = 256 * 1024
IDLE_SECONDS = 5.0
"""Longest pause between two bytes."""


class KeySetRead:
    """A read of the document at a URL. `finish` receives it, or None and the problem, on its thread."""

    def __init__(self, url: str, finish: Callable[[bytes | None, str], None]) -> None:
        self._url = url
        self._finish = finish
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._is_cut = False
        self._has_ended = threading.Event()

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, name="noetl-key-set", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until the read has ended, and return whether it has."""
        return self._has_ended.wait(seconds)

    def cut(self) -> None:
        """End the read: shut down its connection, and open no other one."""
        with self._lock:
            self._is_cut = True
            if self._connection is not None:
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        body, problem = None, ""
        try:
            body = self._fetch()
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
            if isinstance(error, HTTPError):
                error.close()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._is_cut:
                body, problem = None, "it is not complete in time"
        try:
            self._finish(body, problem)
        finally:
            self._has_ended.set()

    def _fetch(self) -> bytes:
        opener = urllib.request.build_opener(_NoRedirects, _CuttableHttp(self), _CuttableHttps(self))
        opener.addheaders = [("Accept", "application/json"), ("User-Agent", "noetl")]
        with opener.open(self._url, timeout=IDLE_SECONDS) as response:
            body: bytes = response.read(MAX_KEY_SET_BYTES + 1)
        if len(body) > MAX_KEY_SET_BYTES:
            raise ValueError(f"the response has more than {MAX_KEY_SET_BYTES:,} bytes")
        return body

    def prepare(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        """Return a connection that `cut` ends."""
        connection._create_connection = self._connect  # type: ignore[attr-defined]  # noqa: SLF001
        return connection

    def _connect(self, *arguments: Any) -> socket.socket:
        """Open a connection. A second descriptor of it stays valid when TLS takes over the first one."""
        connection = socket.create_connection(*arguments)
        with self._lock:
            if self._is_cut:
                connection.close()
                raise TimeoutError("the connection was opened too late")
            self._connection = connection.dup()
        return connection


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirect: only the configured URL may give keys."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _CuttableHttp(urllib.request.HTTPHandler):
    """A handler whose connections belong to a read."""

    def __init__(self, read: KeySetRead) -> None:
        super().__init__()
        self._read = read

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connect(host: str, **options: Any) -> http.client.HTTPConnection:
            return self._read.prepare(http.client.HTTPConnection(host, **options))

        return self.do_open(connect, req)


class _CuttableHttps(urllib.request.HTTPSHandler):
    """A handler whose connections with TLS belong to a read."""

    def __init__(self, read: KeySetRead) -> None:
        super().__init__()
        self._read = read

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connect(host: str, **options: Any) -> http.client.HTTPConnection:
            return self._read.prepare(http.client.HTTPSConnection(host, **options))

        return self.do_open(connect, req)
