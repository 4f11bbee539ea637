"""Services that may open no more files: they log little, and continue when files are free again."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx

from noetl.executor.model.run import SERVICE_QUEUE, RunStatus
from noetl.executor.runtime.repeat_limit import MAX_RECORDS
from noetl.executor.stores import open_store
from noetl.testing.store_contract.operations import CHAIN, start_run

ROOT = Path(__file__).parents[2]
PLAYBOOK = "name: short\nsteps:\n  - name: a\n    run: [{action: log, message: hello}]\n"
FILES = 64
CLIENTS = 60


@contextmanager
def running_noetl(
    folder: Path, ready: str, *arguments: str, files: int | None = None
) -> Iterator[tuple[int, Path]]:
    """Start a command that may open so many files. Yield its process id, and its log when it is ready."""
    log = folder / "log"
    limit = "" if files is None else f"import resource; resource.setrlimit(7, ({files}, {files})); "
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NOETL_")}
    environ |= {"PYTHONPATH": str(ROOT), "NOETL_STORE": f"sqlite:///{folder / 'noetl.db'}"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{limit}from noetl.api.cli import main; main()", *arguments],
            cwd=folder,
            env=environ,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: ready in log.read_text())
        yield process.pid, log
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_service_without_descriptors_logs_little_and_recovers(tmp_path: Path) -> None:
    with running_noetl(tmp_path, "serving http", "serve", "--port", "0", files=FILES) as (_, log):
        assert f"this process may open {FILES} files only" in log.read_text()
        found = re.search(r"127\.0\.0\.1:(\d+)", log.read_text())
        assert found is not None
        port = int(found[1])
        with ExitStack() as clients:
            for _ in range(CLIENTS):
                client = clients.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
                client.sendall(b"POST /workflows/run HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            wait_until(lambda: "out of system resource" in log.read_text())
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            wait_until(lambda: http.get("/readyz").is_success)
            wait = {"Prefer": "wait=20"}
            answer = http.post("/workflows/run", json={"playbook": PLAYBOOK}, headers=wait)
        assert answer.json()["status"] == "succeeded"
    assert 1 <= log.read_text().count("out of system resource") <= MAX_RECORDS
    assert log.stat().st_size < 64 * 1024


def test_a_worker_without_descriptors_logs_little_and_recovers(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path / 'noetl.db'}")) as store:
        with running_noetl(tmp_path, "working", "worker") as (pid, log):
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
            run = start_run(store, CHAIN, queue=SERVICE_QUEUE, now=time.time())
            wait_until(lambda: log.read_text().count("Too many open files") >= MAX_RECORDS)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

            def has_succeeded() -> bool:
                found = store.runs.get("default", run.id)
                return found is not None and found.status is RunStatus.SUCCEEDED

            wait_until(has_succeeded)
        assert log.read_text().count("a step could not be executed") <= MAX_RECORDS
