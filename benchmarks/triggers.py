"""Schedules that are due in the same second: `python -m benchmarks.triggers [--triggers N] [--workers N]`.

Registers playbooks with N schedules that are all due at one instant, and starts processes of `noetl worker`.
The delay of a run is from that instant to its creation. As a baseline, one thread starts as many runs by
itself, without executing them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.speed import DURABLE
from noetl.api.service.compiler import InlinePlaybook
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.infra.migrations import upgrade
from tests.e2e.processes import start_silently
from tests.postgres import empty_database, running_server

PER_PLAYBOOK = 20
LEAD_SECONDS = 20.0
"""Time between the registration and the instant, in which the workers start."""

MOST_SECONDS = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triggers", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print(f"{options.triggers:,} schedules due in the same second, {options.workers} workers")
    with tempfile.TemporaryDirectory() as folder:
        measure(f"sqlite:///{folder}/store.db", "SQLite", options.triggers, options.workers)
    with running_server(**DURABLE) as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        measure(dsn, "Postgres", options.triggers, options.workers)


def measure(url: str, name: str, triggers: int, workers: int) -> None:
    """Print the delays of the runs of one store, and how long plain starts take."""
    with ExitStack() as stack:
        store = open_store(url)
        stack.callback(store.close)
        services = create_services(store, catalogue())
        plain = seconds_of(
            lambda: [services.runs.start(plain_playbook(), StartRequest()) for _ in range(triggers)]
        )
        instant = math.ceil(store.clock() + LEAD_SECONDS + triggers / 50)
        for number in range(0, triggers, PER_PLAYBOOK):
            count = min(PER_PLAYBOOK, triggers - number)
            services.playbooks.register(scheduled_playbook(f"scheduled{number}", count, instant))
        for _ in range(workers):
            process = start_silently(Path.cwd(), "worker", NOETL_STORE=url)
            stack.callback(process.wait)
            stack.callback(process.kill)
        delays = wait_for_delays(store, triggers, instant)
    middle, most = statistics.median(delays), max(delays)
    print(f"{name}: the last run starts after {most:.1f} s, half of them after {middle:.1f} s;", end=" ")
    print(f"plain starts by one thread take {plain:.1f} s, so {most / plain:.1f} times as long")


def plain_playbook() -> InlinePlaybook:
    """Return the same playbook without a schedule."""
    return InlinePlaybook("name: plain\nsteps: [{name: a, run: [{action: log, message: hello}]}]\n")


def scheduled_playbook(name: str, count: int, instant: float) -> str:
    """Return a playbook with schedules that are first due at an instant."""
    start = datetime.fromtimestamp(instant, UTC).isoformat()
    triggers = (
        f"- {{name: t{number}, type: schedule, every: 1d, start: '{start}'}}\n" for number in range(count)
    )
    steps = "steps: [{name: a, run: [{action: log, message: hello}]}]\n"
    return f"name: {name}\ntriggers:\n{''.join(triggers)}{steps}"


def wait_for_delays(store: Store, triggers: int, instant: float) -> list[float]:
    """Return how long after the instant each run was created, when all were."""
    while store.clock() < instant + MOST_SECONDS:
        delays = [
            run.created_at - instant
            for run in store.runs.find(RunFilter("default", limit=10 * triggers))[0]
            if run.playbook.startswith("scheduled")
        ]
        if len(delays) >= triggers:
            assert len(delays) == triggers, f"{len(delays)} runs of {triggers} schedules"
            return delays
        time.sleep(0.5)
    sys.exit(f"not all schedules have started after {MOST_SECONDS:.0f} s")


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
