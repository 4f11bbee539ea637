"""An honest tenant while another tenant harms it: `python -m benchmarks.neighbours`.

A service is a process of `noetl serve` on SQLite or Postgres. The honest tenant measures three times: a
start, a status, and the first step, from the start until a status shows that a worker has begun. Meanwhile
another tenant does one of the things below. Each figure is the 99th percentile, and its ratio to that of the
tenant alone.

All requests go to this machine. Each case ends after SECONDS, and its requests and runs are bounded.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import report
from noetl.infra.migrations import upgrade
from tests.postgres import empty_database, running_server

SECONDS = 12.0
MAX_SAMPLES = 200
PAUSE_SECONDS = 0.05
TIMEOUT_SECONDS = 10.0
"""A request that takes longer counts with this time."""
MAX_START_SECONDS = 5.0
"""How long the other tenant starts runs before the measurement begins."""
FOLDER = Path(__file__).parent
NOETL = str(Path(sys.executable).with_name("noetl"))
HONEST = "name: honest\nsteps: [{name: a, run: [{action: set, set: {x: 1}}]}]\n"
RETRIES = """
name: retries
steps:
- name: a
  run:
  - action: http
    url: "http://127.0.0.1:9/"
    retry: {attempts: 1000, delay: 9.9s, backoff: 1, jitter: false}
"""
DRIPS = """
name: drips
steps: [{name: a, run: [{action: http, url: "http://127.0.0.1:PORT/", timeout: 1m}]}]
"""
MULTIPLIES = """
name: multiplies
steps:
- name: a
  loop: {items: "{{ range(100) | list }}"}
  run: [{action: workflow, playbook: multiplies, detach: true}]
"""
MANY_ITEMS = """
name: items
steps:
- {name: a, loop: {items: "{{ range(3000) | list }}"}, run: [{action: set, set: {x: "{{ item }}"}}]}
"""
LOGS = """
name: logs
steps:
- name: a
  loop: {items: "{{ range(100000) | list }}", concurrency: 8}
  run: [{action: log, message: "{{ 'x' * 100000 }}"}]
"""
TASKS = (
    "name: tasks\ntasks:\n"
    + "".join(
        f"- {{name: t{level}, run: [{', '.join([f'{{task: t{level + 1}}}'] * 50)}]}}\n" for level in range(30)
    )
    + "- {name: t30, run: [{action: set, set: {x: 1}}]}\nsteps: [{name: a, run: [{task: t0}]}]\n"
)
WAITS = """
name: waits
steps:
- name: a
  loop: {items: "{{ range(20000) | list }}", concurrency: 20000}
  run: [{action: wait, seconds: 1h}]
"""
LARGE = (
    "name: large\nsteps:\n"
    + "".join(
        f"- {{name: s{index}, run: [{{action: log, message: x}}],"
        f" rule: [{{case: default, run: [s{index + 1}]}}]}}\n"
        for index in range(4000)
    )
    + "- {name: s4000, run: [{action: log, message: x}]}\n"
)

COLUMNS: Sequence[report.Column] = (
    ("another tenant", lambda row: row["case"]),
    *(
        column
        for kind in ("start", "status", "first step")
        for column in (
            (kind, lambda row, kind=kind: f"{row[kind] * 1e3:,.0f} ms"),
            ("ratio", lambda row, kind=kind: f"{row[kind + ' ratio']:.1f}"),
        )
    ),
)


class Service:
    """A process of `noetl serve` with a key for each of two tenants."""

    def __init__(self, store: str, folder: str) -> None:
        self.environ = {
            **os.environ,
            "NOETL_STORE": store,
            "NOETL_ALLOW_NETWORKS": "127.0.0.0/8",
            "PYTHONUNBUFFERED": "1",
        }
        self.honest, self.other = (self._create_key(tenant) for tenant in ("honest", "other"))
        self._log = (Path(folder) / "service.log").open("w+")
        command = [NOETL, "serve", "--port", "0"]
        self._process = subprocess.Popen(command, env=self.environ, stdout=self._log, stderr=self._log)
        self.port = self._find_port()

    def _create_key(self, tenant: str) -> str:
        command = [NOETL, "keys", "create", "k", "--scope", "admin", "--tenant"]
        return subprocess.run(
            [*command, tenant], env=self.environ, capture_output=True, text=True, check=True
        ).stdout.strip()

    def _find_port(self) -> int:
        for _ in range(300):
            found = re.search(r"http://127\.0\.0\.1:(\d+)", Path(self._log.name).read_text())
            if found and found[1] != "0":
                return int(found[1])
            time.sleep(0.1)
        raise AssertionError(Path(self._log.name).read_text())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


class Client:
    """A connection to a service with a key."""

    def __init__(self, service: Service, key: str) -> None:
        self._port, self._key = service.port, key
        self._connection: http.client.HTTPConnection | None = None

    def request(self, method: str, path: str, body: bytes = b"", type: str = "application/json") -> Any:
        """Return (status, JSON of the response or None). A failure is (0, None)."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    "127.0.0.1", self._port, timeout=TIMEOUT_SECONDS
                )
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": type}
            self._connection.request(method, path, body or None, headers)
            response = self._connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content[:1] in b"{[" and content else None
        except (OSError, http.client.HTTPException, ValueError):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return 0, None

    def start(self, text: str) -> Any:
        return self.request("POST", "/workflows/run", text.encode(), "application/yaml")


def measure_honest(service: Service, seconds: float) -> dict[str, float]:
    """Return the 99th percentiles of a start, a status and the first step, in seconds."""
    client = Client(service, service.honest)
    times: dict[str, list[float]] = {"start": [], "status": [], "first step": []}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(times["start"]) < MAX_SAMPLES:
        begin = time.perf_counter()
        status, started = client.start(HONEST)
        times["start"].append(time.perf_counter() - begin)
        if status not in (200, 201, 202):
            times["start"][-1] = TIMEOUT_SECONDS
            continue
        path = f"/workflows/status/{started['workflow_id']}"
        while time.perf_counter() - begin < TIMEOUT_SECONDS:
            sent_at = time.perf_counter()
            _, document = client.request("GET", path)
            times["status"].append(time.perf_counter() - sent_at)
            if document is not None and document["started_at"] is not None:
                break
            time.sleep(0.002)
        times["first step"].append(time.perf_counter() - begin)
        time.sleep(PAUSE_SECONDS)
    return {kind: percentile_99(values) for kind, values in times.items()}


def percentile_99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else TIMEOUT_SECONDS


@contextmanager
def repeating(work: Callable[[], object], threads: int, limit: int) -> Iterator[None]:
    """Call `work` from threads until the block ends, at most `limit` times each."""
    stopped = threading.Event()

    def repeat() -> None:
        for _ in range(limit):
            if stopped.is_set():
                return
            work()

    running = [threading.Thread(target=repeat, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stopped.set()


def starts(text: str, count: int, *, registered: bool = False) -> Callable[[Service, ExitStack], None]:
    """Return a case that starts a number of runs of a playbook."""

    def begin(service: Service, stack: ExitStack) -> None:
        client = Client(service, service.other)
        if registered:
            client.request("POST", "/playbooks", text.encode(), "application/yaml")
        deadline = time.monotonic() + MAX_START_SECONDS
        for _ in range(count):
            if time.monotonic() < deadline:
                client.start(text)

    return begin


def drips(service: Service, stack: ExitStack) -> None:
    """Start runs whose server sends a byte every half second."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    stopped = threading.Event()
    stack.callback(stopped.set)

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while not stopped.wait(0.5):
                    connection.sendall(b"x")
            except OSError:
                return

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    starts(DRIPS.replace("PORT", str(server.getsockname()[1])), 40)(service, stack)


def graphs(service: Service, stack: ExitStack) -> None:
    started = Client(service, service.other).start(LARGE)[1]
    path = f"/workflows/{(started or {}).get('workflow_id', 'none')}/graph"
    local = threading.local()
    stack.enter_context(
        repeating(lambda: _client(local, service, service.other).request("GET", path), 45, 200)
    )


def plans(service: Service, stack: ExitStack) -> None:
    local = threading.local()

    def plan() -> None:
        _client(local, service, service.other).request("POST", "/plan", LARGE.encode(), "application/yaml")

    stack.enter_context(repeating(plan, 12, 200))


def wrong_keys(service: Service, stack: ExitStack) -> None:
    """Send about a thousand requests a second with wrong keys."""
    local = threading.local()

    def ask() -> None:
        begin = time.monotonic()
        _client(local, service, "noetl_wrong_key").request("GET", "/workflows?limit=1")
        time.sleep(max(0.01 - (time.monotonic() - begin), 0.0))

    stack.enter_context(repeating(ask, 10, 2000))


def _client(local: threading.local, service: Service, key: str) -> Client:
    if not hasattr(local, "client"):
        local.client = Client(service, key)
    client: Client = local.client
    return client


CASES: Mapping[str, Callable[[Service, ExitStack], None]] = {
    "does nothing": lambda _service, _stack: None,
    "retries a closed port": starts(RETRIES, 40),
    "reads servers that drip": drips,
    "starts itself 100 times": starts(MULTIPLIES, 1, registered=True),
    "320 runs of 3,000 items": starts(MANY_ITEMS, 320),
    "50^32 actions": starts(TASKS, 8),
    "logs 10 GB": starts(LOGS, 8),
    "20,000 waits": starts(WAITS, 4),
    "45 graphs": graphs,
    "12 large plans": plans,
    "1,000 wrong keys a second": wrong_keys,
}


def measure(store: str, names: Sequence[str], seconds: float = SECONDS) -> list[report.Row]:
    """Measure the cases on SQLite or Postgres, each with a new service on a new store."""
    rows: list[report.Row] = []
    for name in ("does nothing", *(name for name in names if name != "does nothing")):
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDER))
            if store == "SQLite":
                url = f"sqlite:///{folder}/noetl.db"
            else:
                server = stack.enter_context(running_server())
                url = stack.enter_context(empty_database(server.dsn))
                upgrade(url)
            service = Service(url, folder)
            stack.callback(service.stop)
            measure_honest(service, 1.0)
            CASES[name](service, stack)
            row: report.Row = {"case": name, **measure_honest(service, seconds)}
        alone = rows[0] if rows else row
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(
            row | {f"{kind} ratio": row[kind] / alone[kind] for kind in ("start", "status", "first step")}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=("SQLite", "Postgres"), action="append")
    parser.add_argument("--case", choices=tuple(CASES), action="append")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    for store in options.store or ("SQLite", "Postgres"):
        rows = measure(store, options.case or tuple(CASES), options.seconds)
        print(report.table(f"99th percentile of an honest tenant, {store}", COLUMNS, rows), flush=True)


if __name__ == "__main__":
    main()
