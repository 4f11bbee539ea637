"""A real Prometheus for tests: `prometheus` of the system, which `apt-get install prometheus` installs.

Each process is private to a test and listens on a port of this machine. It ends with the test.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.http_server import find_free_port

MAX_SECONDS = 50.0
PAUSE_SECONDS = 0.05


def find_program(name: str) -> str:
    """Return the path of a program of the package."""
    program = shutil.which(name)
    assert program is not None, (
        "the tests need Prometheus: run `apt-get install --no-install-recommends prometheus`"
    )
    return program


class Prometheus:
    """A running Prometheus. It scrapes every second."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> dict[str, float]:
        """Return the values of an expression, by the values of its labels."""
        response = httpx.get(f"{self._url}/api/v1/query", params={"query": expression})
        rows: list[dict[str, Any]] = response.raise_for_status().json()["data"]["result"]
        return {
            " ".join(value for _, value in sorted(r["metric"].items())): float(r["value"][1]) for r in rows
        }

    def wait_for(self, expression: str, expected: dict[str, float]) -> dict[str, float]:
        """Return the values of an expression when they are as expected, or the last ones after a while."""
        deadline = time.monotonic() + MAX_SECONDS
        while (values := self.query(expression)) != expected and time.monotonic() < deadline:
            time.sleep(PAUSE_SECONDS)
        return values


@contextmanager
def running_prometheus(folder: Path, targets: list[str]) -> Iterator[Prometheus]:
    """Start a Prometheus that scrapes `/metrics` of some addresses, and yield it when it answers."""
    job = {"job_name": "noetl", "scrape_interval": "1s", "static_configs": [{"targets": targets}]}
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": [job]}))
    url = f"127.0.0.1:{find_free_port()}"
    command = [
        find_program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={url}",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_until_ready(process, f"http://{url}", folder / "prometheus.log")
        yield Prometheus(f"http://{url}")
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + MAX_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/-/ready").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(PAUSE_SECONDS)
    raise AssertionError(log.read_text("utf-8"))
