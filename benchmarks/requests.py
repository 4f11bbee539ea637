"""Processor time of a request to `noetl serve`: `python -m benchmarks.requests`.

Each command is a program with the commands of NoETL, such as that of another commit. A service of each has a
store of its own. They get the same requests in alternating rounds, on one connection. The figures
are medians of the processor time that a process has used in a round, divided by the number of requests.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.measure import work_seconds
from tests.postgres import empty_database, running_server

NOETL = str(Path(sys.executable).with_name("noetl"))
PLAYBOOK = b"name: one\nsteps: [{name: a, run: [{action: set, set: {x: 1}}]}]\noutput: {x: '{{ x }}'}\n"
LISTED_RUNS = 20
CHAIN_LENGTH = 100
CHAIN = "name: chain\nsteps:\n" + "".join(
    f"- {{name: s{number}, run: [{{action: set, set: {{x: {number}}}}}],"
    f" rule: [{{case: default, run: [{'s' + str(number + 1) if number + 1 < CHAIN_LENGTH else ''}]}}]}}\n"
    for number in range(CHAIN_LENGTH)
)
"""A playbook of steps that follow each other."""


class MeasuredService:
    """A service of a command, and a connection to it with a key."""

    def __init__(self, command: Sequence[str], folder: Path, store: str) -> None:
        self._environ = {**os.environ, "NOETL_STORE": store, "PYTHONUNBUFFERED": "1"}
        if store.startswith("postgres"):
            subprocess.run([*command, "db", "upgrade"], env=self._environ, capture_output=True, check=True)
        self._log = (folder / "service.log").open("w+")
        key = [*command, "keys", "create", "k", "--scope", "admin"]
        created = subprocess.run(key, env=self._environ, capture_output=True, text=True, check=True)
        self._headers = {"Authorization": f"Bearer {created.stdout.strip()}"}
        self._process = subprocess.Popen(
            [*command, "serve", "--port", "0"], env=self._environ, stdout=self._log, stderr=self._log
        )
        self._connection = http.client.HTTPConnection("127.0.0.1", self._find_port(), timeout=60)
        self.run_id = self.start(PLAYBOOK)
        for _ in range(LISTED_RUNS):
            self.start(PLAYBOOK)

    def start(self, playbook: bytes) -> str:
        """Start a run, wait for its end, and return its id."""
        headers = {"Content-Type": "application/yaml", "Prefer": "wait=25"}
        answer = self.request("POST", "/workflows/run", playbook, headers)
        run = json.loads(answer)
        assert run["status"] == "succeeded", run
        return str(run["workflow_id"])

    def request(self, method: str, path: str, body: bytes = b"", headers: Any = None) -> bytes:
        """Send a request, and return the body of its response."""
        self._connection.request(method, path, body or None, {**self._headers, **(headers or {})})
        response = self._connection.getresponse()
        content = response.read()
        assert response.status < 300, content
        return content

    def connect_again(self) -> None:
        """Give up the connection, which the service closes if it is idle for seconds."""
        self._connection.close()

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has used."""
        return work_seconds([self._process.pid])

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _find_port(self) -> int:
        for _ in range(600):
            found = re.search(r"http://127\.0\.0\.1:(\d+)", Path(self._log.name).read_text())
            if found and found[1] != "0":
                return int(found[1])
            time.sleep(0.1)
        raise AssertionError(Path(self._log.name).read_text())


@dataclass(frozen=True)
class MeasuredWork:
    """A kind of requests. `send` sends one, which counts as `parts`."""

    name: str
    send: Callable[[MeasuredService], object]
    parts: int = 1


KINDS = (
    MeasuredWork("healthz", lambda service: service.request("GET", "/healthz")),
    MeasuredWork("status", lambda service: service.request("GET", f"/workflows/status/{service.run_id}")),
    MeasuredWork(
        f"list of {LISTED_RUNS}", lambda service: service.request("GET", f"/workflows?limit={LISTED_RUNS}")
    ),
    MeasuredWork("start and run", lambda service: service.start(PLAYBOOK)),
    MeasuredWork("step of a chain", lambda service: service.start(CHAIN.encode()), parts=CHAIN_LENGTH),
)


def measure(
    commands: Sequence[Sequence[str]], database: str, rounds: int, count: int
) -> list[dict[str, Any]]:
    """Return a row for each kind of request, with the milliseconds for each command."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_server()).dsn if database == "Postgres" else None
        services = []
        for index, command in enumerate(commands):
            (service_folder := folder / str(index)).mkdir()
            url = (
                f"sqlite:///{service_folder}/noetl.db"
                if server is None
                else stack.enter_context(empty_database(server))
            )
            services.append(MeasuredService(command, service_folder, url))
            stack.callback(services[-1].close)
        return [_measure_kind(kind, services, rounds, max(count // kind.parts, 1)) for kind in KINDS]


def _measure_kind(
    kind: MeasuredWork, services: Sequence[MeasuredService], rounds: int, count: int
) -> dict[str, Any]:
    milliseconds: list[list[float]] = [[] for _ in services]
    for _ in range(rounds):
        for service, figures in zip(services, milliseconds, strict=True):
            service.connect_again()
            before = service.cpu_seconds()
            for _ in range(count):
                kind.send(service)
            figures.append((service.cpu_seconds() - before) / (count * kind.parts) * 1e3)
    medians = [statistics.median(figures) for figures in milliseconds]
    cells = {str(number): f"{median:.2f} ms" for number, median in enumerate(medians, 1)}
    # The system counts in hundredths of a second, so that of a few requests may be none.
    ratio = f"{medians[-1] / medians[0]:.2f}" if medians[0] else "-"
    return {"kind": kind.name, "ratio": ratio, **cells}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.requests", description=__doc__)
    parser.add_argument("--command", action="append", help="a program with the commands of NoETL")
    parser.add_argument("--database", choices=("SQLite", "Postgres"), default="SQLite")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=200, help="requests or steps of a round")
    options = parser.parse_args()
    commands = [shlex.split(command) for command in options.command or [NOETL]]
    rows = measure(commands, options.database, options.rounds, options.count)
    columns: list[report.Column] = [("request", itemgetter("kind"))]
    columns += [(f"command {number}", itemgetter(str(number))) for number in range(1, len(commands) + 1)]
    columns.append(("last/first", itemgetter("ratio")))
    print(report.table(f"Processor time of a request on {options.database}", columns, rows))


if __name__ == "__main__":
    main()
