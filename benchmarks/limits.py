"""The cost of limits: `python -m benchmarks.limits [--steps N] [--tickets N ...]`.

Measures runs with limits that are never full, and the same runs without limits, in turn: chains of steps that
log, or that call a server of this machine, runs of one step, and forks. Then how long it takes from the end
of a step until the next one in the queue has begun. Queues have several lengths, each in a store of its own,
and they have their turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.answers import running_answers
from benchmarks.run_copies import check_runs, copy_run
from benchmarks.speed import DURABLE
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.slots import ask_for_slots
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.model.run import DEFAULT_TENANT, END, Claim, Lease
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.migrations import upgrade
from noetl.planner.frozen import frozen, replace
from noetl.testing.run_harness import FakeClock, RunHarness
from tests.postgres import empty_database, running_server

REPETITIONS = 15
SHORT_RUNS = 10
"""How many runs of one step, or of a fork, are measured together."""

LOG = "{action: log, message: hello}"

BRANCHES = 8
RELEASES = 200
QUEUE = "benchmark"
OPERATORS_LIMIT = "api"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tickets", type=int, nargs="+", default=[10, 100_000])
    options = parser.parse_args()
    for name, opened in (("SQLite", open_sqlite), ("Postgres", open_postgres)):
        with opened() as store, running_answers() as url:
            measure_steps(name, store, options.steps, url)
        with ExitStack() as stack:
            queues = {
                tickets: WaitingRuns(stack.enter_context(opened()), tickets) for tickets in options.tickets
            }
            measure_releases(name, queues)


@contextmanager
def open_sqlite() -> Iterator[SqlStore]:
    """Open a new store in SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{Path(folder)}/store.db")
        assert isinstance(store, SqlStore)
        yield store
        store.close()


@contextmanager
def open_postgres() -> Iterator[SqlStore]:
    """Open a new store in a Postgres that writes to the disk."""
    with ExitStack() as stack:
        server = stack.enter_context(running_server(**DURABLE))
        dsn = stack.enter_context(empty_database(server.dsn))
        upgrade(dsn)
        store = open_store(dsn)
        stack.callback(store.close)
        assert isinstance(store, SqlStore)
        yield store


@frozen
class LimitCase:
    """Runs of a playbook, and the same runs of a playbook without limits. Each has so many steps."""

    name: str
    plain: str
    limited: str
    steps: int
    runs: int = 1

    @classmethod
    def of_chain(cls, name: str, steps: int, limit: str, top: str = "", action: str = LOG) -> LimitCase:
        """Return the case of a chain with a text for each step, or at the top of the playbook."""
        plain, limited = (
            chain("plain", steps, "", action=action),
            chain("limited", steps, limit, top, action),
        )
        return cls(name, plain, limited, steps)

    @classmethod
    def of_short_runs(cls, name: str, limit: str, top: str = "") -> LimitCase:
        """Return the case of runs of one step."""
        return cls(name, chain("plain", 1, ""), chain("limited", 1, limit, top), 1, SHORT_RUNS)

    @classmethod
    def of_fork(cls, name: str, limit: str) -> LimitCase:
        """Return the case of a fork, whose branches have a text each."""
        return cls(name, fork("plain", ""), fork("limited", limit), BRANCHES + 1, SHORT_RUNS)

    def compare(self, store: Store) -> tuple[float, float]:
        """Return how many seconds a step takes without limits and with them, in turn."""
        return self._time(store, self.plain), self._time(store, self.limited)

    def _time(self, store: Store, text: str) -> float:
        runs = [RunHarness(store, text, queue=f"{QUEUE}-{number}") for number in range(self.runs)]
        began = time.perf_counter()
        for run in runs:
            run.finish()
        return (time.perf_counter() - began) / (self.steps * self.runs)


def limit_cases(steps: int, url: str) -> list[LimitCase]:
    """Return what is compared. `limit` and `rate` are never full. Steps with a call send it to `url`."""
    of_operator = f", concurrency: {{use: {OPERATORS_LIMIT}}}"
    limit, rate = ", concurrency: 1000", "rate: {limit: 10000, per: 1s}"
    key = ', concurrency: {limit: 1000, key: "{{ input.customer }}"}'
    customer = "input: {customer: {type: string, default: acme}}"
    call = f'{{action: http, url: "{url}"}}'
    return [
        LimitCase.of_chain("a limit", steps, limit),
        LimitCase.of_chain("a limit with a key", steps, key, customer),
        LimitCase.of_chain("a limit of an operator", steps, of_operator),
        LimitCase.of_chain("a rate", steps, f", {rate}"),
        LimitCase.of_chain("a call and a limit", steps, limit, action=call),
        LimitCase.of_chain("a call and a limit with a key", steps, key, customer, action=call),
        LimitCase.of_chain("a call and a rate", steps, f", {rate}", action=call),
        LimitCase.of_chain("a limit of the playbook", steps, "", "concurrency: 1000"),
        LimitCase.of_short_runs("a limit, as the first step of a run", limit),
        LimitCase.of_short_runs(
            "a limit of the playbook, as the only step of a run", "", "concurrency: 1000"
        ),
        LimitCase.of_short_runs("a rate of the playbook, as the only step of a run", "", rate),
        LimitCase.of_fork(f"a limit, in a fork of {BRANCHES} branches", limit),
        LimitCase.of_fork(f"a limit of an operator, in a fork of {BRANCHES} branches", of_operator),
    ]


def fork(name: str, limit: str) -> str:
    """Return a playbook of a step that logs, and branches of a step each behind it."""
    log = f"run: [{LOG}]"
    names = [f"b{number}" for number in range(BRANCHES)]
    first = f"- {{name: fork, {log}, rule: [{{case: default, run: [{', '.join(names)}]}}]}}"
    return "\n".join([f"name: {name}", "steps:", first, *(f"- {{name: {b}{limit}, {log}}}" for b in names)])


def chain(name: str, steps: int, limit: str, top: str = "", action: str = LOG) -> str:
    """Return a playbook of steps with an action, one after the other."""
    lines = [f"name: {name}", *([top] if top else []), "steps:"]
    for number in range(steps):
        following = f", rule: [{{case: default, run: [s{number + 1}]}}]" if number + 1 < steps else ""
        lines.append(f"- {{name: s{number}{limit}, run: [{action}]{following}}}")
    return "\n".join(lines)


def measure_steps(name: str, store: Store, steps: int, url: str) -> None:
    """Print how much longer a step takes that has a limit."""
    store.gates.set_limit(named_gate(DEFAULT_TENANT, OPERATORS_LIMIT), LimitKind.STEPS, 1000)
    cases = limit_cases(steps, url)
    times: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    for _ in range(REPETITIONS):
        for case in cases:
            times[case.name].append(case.compare(store))
    for kind, pairs in times.items():
        plain, limited = (1e3 * statistics.median(seconds) for seconds in zip(*pairs, strict=True))
        ratio = statistics.median(limited_time / plain_time for plain_time, limited_time in pairs)
        print(f"{name}: a step takes {plain:.2f} ms, with {kind} {limited:.2f} ms,", end=" ")
        print(f"{ratio:.2f} times as long", flush=True)


class WaitingRuns:
    """A queue of runs at a limit in a new store. One run holds its only unit, and `tickets` others wait."""

    def __init__(self, store: SqlStore, tickets: int) -> None:
        self.store = store
        self.clock = FakeClock()
        self.text = chain("queued", 1, ", concurrency: 1")
        harness = RunHarness(store, self.text, clock=self.clock, queue=QUEUE)
        self.claim = claim_next(store, QUEUE, self.clock)
        step = store.plans.step(self.claim.run.plan_hash, self.claim.visit.step)
        ask_for_slots(store, self.claim, step, Scope(self.claim.run, self.claim.visit), self.clock())
        self.executor = replace(harness.executor(), continues=lambda: False)
        last = self.add()
        copy_waiting_run(store, last, tickets - 1)
        store.maintenance.sweep(self.clock())  # It cuts the log of SQLite, as workers do.
        check_runs(store)

    def add(self) -> str:
        """Let one more run wait at the end of the queue. Return its id."""
        self.clock.advance(1.0)
        harness = RunHarness(self.store, self.text, clock=self.clock, queue=QUEUE)
        claim = claim_next(self.store, QUEUE, self.clock)
        while claim.run.id != harness.id:  # The end of an earlier run is due as well.
            self.executor.execute(claim)
            claim = claim_next(self.store, QUEUE, self.clock)
        harness.executor().execute(claim)
        return harness.id

    def release(self) -> float:
        """End the step that holds the unit. Return how long it takes until the next one has begun."""
        began = time.perf_counter()
        claim = self.claim
        self.executor.execute(claim)  # It gives its unit back, and grants it to the next.
        claim = claim_next(self.store, QUEUE, self.clock)
        while claim.visit.step == END:
            self.executor.execute(claim)
            claim = claim_next(self.store, QUEUE, self.clock)
        self.claim = claim
        return time.perf_counter() - began


def copy_waiting_run(store: SqlStore, run_id: str, copies: int) -> None:
    """Copy a run that waits for a limit. The copies wait after it, in the order of their numbers."""
    (slot,) = store.gates.slots_of(run_id)
    copy_run(store, run_id, copies, queued_at="queued_at + n * 1e-6")
    with store.database.transaction() as db:
        for changed in (
            "update gates set waiting = waiting + :copies where id = :id and tenant = :tenant",
            "update flows set waiting = waiting + :copies where gate_id = :id and gate_tenant = :tenant",
        ):
            db.execute(changed, copies=copies, id=slot.gate.id, tenant=slot.gate.tenant)
        if not isinstance(store, SqliteStore):
            db.execute(
                "analyze runs, visits, slots, flows"
            )  # as the server does by itself while a long queue grows


def measure_releases(name: str, queues: Mapping[int, WaitingRuns]) -> None:
    """Print the time from the end of a step until the next one in the queue has begun.

    The queues have their turns, so that the load of the machine is the same for all.
    """
    times: dict[int, list[float]] = {tickets: [] for tickets in queues}
    for _ in range(RELEASES):
        for tickets, waiting in queues.items():
            times[tickets].append(waiting.release())
            waiting.add()
    shortest = times[min(times)]
    for tickets, seconds in times.items():
        middle, most = median_and_p99(seconds)
        compared = (part / base for part, base in zip((middle, most), median_and_p99(shortest), strict=True))
        ratios = " and ".join(f"{ratio:.2f}" for ratio in compared)
        print(
            f"{name}: with {tickets:,} in the queue, the next one begins after {1e3 * middle:.2f} ms,",
            end=" ",
        )
        print(f"p99 {1e3 * most:.2f} ms; {ratios} times the shortest queue")


def median_and_p99(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the median, and the time below which 99 of 100 are."""
    return statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]


def claim_next(store: Store, queue: str, clock: FakeClock) -> Claim:
    """Return a claim of the visit that is due first."""
    claim = store.queue.claim(queue, Lease("one", 3600.0), clock())
    assert claim is not None
    return claim


if __name__ == "__main__":
    main()
