"""The cost of limits: `python -m benchmarks.limits [--steps N] [--tickets N ...]`.

Measures a chain of steps with a limit that is never full, and the same chain without limits, in turn. Then
how long it takes from the end of a step until the next one in the queue has begun. Queues have several
lengths.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.speed import DURABLE
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.slots import ask_for_slots
from noetl.executor.model.run import END, Claim, Lease
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.infra.migrations import upgrade
from noetl.planner.frozen import replace
from noetl.testing.run_harness import FakeClock, RunHarness
from tests.postgres import empty_database, running_server

REPETITIONS = 15
RELEASES = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tickets", type=int, nargs="+", default=[10, 1000, 10_000])
    options = parser.parse_args()
    for name, opened in (("SQLite", open_sqlite), ("Postgres", open_postgres)):
        with opened() as store:
            measure_steps(name, store, options.steps)
            for tickets in options.tickets:
                measure_releases(name, store, tickets)


@contextmanager
def open_sqlite() -> Iterator[Store]:
    """Open a new store in SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{Path(folder)}/store.db")
        yield store
        store.close()


@contextmanager
def open_postgres() -> Iterator[Store]:
    """Open a new store in a Postgres that writes to the disk."""
    with ExitStack() as stack:
        server = stack.enter_context(running_server(**DURABLE))
        dsn = stack.enter_context(empty_database(server.dsn))
        upgrade(dsn)
        store = open_store(dsn)
        stack.callback(store.close)
        yield store


def chain(name: str, steps: int, limit: str) -> str:
    """Return a playbook of steps that log, one after the other."""
    lines = [f"name: {name}", "steps:"]
    for number in range(steps):
        following = f", rule: [{{case: default, run: [s{number + 1}]}}]" if number + 1 < steps else ""
        lines.append(f"- {{name: s{number}{limit}, run: [{{action: log, message: hello}}]{following}}}")
    return "\n".join(lines)


def measure_steps(name: str, store: Store, steps: int) -> None:
    """Print how much longer a step takes that has a limit."""
    texts = {"plain": chain("plain", steps, ""), "limited": chain("limited", steps, ", concurrency: 1000")}
    times: dict[str, list[float]] = {kind: [] for kind in texts}
    for _ in range(REPETITIONS):
        for kind, text in texts.items():
            harness = RunHarness(store, text)
            began = time.perf_counter()
            harness.finish()
            times[kind].append(time.perf_counter() - began)
    plain, limited = (statistics.median(times[kind]) / steps for kind in ("plain", "limited"))
    print(f"{name}: a step takes {1e3 * plain:.2f} ms, with a limit {1e3 * limited:.2f} ms,", end=" ")
    print(f"{limited / plain:.2f} times as long")


def measure_releases(name: str, store: Store, tickets: int) -> None:
    """Print the time from the end of a step until the next one in the queue may begin."""
    queue, clock = f"queue{tickets}", FakeClock()
    text = chain(queue, 1, ", concurrency: 1")
    first = RunHarness(store, text, clock=clock, queue=queue)
    claim = claim_next(store, queue, clock)
    step = store.plans.step(claim.run.plan_hash, claim.visit.step)
    ask_for_slots(store, claim, step, Scope(claim.run, claim.visit), clock())
    for _ in range(tickets):
        RunHarness(store, text, clock=clock, queue=queue)
        first.executor().execute(claim_next(store, queue, clock))
    executor = replace(first.executor(), continues=lambda: False)
    times = []
    for _ in range(min(RELEASES, tickets)):
        began = time.perf_counter()
        executor.execute(claim)  # It gives its unit back, and grants it to the next.
        claim = claim_next(store, queue, clock)
        while claim.visit.step == END:
            executor.execute(claim)
            claim = claim_next(store, queue, clock)
        times.append(time.perf_counter() - began)
    middle = 1e3 * statistics.median(times)
    print(f"{name}: with {tickets:,} in the queue, the next one begins after {middle:.2f} ms")


def claim_next(store: Store, queue: str, clock: FakeClock) -> Claim:
    """Return a claim of the visit that is due first."""
    claim = store.queue.claim(queue, Lease("one", 3600.0), clock())
    assert claim is not None
    return claim


if __name__ == "__main__":
    main()
