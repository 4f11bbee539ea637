"""Limits, rates and debounced starts that several services and workers keep, while they are killed."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from noetl.api.service.compiler import InlinePlaybook
from noetl.api.service.services import TenantServices, create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.events import Event
from noetl.executor.model.gates import GateKey, LimitKind, SlotOwner, named_gate, own_rate_gate
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from tests.e2e.processes import start_silently

KILLS = 6
RUNS = 40
MAX_RUNS, MAX_STEPS = 6, 2
MAX_BEGINS, MAX_CALLS = 5, 4
STARTS_PER_KILL = 4
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

CALLING = f"""
name: calling
rate: {{limit: {MAX_BEGINS}, per: 1s}}
steps: [{{name: call, rate: {{use: calls}}, run: [{{action: log, message: called}}]}}]
"""
BEGINS, CALLS = own_rate_gate("default", "calling", None, 0, None), named_gate("default", "calls")
"""The gates of the rates of runs and of calls, in each second."""

EXPORTING = """
name: exporting
debounce: {wait: 1s, max: 2s}
input: {n: integer}
steps: [{name: export, run: [{action: log, message: "{{ input.n }}"}]}]
"""
ONE_AT_ONCE = """
name: NAME
concurrency: {limit: 1, when_full: NAME}
steps:
- {name: work, run: [{action: log, message: begin}, {action: wait, seconds: 1}, {action: log, message: end}]}
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


class Reservations:
    """The times at which owners hold units of rates, as far as they were seen in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[GateKey, set[tuple[SlotOwner, float]]] = {BEGINS: set(), CALLS: set()}

    def read(self) -> None:
        for key, seen in self._seen.items():
            slots, _ = self._store.gates.slots_at(key, limit=1000)
            seen |= {(slot.owner, slot.held_at) for slot in slots if slot.held_at is not None}

    def count_most_in_a_second(self, key: GateKey) -> int:
        """Return how many units of a rate were taken in any window of one second."""
        times = sorted(time for _, time in self._seen[key])
        return max(sum(begin <= time < begin + 1.0 for time in times) for begin in times)


class RepeatedStarts:
    """Starts, in turn, of a debounced playbook and of two that have one run at once."""

    def __init__(self, store: Store, services: TenantServices) -> None:
        self._store = store
        self._services = services
        self.exports: list[str] = []
        self.skipping: list[str] = []
        self.cancelling: list[str] = []

    def start(self) -> None:
        self.start_export()
        self.skipping.append(self._start(ONE_AT_ONCE.replace("NAME", "skip")))
        self.cancelling.append(self._start(ONE_AT_ONCE.replace("NAME", "cancel_oldest")))

    def start_export(self) -> None:
        """Start a debounced run, and check that no two of them are pending."""
        self.exports.append(self._start(EXPORTING, n=len(self.exports)))
        pending, _ = self._store.runs.find(RunFilter(playbook="exporting", statuses=[RunStatus.QUEUED]))
        assert len(pending) <= 1

    def _start(self, text: str, **input: int) -> str:
        return self._services.runs.start(InlinePlaybook(text), StartRequest(input)).id

    @property
    def ids(self) -> list[str]:
        return [*dict.fromkeys(self.exports), *self.skipping, *self.cancelling]

    def check(self) -> None:
        """Check all runs after their ends."""
        statuses = {id: position.status for id, position in self._store.runs.positions(self.ids).items()}
        for number, (id, following) in enumerate(pairwise([*self.exports, ""])):
            if id != following:  # The last start of each run is the one whose input it has.
                exports = {event.payload["text"] for event in self._logs(id)}
                assert (statuses.pop(id), exports) == ("succeeded", {str(number)})
        assert 1 < len(set(self.exports)) < len(self.exports)
        skipped = {statuses[id] for id in self.skipping}
        assert skipped == {RunStatus.SUCCEEDED, RunStatus.SKIPPED}
        assert statuses[self.cancelling[-1]] is RunStatus.SUCCEEDED
        assert {statuses[id] for id in self.cancelling} == {RunStatus.SUCCEEDED, RunStatus.CANCELLED}
        for ids in (self.skipping, self.cancelling):
            logs = [logs for id in ids if (logs := self._logs(id))]
            assert count_most_at_once([(entries[0].at, entries[-1].at) for entries in logs]) == 1
            assert all(self._logs(id) == [] for id in ids if statuses[id] is RunStatus.SKIPPED)

    def _logs(self, id: str) -> list[Event]:
        return [event for event in self._store.runs.events(id) if event.type == "action.log"]


@pytest.mark.timeout(300)
def test_killed_processes_exceed_no_limit(start: Start, postgres_dsn: str) -> None:
    store = open_store(postgres_dsn)
    try:
        check_limits_under_kills(start, store)
    finally:
        store.close()


def check_limits_under_kills(start: Start, store: Store) -> None:
    store.gates.set_limit(named_gate("default", "api"), LimitKind.STEPS, MAX_STEPS)
    store.gates.set_limit(CALLS, LimitKind.STEPS, MAX_CALLS, 1.0)
    services, reservations = create_services(store, catalogue()), Reservations(store)
    starts = RepeatedStarts(store, services)
    ids, rated = (
        [services.runs.start(InlinePlaybook(text), StartRequest()).id for _ in range(RUNS)]
        for text in (TEXT, CALLING)
    )
    processes = [start(command) for command in COMMANDS]
    victims = random.Random(7)
    for _ in range(KILLS):
        for _ in range(STARTS_PER_KILL):
            time.sleep(1 / STARTS_PER_KILL)
            starts.start()
            reservations.read()
        position = victims.randrange(len(COMMANDS))
        processes[position].kill()
        processes[position] = start(COMMANDS[position])
    while not have_ended(store, [*ids, *rated]):
        check_units(store)
        starts.start_export()
        reservations.read()
        time.sleep(0.1)
    while not have_ended(store, starts.ids):
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()
    assert {position.status for position in store.runs.positions([*ids, *rated]).values()} == {"succeeded"}
    histories = [store.runs.events(id, limit=10_000) for id in ids]
    assert count_most_at_once([find_span(events, "first", "last") for events in histories]) <= MAX_RUNS
    assert count_most_at_once([find_span(events, "shared", "shared") for events in histories]) <= MAX_STEPS
    assert reservations.count_most_in_a_second(BEGINS) == MAX_BEGINS
    assert reservations.count_most_in_a_second(CALLS) == MAX_CALLS
    starts.check()
    assert [gate.key for gate in store.gates.find("default", named=False)[0]] in ([], [BEGINS])
    assert {(gate.held, gate.waiting) for gate in store.gates.find("default", named=True)[0]} == {(0, 0)}
    assert store.maintenance.check_consistency() == []


def have_ended(store: Store, ids: Collection[str]) -> bool:
    return all(position.status.is_final for position in store.runs.positions(list(ids)).values())


def check_units(store: Store) -> None:
    """Check that no limit of what is in progress has more held units than it has."""
    for gate in store.gates.find("default", named=False)[0] + store.gates.find("default", named=True)[0]:
        assert gate.rate is not None or gate.held <= gate.units
