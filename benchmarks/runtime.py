"""The runtime client of AWS with a function, and a server of the Lambda runtime API that drives it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

INVOCATION_SECONDS = 120.0
_NEXT = "/2018-06-01/runtime/invocation/next"


class _RuntimeApiServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of clients that were killed."""


class LambdaRuntime:
    """A process that runs a handler: the queue of its events, and the queue of its answers."""

    def __init__(self) -> None:
        self.events: queue.Queue[bytes] = queue.Queue()
        self.answers: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def invoke(self, event: Mapping[str, Any]) -> tuple[Any, float]:
        """Send an event. Return the answer of the handler, and the seconds until it arrived.

        Raises:
            RuntimeError: the handler raised an exception. The message is the report to Lambda.
        """
        began = time.perf_counter()
        self.events.put(json.dumps(event).encode())
        kind, body = self.answers.get(timeout=INVOCATION_SECONDS)
        seconds = time.perf_counter() - began
        if kind != "response":
            raise RuntimeError(body.decode())
        return json.loads(body), seconds


@contextmanager
def running(python: Path, folder: Path, handler: str, **environ: str) -> Iterator[LambdaRuntime]:
    """Run a handler of the package in a folder, until the block ends."""
    runtime = LambdaRuntime()

    class _RuntimeApiHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet for headers and body; otherwise the client waits for an acknowledgement

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            assert self.path == _NEXT, self.path
            body = runtime.events.get()
            deadline = int((time.time() + INVOCATION_SECONDS) * 1000)
            arn = "arn:aws:lambda:us-east-1:123456789012:function:benchmark"
            named = {"Aws-Request-Id": "1", "Deadline-Ms": str(deadline), "Invoked-Function-Arn": arn}
            self._answer(200, body, {f"Lambda-Runtime-{name}": value for name, value in named.items()})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(202, b"{}", {})
            runtime.answers.put((self.path.rpartition("/")[2], body))

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            always = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            for name, value in {**headers, **always}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    server = _RuntimeApiServer(("127.0.0.1", 0), _RuntimeApiHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    given = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "AWS_LAMBDA_FUNCTION_NAME": "benchmark",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "LAMBDA_TASK_ROOT": str(folder),
        **environ,
    }
    command = [str(python), "-m", "awslambdaric", handler]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **given}, stdout=subprocess.DEVNULL)
    try:
        yield runtime
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()
