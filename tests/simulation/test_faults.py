"""Small playbooks, each with one fault at every call of the store: whatever happens, they end as they would without.

The driver does what a worker and those who start runs do after a fault: after a crash a new process claims what is due
when the lease is over; after an error the same one goes on.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from executor.capabilities import for_local_run
from executor.errors import StoreError
from executor.records import Lease, Playbook, Run, RunStatus
from executor.scope import Scope
from executor.start import new_run
from executor.stores.sqlite import SqliteStore
from executor.stores.store import Store
from executor.transition import derived_id
from executor.waiting import hash_of
from executor.walk import Walker
from planner.plan import Plan
from tests.plays import LEASE_SECONDS, Clock, compiled
from tests.simulation.faults import Crash, Fault, FaultyStore

NOTE = """{action: file, append: "{{ run.id }}.txt", content: "{{ step.name }} {{ step.visit }} {{ step.idempotency_key }}\\n"}"""
"""Leaves a line each time it is performed."""

PLAYBOOKS = {
    "chain": """
        steps:
        - {name: a, run: [NOTE, {action: set, set: {x: 1}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [NOTE, {action: set, set: {y: "{{ x + 1 }}"}}], rule: [{case: default, run: [c]}]}
        - {name: c, run: [NOTE, {action: set, set: {z: "{{ [x, y, uuid() | length] }}"}}]}
    """,
    "join": """
        timeout: 1h
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c, d]}]}
        - {name: b, run: [NOTE, {action: set, set: {x: 1}}], rule: [{case: default, run: [e]}]}
        - {name: c, run: [NOTE, {action: set, set: {y: 2}}], rule: [{case: default, run: [e]}]}
        - {name: d, run: [NOTE], rule: [{case: "{{ step.visit > 1 }}", run: [e]}]}
        - {name: e, run: [NOTE, {action: set, set: {z: "{{ x + y }}"}}]}
        output: {sum: "{{ z }}", d: "{{ steps.d.status }}"}
    """,
    "retry": """
        steps:
        - name: a
          retry: {attempts: 3, delay: 10s}
          run: [NOTE, {action: shell, command: "exit 1", if: "{{ step.attempt < 2 }}"}, {action: set, set: {n: "{{ step.attempt }}"}}]
          rule: [{case: default, run: [b]}]
        - {name: b, run: [NOTE]}
    """,
    "retry of an action": """
        steps:
        - name: a
          parallel: true
          run:
          - action: shell
            command: echo x >> $TRIES; test $(wc -l < $TRIES) -gt 2
            env: {TRIES: "{{ run.id }}.tries"}
            retry: {attempts: 9, delay: 20s}
          - NOTE
          - {action: wait, seconds: 30}
          rule: [{case: default, run: [b]}]
        - {name: b, run: [NOTE, {action: set, set: {n: "{{ steps.a.visits }}"}}]}
    """,
    "failure": """
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: fail, message: no}], rule: [{case: error, run: [d]}]}
        - {name: c, run: [NOTE], on_error: continue, rule: [{case: "{{ 1 / 0 }}", run: []}, {case: default, run: [d]}]}
        - {name: d, run: [NOTE, {action: set, set: {e: "{{ steps.b.error.type }}"}}]}
    """,
    "abort": """
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b]}]}
        - {name: b, run: [NOTE, {action: fail, message: no}], rule: [{case: default, run: [c]}]}
        - {name: c, run: [NOTE]}
    """,
    "cycle": """
        variables: {n: 0}
        steps:
        - {name: a, max_visits: 2, run: [NOTE], rule: [{case: error, run: [e]}, {case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: set, set: {n: "{{ n + 1 }}"}}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [NOTE], rule: [{case: default, run: [d]}]}
        - {name: d, run: [NOTE], rule: [{case: "{{ n < 9 }}", run: [a]}, {case: default, run: [e]}]}
        - {name: e, run: [NOTE]}
    """,
    "in place": """
        tasks: {note: [NOTE, {action: set, set: {y: "{{ args.x }}"}}]}
        steps:
        - {name: a, run: [NOTE, {action: set, set: {x: 1}}], rule: [{case: default, run: [{task: note, with: {x: "{{ x }}"}}]}]}
    """,
    "pauses": """
        tasks: {slow: [NOTE, {action: wait, seconds: "{{ args.s }}"}, NOTE, {action: set, set: {x: "{{ args.s }}"}}]}
        steps:
        - name: a
          parallel: true
          run: [{task: slow, with: {s: 5}}, {task: slow, with: {s: 9}, on_error: continue, loop: {items: [1, 2], concurrency: 2}}, NOTE]
          rule: [{case: default, run: [{action: wait, seconds: 1}, NOTE, {action: set, set: {y: "{{ x }}"}}]}]
    """,
    "batches": """
        steps:
        - name: a
          loop: {items: [1, 2, 3, 4, 5], batch: 2}
          run: [NOTE, {action: set, set: {x: "{{ item }}"}}]
          rule: [{case: default, run: [{action: set, set: {all: "{{ result.data | map(attribute='x') | list }}"}}, NOTE]}]
    """,
    "rounds": """
        variables: {n: 0}
        steps:
        - {name: a, repeat: {until: "{{ n == 3 }}", every: 5s, max: 5}, run: [NOTE, {action: set, set: {n: "{{ n + 1 }}"}}]}
    """,
    "callback": """
        steps:
        - name: a
          parallel: true
          run:
            - {action: callback, timeout: 1h, notify: ASK, as: x}
            - {action: callback, timeout: 30s, as: y, on_error: continue}
          rule: [{case: default, run: [b]}]
        - {name: b, run: [NOTE, {action: set, set: {z: "{{ x }}", late: "{{ y is not defined }}"}}]}
    """,
    "workflow": """
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: workflow, playbook: child, input: {n: 7}, as: x}, NOTE], rule: [{case: default, run: [d]}]}
        - {name: c, run: [{action: workflow, playbook: child, input: {n: 0}}], rule: [{case: error, run: [d]}]}
        - {name: d, run: [NOTE, {action: set, set: {z: "{{ [x, steps.c.error.type] }}"}}]}
    """,
}
ASK = """{action: file, append: "{{ run.id }}.tokens", content: "{{ callback.token }}\\n "}"""
CHILD = """
    name: child
    input: {n: integer}
    steps:
    - {name: a, run: [NOTE, {action: wait, seconds: "{{ n }}"}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [NOTE, {action: set, set: {half: "{{ 14 / n }}"}}]}
"""


def playbook(name: str) -> Plan:
    return compiled(PLAYBOOKS[name].replace("NOTE", NOTE).replace("ASK", ASK))


@dataclass(frozen=True)
class End:
    """How a run ended, as far as it must not depend on faults; and what it left behind."""

    status: RunStatus
    result: Any
    errors: tuple[str, ...]
    visits: tuple[tuple[str, int, str, int], ...]
    lines: Counter[str]
    children: tuple[str, ...]


class Simulation:
    """One store, in which run after run is walked; the folder is where their steps leave lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = SqliteStore(str(folder / "noetl.db"))
        self.store.file.connection().execute("pragma synchronous = off")
        self.clock = Clock()
        self.numbers = itertools.count()
        child = compiled(CHILD.replace("NOTE", NOTE))
        self.store.save_plan(child)
        self.store.register(Playbook("default", "child", None, child.hash, 0.0))

    def run(self, plan: Plan, *faults: tuple[Fault, int]) -> tuple[list[str], End]:
        """The calls of the store, and the end of a run with these faults: each stands at a call after the one before."""
        rest = iter(faults)
        calls: list[str] = []
        store: Any = FaultyStore(self.store, calls, *next(rest, (None, 0)))
        key = f"key {next(self.numbers)}"
        run_id = queue = ""
        while not run_id:
            try:
                store.save_plan(plan)
                run, first = new_run(plan.header, plan.hash, {}, now=self.clock(), origin="local")
                run_id = queue = store.create_run(run, first, (key, "body")).id
            except (Crash, StoreError):
                store = FaultyStore(self.store, calls, *next(rest, (None, 0)))
        for _ in range(500):
            try:
                if self.walk(store, queue):
                    continue
            except (Crash, StoreError):
                store = FaultyStore(self.store, calls, *next(rest, (None, 0)))
                continue
            found = self.store.run("default", run_id)
            assert found is not None
            if found.status.is_final:
                return calls, self.check(run_id)
            if self.answer(run_id):
                continue
            due = self.store.next_due(queue)
            assert due is not None, "the run is stuck"
            assert due <= self.clock() + 4000, "the run is stuck"
            self.clock.now = max(self.clock(), due)
        raise AssertionError("the run does not end")

    def answer(self, run_id: str) -> bool:
        """Answer what the run has asked for, with every token that it gave; whether there was anything."""
        path = self.folder / f"{run_id}.tokens"
        if not path.exists():
            return False
        for token in path.read_text().split():
            self.store.answer(hash_of(token), "yes", self.clock())
        path.unlink()
        return True

    def walk(self, store: Store, queue: str) -> bool:
        lease = Lease("worker", LEASE_SECONDS)
        claim = store.claim(queue, lease, self.clock())
        walker = Walker(store, lease, for_local_run(self.folder), self.clock)
        while claim is not None:
            claim = walker.walk(claim)
            if claim is None:
                return True
        return False

    def check(self, run_id: str) -> End:
        """What must hold of every run that has ended; and how it ended."""
        run = self.store.run("default", run_id)
        assert run is not None
        visits = [visit for visit in self.store.visits(run_id) if not visit.step.startswith("@")]
        events = self.store.events(run_id, limit=10_000)
        done = Counter((e.step, e.visit, e.attempt) for e in events if e.type in ("step.completed", "step.failed"))
        begun = Counter((e.step, e.visit, e.attempt) for e in events if e.type == "step.started")
        assert set(done.values()) <= {1}
        assert set(begun.values()) <= {1}
        assert done.keys() <= begun.keys()
        assert [e.type for e in events].count("workflow.started") == 1
        assert events[-1].type.startswith("workflow.")
        if run.stop is None:
            db = self.store.file.connection()
            assert run.live == 0
            assert db.execute("select * from joins where run_id = ? and live <> 0", (run_id,)).fetchall() == []
            assert db.execute("select * from arrivals where run_id = ?", (run_id,)).fetchall() == []
        assert not any(visit.status in ("ready", "running", "retrying") for visit in visits)
        path = self.folder / f"{run_id}.txt"
        return End(
            run.status,
            run.result,
            tuple(sorted(error["type"] for error in run.errors)),
            tuple(sorted((v.step, v.number, v.status.value, v.attempt) for v in visits)),
            Counter(path.read_text().splitlines()),
            tuple(sorted(run.status.value for run in self.store.runs("default")[0] if self.is_child(run, run_id))),
        )

    def is_child(self, run: Run, run_id: str) -> bool:
        return run.parent is not None and run.parent.run_id == run_id


@pytest.fixture
def simulation(tmp_path: Path) -> Iterator[Simulation]:
    found = Simulation(tmp_path)
    yield found
    found.store.close()


def places(lines: Counter[str]) -> Counter[str]:
    """How often each visit left its line, its key left out."""
    found: Counter[str] = Counter()
    for line, times in lines.items():
        found[line.rsplit(" ", 1)[0]] += times
    return found


def check(end: End, expected: End, where: str, most_repeated: int = 1) -> None:
    """That a run with faults ended as the one without, and did again no more than it had to, under the same keys."""
    assert (end.status, end.result, end.errors) == (expected.status, expected.result, expected.errors), where
    assert end.visits == expected.visits, where
    assert end.children == expected.children, where
    assert places(end.lines).keys() == places(expected.lines).keys(), where
    assert len(places(end.lines) - places(expected.lines)) <= most_repeated, where
    assert len(end.lines) == len(expected.lines), f"{where}: a key has changed"


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
@pytest.mark.parametrize("name", PLAYBOOKS)
def test_every_call_of_the_store_may_fail(simulation: Simulation, name: str, fault: Fault) -> None:
    plan = playbook(name)
    calls, expected = simulation.run(plan)
    assert calls.count("commit") >= len(expected.visits)
    for at, call in enumerate(calls, 1):
        _, end = simulation.run(plan, (fault, at))
        check(end, expected, f"{fault.value} at call {at}, {call}")


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_two_faults(simulation: Simulation, name: str) -> None:
    plan = playbook(name)
    calls, expected = simulation.run(plan)
    chance = random.Random(name)
    for _ in range(40):
        faults = [(chance.choice(list(Fault)), chance.randint(1, len(calls))) for _ in range(2)]
        _, end = simulation.run(plan, *faults)
        check(end, expected, str(faults), most_repeated=2)


def test_a_key_that_changes_is_noticed(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control of the harness: an idempotency key that depends on the claim."""

    def wrong(scope: Scope, position: str) -> str:
        return derived_id(scope.visit.id, position, scope.visit.claims)

    monkeypatch.setattr(Scope, "idempotency_key", wrong)
    with pytest.raises(AssertionError, match="a key has changed"):
        test_every_call_of_the_store_may_fail(simulation, "chain", Fault.CRASH_BEFORE)


def test_a_run_that_is_stuck_is_noticed(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control of the harness: claims that never run out."""
    monkeypatch.setattr("tests.simulation.test_faults.LEASE_SECONDS", 1e12)
    with pytest.raises(AssertionError, match="the run is stuck"):
        test_every_call_of_the_store_may_fail(simulation, "chain", Fault.CRASH_AFTER)


def test_a_commit_without_a_fence_is_noticed(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control of the harness: a claim that was lost, and commits all the same."""
    plan = playbook("chain")
    run, first = new_run(plan.header, plan.hash, {}, now=simulation.clock(), origin="local")
    simulation.store.save_plan(plan)
    simulation.store.create_run(run, first)
    lease = Lease("worker", LEASE_SECONDS)
    lost = simulation.store.claim(run.id, lease, simulation.clock())
    assert lost is not None
    simulation.clock.pass_(LEASE_SECONDS)
    assert simulation.walk(simulation.store, run.id)
    db = simulation.store.file.connection()
    db.execute("update visits set status = 'running', fence = 1 where id = ?", (lost.visit.id,))
    Walker(simulation.store, lease, for_local_run(simulation.folder), simulation.clock).walk(lost)
    with pytest.raises(AssertionError):
        simulation.check(run.id)
