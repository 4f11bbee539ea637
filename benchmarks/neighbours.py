"""An honest tenant while another tenant harms it: `python -m benchmarks.neighbours`.

A service is a process of `noetl serve` on SQLite or Postgres. The honest tenant measures three times: a
start, a status, and the first step, from the start until a status shows that a worker has begun. First it is
alone. Then another tenant, a process of its own, does one of the things below. Each figure is the median of
the 99th percentiles of some rounds, and of their ratios. Each round has a new service, so its two figures are
measured under the same load of the machine.

Two cases are controls. A tenant that computes elsewhere uses the processors of the machine, and sends no
request. With `--apart` it has a service and a store of its own, so what remains is the load of the machine.
All requests go to this machine. A round ends after SECONDS, and the runs are bounded.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from benchmarks import report
from noetl.infra.migrations import upgrade
from tests.postgres import empty_database, running_server

SECONDS = 10.0
ROUNDS = 3
KINDS = ("start", "status", "first step")
MAX_SAMPLES = 200
PAUSE_SECONDS = 0.005
TIMEOUT_SECONDS = 10.0
"""A request that takes longer counts with this time."""
MAX_START_SECONDS = 5.0
"""How long the other tenant starts runs before the measurement begins."""
MAX_CHILD_START_SECONDS = 120.0
"""How long a run of the other tenant starts its child runs, before the measurement begins."""
MAX_READ_BYTES = 100_000
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
SLEEPER = "name: sleeper\nsteps: [{name: a, run: [{action: wait, seconds: 1h}]}]\n"
CHILD_RUNS = """
name: parent
steps:
- name: a
  loop: {items: "{{ range(3000) | list }}", concurrency: 3000}
  run: [{action: workflow, playbook: sleeper}]
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

WITH_INPUT = "name: with_input\ninput: {rows: array}\nsteps: [{name: a, run: [{action: set, set: {x: 1}}]}]\n"

LARGE_VALUE = """
name: large_value
steps:
- name: a
  run:
  - {action: set, set: {x: "{{ range(200000) | list }}"}}
  - {action: set, set: {x: "{{ [x, x, x, x, x] }}"}}
output: {x: "{{ x }}"}
"""
"""A playbook whose result has 7 MB."""

LARGE_STEPS = """
name: large_steps
steps:
- name: a
  max_visits: 10000
  run:
  - {action: set, set: {x: "{{ range(200000) | list }}"}}
  - {action: set, set: {x: "{{ [x, x, x] }}"}}
  rule: [{case: default, run: [b]}]
- name: b
  max_visits: 10000
  run: [{action: set, set: {y: "{{ x[0] }}"}}]
  rule: [{case: default, run: [a]}]
"""
"""A playbook whose steps save 4 MB and read it, again and again."""

LONG_EVENTS = """
name: long_events
steps:
- name: a
  loop: {items: "{{ range(1000) | list }}"}
  run: [{action: log, message: "{{ 'x' * 8000 }}"}]
"""
"""A playbook whose events have 8 MB, in one page."""

SLOW = "{{ ('a b ' * 5000) | wordcount }} " * 58
"""A text that takes some 50 ms, nearly the budget of a section."""
SLOW_DATA = f'environment: {{e: "{SLOW}"}}\nvariables: {{v: "{SLOW}"}}\n'
FIRED = f"""
name: fired
input: {{given: {{default: 0}}}}
triggers:
- {{name: nightly, type: schedule, every: 1d, input: {{given: "{SLOW}"}}}}
- {{name: hook, type: webhook, path: hook, auth: {{scheme: api_key}}, input: {{given: "{SLOW}"}}}}
{SLOW_DATA}steps: [{{name: a, run: [{{action: set, set: {{x: 1}}}}]}}]
"""
EVERY_SECOND = FIRED.replace("every: 1d", "every: 1s", 1)
CORRECTED = f"""
name: corrected
input: {{number: {{default: 0}}}}
{SLOW_DATA}steps: [{{name: a, run: [{{action: fail, message: wrong}}]}}]
"""

COLUMNS: Sequence[report.Column] = (
    ("another tenant", lambda row: row["case"]),
    *(
        column
        for kind in KINDS
        for column in (
            (f"{kind} alone", lambda row, kind=kind: f"{row[f'{kind} alone'] * 1e3:,.0f} ms"),
            (kind, lambda row, kind=kind: f"{row[kind] * 1e3:,.0f} ms"),
            ("ratio", lambda row, kind=kind: f"{row[f'{kind} ratio']:.1f}"),
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
    """A connection to the service at a port, with a key."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self._key = port, key
        self._connection: http.client.HTTPConnection | None = None

    def request(
        self, method: str, path: str, body: bytes = b"", type: str = "application/json", *, prefer: str = ""
    ) -> Any:
        """Return (status, JSON of a short response or None). A failure is (0, None)."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
            headers = {**self.headers(), "Content-Type": type, "Prefer": prefer}
            self._connection.request(method, path, body or None, headers)
            response = self._connection.getresponse()
            content = response.read()
            is_read = content[:1] == b"{" and len(content) < MAX_READ_BYTES
            return response.status, json.loads(content) if is_read else None
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            return 0, None

    def close(self) -> None:
        """Close the connection. The next request opens another one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def headers(self, accept: str = "*/*") -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}", "Accept": accept}

    def start(self, text: str) -> Any:
        return self.request("POST", "/workflows/run", text.encode(), "application/yaml")


Connect: TypeAlias = Callable[[], Client]
Case: TypeAlias = Callable[[Connect], None]
"""A function that begins what the other tenant does. Its threads may continue."""

Times: TypeAlias = tuple[dict[str, float], dict[str, float]]


def measure_honest(service: Service, seconds: float) -> dict[str, float]:
    """Return the 99th percentiles of a start, a status and the first step, in seconds."""
    client = Client(service.port, service.honest)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
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
    client.close()
    return {kind: percentile_99(values) for kind, values in times.items()}


def percentile_99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else TIMEOUT_SECONDS


@contextmanager
def attack(service: Service, name: str) -> Iterator[None]:
    """Let another process be the other tenant, whose case is `name`, until the block ends.

    In this process it would delay the measurement itself.
    """
    command = [sys.executable, "-m", "benchmarks.neighbours", "--attack", name, "--port", str(service.port)]
    environ = {**service.environ, "NOETL_API_KEY": service.other}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


def perform_attack(name: str, port: int, key: str) -> None:
    """Begin a case, report this on standard output, and continue until standard input ends.

    On Linux the process computes only while no other one wants the processor, since another tenant has a
    machine of its own. With a low priority instead, the control that computes elsewhere doubled a start.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    CASES[name](lambda: Client(port, key))
    print("begun", flush=True)
    sys.stdin.read()


def repeat(work: Callable[[], object], threads: int) -> None:
    """Call `work` again and again on threads that end with the process."""

    def work_for_ever() -> None:
        while True:
            work()

    for _ in range(threads):
        threading.Thread(target=work_for_ever, daemon=True).start()


def starts(text: str, count: int, *, registered: bool = False) -> Case:
    """Return a case that starts a number of runs of a playbook."""

    def begin(connect: Connect) -> None:
        client = connect()
        if registered:
            client.request("POST", "/playbooks", text.encode(), "application/yaml")
        deadline = time.monotonic() + MAX_START_SECONDS
        for _ in range(count):
            if time.monotonic() < deadline:
                client.start(text)

    return begin


def drips(connect: Connect) -> None:
    """Start runs whose server sends a byte every half second."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                time.sleep(0.5)
                connection.sendall(b"x")

    def accept() -> None:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()

    repeat(accept, 1)
    starts(DRIPS.replace("PORT", str(server.getsockname()[1])), 40)(connect)


def graphs(connect: Connect) -> None:
    """Ask for the graph of a large run from 45 connections."""
    started = connect().start(LARGE)[1]
    path = f"/workflows/{(started or {}).get('workflow_id', 'none')}/graph"
    _repeat_request(connect, 45, "GET", path)


def runs_with_graphs(connect: Connect) -> None:
    """Ask for a large run with its graph, as the page does, from 45 connections."""
    started = connect().start(LARGE)[1]
    path = f"/workflows/{(started or {}).get('workflow_id', 'none')}?include=graph"
    _repeat_request(connect, 45, "GET", path)


def statuses(connect: Connect) -> None:
    """Ask for the status of a run from 45 connections."""
    started = connect().start(HONEST)[1]
    _repeat_request(connect, 45, "GET", f"/workflows/status/{(started or {}).get('workflow_id', 'none')}")


def large_results(connect: Connect) -> None:
    """Ask for the result of a run, of 7 MB, from 45 connections."""
    _repeat_request(connect, 45, "GET", f"/workflows/result/{_ended_run(connect())}")


def large_pages(connect: Connect) -> None:
    """Ask for a page of events, of 8 MB, from 45 connections."""
    _repeat_request(connect, 45, "GET", f"/workflows/{_ended_run(connect(), LONG_EVENTS)}/events")


def large_steps(connect: Connect) -> None:
    """Ask for a step that has saved 7 MB from 45 connections. The answer has the beginning of the value."""
    _repeat_request(connect, 45, "GET", f"/workflows/{_ended_run(connect())}/step?name=a")


def _ended_run(client: Client, playbook: str = LARGE_VALUE) -> str:
    """Return the id of a run of a playbook, which has ended."""
    started = client.start(playbook)[1]
    id = str((started or {}).get("workflow_id", "none"))
    status, _ = client.request("GET", f"/workflows/result/{id}", prefer="wait=8")
    assert status == 200, status
    return id


def plans(connect: Connect) -> None:
    """Send a large playbook from 12 connections, each time another one."""
    numbers = itertools.count()
    local = threading.local()

    def plan() -> None:
        body = LARGE.replace("name: large", f"name: large{next(numbers)}", 1).encode()
        _client(local, connect).request("POST", "/plan", body, "application/yaml")

    repeat(plan, 12)


def drafts(connect: Connect) -> None:
    """Check drafts of a large playbook as the page does, from 12 connections, each time another one."""
    numbers = itertools.count()
    local = threading.local()

    def check() -> None:
        text = LARGE.replace("name: large", f"name: large{next(numbers)}", 1)
        body = json.dumps({"text": text, "line": 40}).encode()
        _client(local, connect).request("POST", "/plan/draft", body)

    repeat(check, 12)


def fires(connect: Connect) -> None:
    """Fire a trigger by hand from 45 connections. Its input and the data of its run are slow."""
    connect().request("POST", "/playbooks", FIRED.encode(), "application/yaml")
    _repeat_request(connect, 45, "POST", "/triggers/fired/nightly/fire")


def webhooks(connect: Connect) -> None:
    """Send requests to a webhook from 45 connections, each time another body. It is as slow."""
    connect().request("POST", "/playbooks", FIRED.encode(), "application/yaml")
    numbers = itertools.count()
    local = threading.local()

    def send() -> None:
        body = json.dumps({"number": next(numbers)}).encode()
        _client(local, connect).request("POST", "/hooks/other/hook", body)

    repeat(send, 45)


def schedules(connect: Connect) -> None:
    """Register twenty playbooks with a schedule that is due each second, and which are as slow."""
    client = connect()
    for number in range(20):
        body = EVERY_SECOND.replace("name: fired", f"name: every{number}", 1)
        body = body.replace("path: hook", f"path: hook{number}", 1)
        client.request("POST", "/playbooks", body.encode(), "application/yaml")


def corrected_inputs(connect: Connect) -> None:
    """Ask for previews of a resume with other inputs from 45 connections. The environment is slow."""
    path = f"/workflows/{_failed_run(connect())}/resume"
    numbers = itertools.count()
    local = threading.local()

    def resume() -> None:
        body = json.dumps({"input": {"number": next(numbers)}, "dry_run": True}).encode()
        _client(local, connect).request("POST", path, body)

    repeat(resume, 45)


def switches(connect: Connect) -> None:
    """Let twelve failed runs continue in other versions from 45 connections, each time in another one."""
    client = connect()
    paths = [f"/workflows/{_failed_run(client)}/resume" for _ in range(12)]
    numbers = itertools.count()
    local = threading.local()

    def switch() -> None:
        number = next(numbers)
        text = CORRECTED.replace("message: wrong", f"message: wrong {number}")
        body = json.dumps({"playbook": text}).encode()
        _client(local, connect).request("POST", paths[number % len(paths)], body)

    repeat(switch, 45)


def _failed_run(client: Client) -> str:
    """Return the id of a new run that has failed."""
    started = client.start(CORRECTED)[1]
    id = str((started or {}).get("workflow_id", "none"))
    client.request("GET", f"/workflows/result/{id}", prefer="wait=8")
    return id


def large_inputs(connect: Connect) -> None:
    """Start runs with an input of 1 MB from 45 connections."""
    body = json.dumps({"playbook": WITH_INPUT, "input": {"rows": ["x" * 90] * 10_000}}).encode()
    _repeat_request(connect, 45, "POST", "/workflows/run", body)


def pauses(connect: Connect) -> None:
    """Pause a run with 3,000 child runs, and let it continue, again and again."""
    client = connect()
    client.request("POST", "/playbooks", SLEEPER.encode(), "application/yaml")
    id = str((client.start(CHILD_RUNS)[1] or {}).get("workflow_id", "none"))
    deadline = time.monotonic() + MAX_CHILD_START_SECONDS
    while (client.request("GET", f"/workflows/status/{id}")[1] or {}).get("status") != "waiting":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    local = threading.local()

    def pause() -> None:
        for command in ("pause", "unpause"):
            _client(local, connect).request("POST", f"/workflows/{id}/{command}")

    repeat(pause, 1)


def versions(connect: Connect) -> None:
    """Register a large playbook from 12 connections, each time in another version."""
    numbers = itertools.count()
    local = threading.local()

    def register() -> None:
        body = LARGE.replace("message: x", f"message: x{next(numbers)}", 1).encode()
        _client(local, connect).request("POST", "/playbooks", body, "application/yaml")

    repeat(register, 12)


def lists(connect: Connect) -> None:
    """Ask for lists and figures of many runs from 45 connections."""
    starts(HONEST, 2000)(connect)
    paths = (
        "/workflows?limit=100&q=x",
        "/workflows/counts?q=x",
        "/workflows/histogram?q=x",
        "/workflows/statistics?playbook=honest",
    )
    numbers = itertools.count()
    local = threading.local()
    repeat(lambda: _client(local, connect).request("GET", paths[next(numbers) % len(paths)]), 45)


def streams(connect: Connect) -> None:
    """Read the events of a run that logs, from 45 connections."""
    id = connect().start(LOGS.replace("100000", "2000"))[1]["workflow_id"]
    local = threading.local()

    def read() -> None:
        client = _client(local, connect)
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", f"/workflows/{id}/events", headers=client.headers("text/event-stream"))
            response = connection.getresponse()
            while response.read(65536):
                pass
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
        finally:
            connection.close()

    repeat(read, 45)


def wrong_keys(connect: Connect) -> None:
    """Send about a thousand requests a second with wrong keys."""
    port = connect().port
    local = threading.local()

    def ask() -> None:
        begin = time.monotonic()
        _client(local, lambda: Client(port, "noetl_wrong_key")).request("GET", "/workflows?limit=1")
        time.sleep(max(0.01 - (time.monotonic() - begin), 0.0))

    repeat(ask, 10)


def _repeat_request(connect: Connect, threads: int, method: str, path: str, body: bytes = b"") -> None:
    local = threading.local()
    repeat(lambda: _client(local, connect).request(method, path, body), threads)


def _client(local: threading.local, connect: Connect) -> Client:
    if not hasattr(local, "client"):
        local.client = connect()
    client: Client = local.client
    return client


CASES: Mapping[str, Case] = {
    "does nothing": lambda _connect: None,
    "computes elsewhere": lambda _connect: repeat(lambda: sum(range(100_000)), 2),
    "retries a closed port": starts(RETRIES, 40),
    "reads servers that drip": drips,
    "starts itself 100 times": starts(MULTIPLIES, 1, registered=True),
    "320 runs of 3,000 items": starts(MANY_ITEMS, 320),
    "50^32 actions": starts(TASKS, 8),
    "logs 10 GB": starts(LOGS, 8),
    "20,000 waits": starts(WAITS, 4),
    "45 graphs": graphs,
    "45 runs with graphs": runs_with_graphs,
    "45 statuses": statuses,
    "45 results of 7 MB": large_results,
    "45 pages of events of 8 MB": large_pages,
    "45 steps of 7 MB": large_steps,
    "steps that save 4 MB": starts(LARGE_STEPS, 8),
    "12 large plans": plans,
    "1,000 wrong keys a second": wrong_keys,
    "12 large drafts": drafts,
    "45 fires by hand": fires,
    "45 webhooks": webhooks,
    "20 schedules each second": schedules,
    "45 corrected inputs": corrected_inputs,
    "45 plan switches": switches,
    "45 starts with 1 MB": large_inputs,
    "12 large versions": versions,
    "45 lists": lists,
    "45 streams": streams,
    "pauses 3,000 runs": pauses,
}


def measure_round(store: str, name: str, seconds: float, *, is_apart: bool) -> Times:
    """Measure a case once, with a new service on a new store: (alone, with the other tenant).

    If the other tenant is apart, it has a service and a store of its own.
    """
    with ExitStack() as stack:
        dsn = "" if store == "SQLite" else stack.enter_context(running_server()).dsn
        services = [_start_service(stack, dsn) for _ in range(1 + is_apart)]
        service, attacked = services[0], services[-1]
        measure_honest(service, 1.0)
        alone = measure_honest(service, seconds)
        with attack(attacked, name):
            return alone, measure_honest(service, seconds)


def _start_service(stack: ExitStack, dsn: str) -> Service:
    """Return a service on a new store: a database of the server at `dsn`, or a file if this is empty."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDER))
    url = f"sqlite:///{folder}/noetl.db"
    if dsn:
        url = stack.enter_context(empty_database(dsn))
        upgrade(url)
    service = Service(url, folder)
    stack.callback(service.stop)
    return service


def measure(store: str, options: argparse.Namespace) -> list[report.Row]:
    """Measure the cases on SQLite or Postgres. Each figure is the median of the rounds."""
    rows: list[report.Row] = []
    for name in options.case or CASES:
        results = [
            measure_round(store, name, options.seconds, is_apart=options.apart) for _ in range(options.rounds)
        ]
        row: report.Row = {"case": name}
        for kind in KINDS:
            row[f"{kind} alone"] = median(alone[kind] for alone, _ in results)
            row[kind] = median(attacked[kind] for _, attacked in results)
            row[f"{kind} ratio"] = median(attacked[kind] / alone[kind] for alone, attacked in results)
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=("SQLite", "Postgres"), action="append")
    parser.add_argument("--case", choices=tuple(CASES), action="append")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--apart", action="store_true", help="the other tenant has a service of its own")
    parser.add_argument("--attack", choices=tuple(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        perform_attack(options.attack, options.port, os.environ["NOETL_API_KEY"])
        return
    for store in options.store or ("SQLite", "Postgres"):
        rows = measure(store, options)
        print(report.table(f"99th percentile of an honest tenant, {store}", COLUMNS, rows), flush=True)


if __name__ == "__main__":
    main()
