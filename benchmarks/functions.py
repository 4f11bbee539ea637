"""`python -m benchmarks.functions`: the functions of Lambda. How large their packages are, how long they take until they can
work, and what a step takes when they are warm.

They run in an environment in which there is nothing but the runtime client and boto3, as in Lambda, from packages built for
this machine.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.measure import seconds
from executor.actions import catalogue
from executor.start import new_run
from executor.stores import open_store
from executor.stores.dynamo.store import DynamoStore
from infra.build import MEGABYTE, build
from infra.dynamodb import upgrade
from planner.compile import compile_playbook
from tests.tools import environment

RUNTIME = ("awslambdaric==4.2.2", "boto3")
REPETITIONS = 9
STEPS = 60
ONE = "name: one\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"

STEP = "import executor.lambda_handler, executor.keeping, executor.stores.dynamo.store, executor.actions.set, botocore.session"
"""The function that walks, with what its first message makes it import."""

API = "import api.lambda_handler, executor.stores.dynamo.store, botocore.session; api.lambda_handler._app()"
"""The function that answers, with its app made."""

COLD: Sequence[report.Column] = (
    ("function", lambda row: row["function"]),
    ("zipped", lambda row: f"{row['megabytes']:.1f} MB"),
    ("to import", lambda row: f"{row['seconds'] * 1e3:,.0f} ms"),
    ("compared with", lambda row: row["baseline"]),
    ("that", lambda row: f"{row['baseline_seconds'] * 1e3:,.0f} ms"),
    ("ratio", lambda row: f"{row['ratio']:.2f}"),
)
WARM: Sequence[report.Column] = (
    ("invocation", lambda row: row["invocation"]),
    ("median", lambda row: f"{row['seconds'] * 1e3:,.1f} ms"),
    ("in reads of one item", lambda row: f"{row['reads']:.1f}"),
)


def packages(folder: Path) -> dict[str, float]:
    """The packages of the functions, built into a folder, and how many megabytes each has zipped."""
    version = ".".join(platform.python_version_tuple()[:2])
    architecture = "arm64" if platform.machine() == "aarch64" else "x86_64"
    built = {name: build(name, folder / name, python=version, architecture=architecture) for name in ("step", "api")}
    return {name: zipped / MEGABYTE for name, (zipped, _) in built.items()}


def cold(folder: Path, megabytes: dict[str, float]) -> list[report.Row]:
    """How long each function takes to import, less what Python takes without it, beside what it cannot do without."""
    empty = _import_seconds(folder / "step", "pass")
    rows = []
    for name, code, baseline in (("step", STEP, "import boto3"), ("api", API, "import fastapi, mangum, boto3")):
        taken, least = (_import_seconds(folder / name, one) - empty for one in (code, baseline))
        rows.append(
            {
                "function": name,
                "megabytes": megabytes[name],
                "seconds": taken,
                "baseline": baseline,
                "baseline_seconds": least,
                "ratio": taken / least,
            }
        )
    return rows


def _import_seconds(folder: Path, code: str) -> float:
    python = environment(*RUNTIME) / "bin" / "python"
    return seconds(lambda: subprocess.run([python, "-c", code], cwd=folder, check=True), REPETITIONS)


class Runtime:
    """The interface of Lambda to a runtime: hands out events one after another, and takes what comes back."""

    def __init__(self) -> None:
        self._events: queue.Queue[bytes] = queue.Queue()
        self._answers: queue.Queue[tuple[float, str, bytes]] = queue.Queue()
        runtime = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet

            def do_GET(self) -> None:
                body = runtime._events.get()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", "request")
                self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 60_000))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:1:function:step")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                runtime._answers.put((time.perf_counter(), self.path, body))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def invoke(self, event: Any) -> float:
        """How many seconds an invocation takes."""
        began = time.perf_counter()
        self._events.put(json.dumps(event).encode())
        ended, path, body = self._answers.get(timeout=60)
        assert path.endswith("/response"), body
        assert json.loads(body) == {"batchItemFailures": []}
        return ended - began

    @contextmanager
    def running(self, folder: Path, handler: str) -> Iterator[None]:
        """The handler of a package is under the runtime client."""
        python = environment(*RUNTIME) / "bin" / "python"
        environ = {**os.environ, "AWS_LAMBDA_RUNTIME_API": self.address, "AWS_LAMBDA_FUNCTION_NAME": "step"}
        command = [python, "-m", "awslambdaric", handler]
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()
            self._server.shutdown()


def warm(folder: Path, steps: int) -> list[report.Row]:
    """What a run of one step takes, beginning and end included, and its first invocation, in an emulator of AWS."""
    from tests import aws

    with pytest.MonkeyPatch.context() as patch:
        server = aws.aws_server.__wrapped__()  # type: ignore[attr-defined]
        account = aws.aws.__wrapped__(next(server), patch)  # type: ignore[attr-defined]
        client = next(account)
        upgrade("noetl")
        sqs = client("sqs")
        url = sqs.create_queue(QueueName="noetl")["QueueUrl"]
        patch.setenv("NOETL_STORE", "dynamodb://noetl")
        patch.setenv("NOETL_QUEUE", url)
        store = open_store()
        assert isinstance(store, DynamoStore)
        found = compile_playbook(ONE, catalogue())
        assert found.plan is not None
        store.save_plan(found.plan)
        events = []
        for _ in range(steps):
            store.create_run(*new_run(found.plan.header, found.plan.hash, {}, now=time.time()))
            (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            events.append({"Records": [{"messageId": "m", "body": message["Body"]}]})
        read = seconds(lambda: store.key("nobody's"), REPETITIONS)
        runtime = Runtime()
        with runtime.running(folder / "step", "executor.lambda_handler.step"):
            first, *rest = [runtime.invoke(event) for event in events]
        next(account, None)
        next(server, None)
    usual = statistics.median(rest)
    return [
        {"invocation": "the first", "seconds": first, "reads": first / read},
        {"invocation": "warm: a run of one step, from its message to its end", "seconds": usual, "reads": usual / read},
    ]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="noetl-functions-") as name:
        folder = Path(name)
        megabytes = packages(folder)
        print(report.table("Functions, in an environment with boto3 and nothing else", COLD, cold(folder, megabytes)))
        print(report.table("A step under the runtime client, in an emulator", WARM, warm(folder, STEPS)))


if __name__ == "__main__":
    main()
