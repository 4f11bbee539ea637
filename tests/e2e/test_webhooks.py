"""Webhooks of several services that are killed, and the raw bytes of requests."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from tests.e2e.processes import start_silently
from tests.http_server import find_free_port

SECRET = "a-secret-of-github"
BODIES = 60
KILLS = 6
TEXT = """
name: pushed
version: "1"
input: {number: integer}
triggers:
- {name: hook, type: webhook, path: git/pushed, auth: {scheme: github, secret: "{{ secrets.GITHUB }}"},
   input: {number: "{{ trigger.body.number }}"}}
steps: [{name: a, run: [{action: log, message: "{{ input.number }}"}]}]
"""

Start = Callable[..., subprocess.Popen[str]]


def sign(body: bytes) -> dict[str, str]:
    """Return the headers that GitHub sends with a body."""
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json"}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a command with a store."""
    processes: list[subprocess.Popen[str]] = []

    def start_command(store: str, *command: str) -> subprocess.Popen[str]:
        settings = {"NOETL_STORE": store, "NOETL_WORKERS": "2", "NOETL_SECRET_GITHUB": SECRET}
        processes.append(start_silently(tmp_path, *command, **settings, NOETL_LEASE_SECONDS="2"))
        return processes[-1]

    yield start_command
    for process in processes:
        process.kill()
        process.wait()


def wait_until_ready(port: int, prefix: str = "") -> None:
    """Wait until a service on a port answers."""
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}{prefix}/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)


class PersistentSender:
    """A sender that repeats each body at all services until it has an answer, and once more after that."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.repeats = 0
        self._lock = threading.Lock()

    def send(self, number: int) -> set[str]:
        """Return the ids of the runs in all answers to a body."""
        body = json.dumps({"number": number}).encode()
        choice, answered = random.Random(number), set[str]()
        answers = 0
        while answers < 3:
            url = f"http://127.0.0.1:{choice.choice(self.ports)}/hooks/default/git/pushed"
            try:
                response = httpx.post(url, content=body, headers=sign(body), timeout=10)
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            if response.status_code == 202:
                answers += 1
                answered.add(response.json()["workflow_id"])
                with self._lock:
                    self.repeats += "Idempotency-Replayed" in response.headers
            else:
                assert response.status_code >= 500, response.text
                time.sleep(0.05)
        return answered


@pytest.mark.timeout(300)
def test_killed_services_start_one_run_for_each_body(start: Start, postgres_dsn: str) -> None:
    assert start(postgres_dsn, "db", "upgrade").wait(60) == 0
    store = open_store(postgres_dsn)
    create_services(store, catalogue()).playbooks.register(TEXT)
    ports = [find_free_port(), find_free_port()]
    services = [start(postgres_dsn, "serve", "--port", str(port)) for port in ports]
    for port in ports:
        wait_until_ready(port)
    sender = PersistentSender(ports)
    with ThreadPoolExecutor(4) as pool:
        pending = [pool.submit(sender.send, number) for number in range(BODIES)]
        victims = random.Random(7)
        for _ in range(KILLS):
            time.sleep(0.7)
            place = victims.randrange(2)
            services[place].kill()
            services[place].wait()
            services[place] = start(postgres_dsn, "serve", "--port", str(ports[place]))
            wait_until_ready(ports[place])
        answered = [future.result() for future in pending]
    assert [len(runs) for runs in answered] == [1] * BODIES
    started = {run for runs in answered for run in runs}
    assert len(started) == BODIES
    assert sender.repeats >= 2 * BODIES
    runs = store.runs.find(RunFilter("default", limit=1000))[0]
    assert {run.id for run in runs} == started
    firings, _ = store.triggers.firings("default", "pushed", "hook", limit=1000)
    assert {firing.run_id for firing in firings} == started
    store.close()


@pytest.mark.timeout(120)
def test_the_signature_is_that_of_the_bytes_below_a_root_path(start: Start, tmp_path: Path) -> None:
    """White space, the order of keys and the encoding of the body are those that the sender has signed."""
    address = f"sqlite:///{tmp_path / 'noetl.db'}"
    store = open_store(address)
    create_services(store, catalogue()).playbooks.register(TEXT)
    port = find_free_port()
    start(address, "serve", "--port", str(port), "--root-path", "/flows")
    wait_until_ready(port, "/flows")
    url = f"http://127.0.0.1:{port}/flows/hooks/default/git/pushed"
    body = b'\n{ "z": "\\u00e4\xc3\xa4",\t"number" :\r\n1, "a":1.0 }  '
    accepted = httpx.post(url, content=body, headers=sign(body))
    assert accepted.status_code == 202, accepted.text
    chunked = httpx.post(url, content=iter([body[:7], body[7:]]), headers=sign(body))
    assert chunked.json() == accepted.json()
    compact = json.dumps(json.loads(body)).encode()
    assert httpx.post(url, content=compact, headers=sign(body)).status_code == 401
    store.close()
