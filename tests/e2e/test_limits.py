"""Limits that several services and workers keep, while they are killed."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noetl.api.service.compiler import InlinePlaybook
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.events import Event
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from tests.e2e.processes import start_silently

KILLS = 6
RUNS = 40
MAX_RUNS, MAX_STEPS = 6, 2
COMMANDS = (("serve", "--port", "0"), ("serve", "--port", "0"), *[("worker",)] * 4)
TEXT = f"""
name: limited
concurrency: {MAX_RUNS}
steps:
- name: first
  run: [{{action: log, message: first}}, {{action: wait, seconds: 1}}]
  rule: [{{case: default, run: [shared]}}]
- name: shared
  concurrency: {{use: api}}
  loop: {{items: "{{{{ range(40) | list }}}}", as: i}}
  run: [{{action: log, message: "{{{{ i }}}}"}}]
  rule: [{{case: default, run: [last]}}]
- name: last
  run: [{{action: log, message: last}}]
"""

Start = Callable[[tuple[str, ...]], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, postgres_dsn: str) -> Iterator[Start]:
    """Return a function that starts a command with the store of the test."""
    processes: list[subprocess.Popen[str]] = []
    settings = {"NOETL_STORE": postgres_dsn, "NOETL_LEASE_SECONDS": "2", "NOETL_WORKERS": "2"}

    def start_command(command: tuple[str, ...]) -> subprocess.Popen[str]:
        processes.append(start_silently(tmp_path, *command, **settings))
        return processes[-1]

    assert start_command(("db", "upgrade")).wait(60) == 0
    yield start_command
    for process in processes:
        process.kill()
        process.wait()


def count_most_at_once(spans: list[tuple[float, float]]) -> int:
    """Return how many of the spans overlap at most. One that ends as another begins does not overlap it."""
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    most = count = 0
    for _, change in changes:
        count += change
        most = max(most, count)
    return most


def find_span(events: list[Event], first: str, last: str) -> tuple[float, float]:
    """Return when the work of a step began, and when the work of another one ended."""
    begin = min(event.at for event in events if event.step == first and event.type == "action.log")
    return begin, max(event.at for event in events if event.step == last and event.type == "action.log")


@pytest.mark.timeout(300)
def test_killed_processes_exceed_no_limit(start: Start, postgres_dsn: str) -> None:
    store = open_store(postgres_dsn)
    try:
        check_limits_under_kills(start, store)
    finally:
        store.close()


def check_limits_under_kills(start: Start, store: Store) -> None:
    store.gates.set_limit(named_gate("default", "api"), LimitKind.STEPS, MAX_STEPS)
    services = create_services(store, catalogue())
    ids = [services.runs.start(InlinePlaybook(TEXT), StartRequest()).id for _ in range(RUNS)]
    processes = [start(command) for command in COMMANDS]
    victims = random.Random(7)
    for _ in range(KILLS):
        time.sleep(1)
        position = victims.randrange(len(COMMANDS))
        processes[position].kill()
        processes[position] = start(COMMANDS[position])
    while any(not position.status.is_final for position in store.runs.positions(ids).values()):
        for gate in store.gates.find("default", named=False)[0] + store.gates.find("default", named=True)[0]:
            assert gate.held <= gate.units
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()
    assert {position.status for position in store.runs.positions(ids).values()} == {"succeeded"}
    histories = [store.runs.events(id, limit=10_000) for id in ids]
    assert count_most_at_once([find_span(events, "first", "last") for events in histories]) <= MAX_RUNS
    assert count_most_at_once([find_span(events, "shared", "shared") for events in histories]) <= MAX_STEPS
    assert store.gates.find("default", named=False)[0] == []
    (api,) = store.gates.find("default", named=True)[0]
    assert (api.held, api.waiting) == (0, 0)
    assert store.maintenance.check_consistency() == []
