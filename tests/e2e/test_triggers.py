"""Triggers that several services and workers perform, while they are killed."""

from __future__ import annotations

import itertools
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.outbox import OutboxKind
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.triggers import Firing, FiringOutcome, instant_key
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from tests.e2e.processes import start_silently

KILLS = 8
TRIGGERS = 10
COMMANDS = (*[("serve", "--port", "0")] * 2, *[("worker",)] * 4)
TEXT = (
    "name: ticking\ntriggers:\n"
    + "".join(
        f"- {{name: t{n}, type: schedule, every: 1s, catch_up: all, input: {{at: '{{{{ now() }}}}'}}}}\n"
        for n in range(TRIGGERS)
    )
    + "input: {at: {type: string}}\n"
    + 'steps: [{name: a, run: [{action: log, message: "{{ at }}"}]}]\n'
)

AFTER = """
name: after
triggers: [{name: ended, type: run, playbook: ticking, input: {id: "{{ trigger.workflow_id }}"}}]
input: {id: string}
steps: [{name: a, run: [{action: log, message: "{{ id }}"}]}]
"""

SETTLING = """
name: settling
debounce: {wait: 2s, max: 3s}
triggers:
- {name: often, type: schedule, every: 1s, catch_up: all, input: {at: "{{ trigger.scheduled_at }}"}}
input: {at: string}
steps: [{name: a, run: [{action: log, message: "{{ at }}"}]}]
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


@pytest.fixture
def store(start: Start, postgres_dsn: str) -> Iterator[Store]:
    del start  # It has created the tables.
    opened = open_store(postgres_dsn)
    yield opened
    opened.close()


def find_firings(store: Store, trigger: str, playbook: str = "ticking") -> list[Firing]:
    """Return all firings of a trigger, oldest first."""
    firings: list[Firing] = []
    cursor = None
    while True:
        page, cursor = store.triggers.firings("default", playbook, trigger, cursor=cursor)
        firings += page
        if cursor is None:
            return sorted(firings, key=lambda firing: firing.scheduled_at or 0.0)


def find_runs(store: Store, playbook: str) -> list[RunSummary]:
    """Return all runs of a playbook."""
    return store.runs.find(RunFilter("default", playbook=playbook, limit=10_000))[0]


def check_pending(store: Store) -> None:
    """Check that at most one run waits for further firings."""
    pending = RunFilter("default", playbook="settling", statuses=[RunStatus.QUEUED])
    assert len(store.runs.find(pending)[0]) <= 1


def check_settling(store: Store) -> None:
    """Check that each firing has joined one run, and that each run has the input of its last firing."""
    firings = find_firings(store, "often", "settling")
    groups = [
        (id, list(group)) for id, group in itertools.groupby(firings, lambda firing: str(firing.run_id))
    ]
    assert {run.id for run in find_runs(store, "settling")} == {id for id, _ in groups}
    assert 1 < len({id for id, _ in groups}) == len(groups) < len(firings)
    for id, group in groups:
        run = store.runs.get("default", id)
        assert run is not None
        assert run.input == {"at": instant_key(group[-1].scheduled_at or 0.0)}


@pytest.mark.timeout(300)
def test_killed_processes_fire_each_instant_once(start: Start, store: Store) -> None:
    services = create_services(store, catalogue())
    services.playbooks.register(TEXT)
    services.playbooks.register(AFTER)
    services.playbooks.register(SETTLING)
    processes = [start(command) for command in COMMANDS]
    while (trigger := store.triggers.get("default", "ticking", "t0")) is None or trigger.last_run is None:
        time.sleep(0.1)
    victims = random.Random(7)
    for _ in range(KILLS):
        for _ in range(10):
            time.sleep(0.1)
            check_pending(store)
        position = victims.randrange(len(COMMANDS))
        processes[position].kill()
        processes[position] = start(COMMANDS[position])
    while store.triggers.due(store.clock() - 2, 1):
        time.sleep(0.1)  # until a process has caught up
    for process in processes:
        process.kill()
    started: set[str] = set()
    for number in range(TRIGGERS):
        firings = find_firings(store, f"t{number}")
        instants = [firing.scheduled_at for firing in firings]
        assert len(instants) >= KILLS
        assert all(later - earlier == 1 for earlier, later in itertools.pairwise(filter(None, instants)))
        assert {firing.outcome for firing in firings} == {FiringOutcome.STARTED}
        started |= {str(firing.run_id) for firing in firings}
        trigger = store.triggers.get("default", "ticking", f"t{number}")
        assert trigger is not None
        assert (trigger.last_run, trigger.last_at) == (firings[-1].run_id, instants[-1])
    assert {run.id for run in find_runs(store, "ticking")} == started
    check_settling(store)
    # What is left is executed by a worker that starts afterwards; it fires further instants meanwhile.
    worker = start(("worker",))
    while any(not position.status.is_final for position in store.runs.positions(sorted(started)).values()):
        assert worker.poll() is None
        time.sleep(0.1)
    # Each run that has ended started one run that awaits it, or its entry is still in the outbox.
    while entries := store.outbox.due([OutboxKind.RUN_ENDED], store.clock() - 2, 1):
        assert worker.poll() is None, entries
        time.sleep(0.1)
    worker.kill()
    worker.wait()
    ended = {run.id for run in find_runs(store, "ticking") if run.status.is_final}
    pending = {
        entry.record["run_id"] for entry in store.outbox.due([OutboxKind.RUN_ENDED], store.clock(), 10_000)
    }
    awaited = Counter(str((run.trigger or {})["workflow_id"]) for run in find_runs(store, "after"))
    assert set(awaited.values()) == {1}
    assert ended - pending <= awaited.keys() <= ended
