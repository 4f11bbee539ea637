"""Migrations of many waiting runs: `python -m benchmarks.migration [--runs N]`.

Starts N runs that wait on Postgres, and lets all of them continue in a corrected version, with four threads
in one process. The time is compared with that of a pause and its end of each run, which are as many
transactions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.speed import DURABLE
from noetl.api.service.bulk import MAX_RUNS
from noetl.api.service.compiler import InlinePlaybook
from noetl.api.service.services import TenantServices, create_services
from noetl.api.service.switches import PlaybookChange
from noetl.api.service.views import BulkReport
from noetl.executor.actions import catalogue
from noetl.executor.stores import open_store
from noetl.infra.migrations import upgrade
from noetl.testing.run_harness import FakeClock, RunHarness
from tests.postgres import empty_database, running_server

THREADS = 4
WAITING = """
name: approval
input: {number: integer}
steps:
- name: prepare
  run: [{action: set, set: {x: "{{ input.number }}"}}]
  rule: [{case: default, run: [approve]}]
- {name: approve, run: [{action: wait, seconds: 604800}], rule: [{case: default, run: [ship]}]}
- {name: ship, run: [{action: log, message: "{{ x }}"}]}
"""
CORRECTED = WAITING.replace('"{{ x }}"', '"shipped {{ x }}"')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    count = parser.parse_args().runs
    with running_server(**DURABLE) as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        store = open_store(dsn)
        services = create_services(store, catalogue(), controls_local_runs=True)
        clock = FakeClock(float(int(store.clock())))
        with ThreadPoolExecutor(THREADS) as pool:
            ids = list(pool.map(lambda number: start_waiting(services, clock, number), range(count)))
            pages = [ids[start : start + MAX_RUNS] for start in range(0, count, MAX_RUNS)]
            paused = seconds_of(lambda: list(pool.map(lambda page: pause(services, page), pages)))
            change = PlaybookChange(InlinePlaybook(CORRECTED))
            reports = list[BulkReport]()
            migrated = seconds_of(
                lambda: reports.extend(pool.map(lambda page: services.bulk.migrate(page, change), pages))
            )
        assert sum(report.accepted for report in reports) == count
        store.close()
    print(f"{count:,} waiting runs on Postgres, {THREADS} threads")
    print(f"pause and end of the pause: {paused:.1f} s")
    print(f"migration: {migrated:.1f} s, {migrated / paused:.1f} times as long")


def start_waiting(services: TenantServices, clock: FakeClock, number: int) -> str:
    """Start a run, execute it until it waits, and return its id."""
    harness = RunHarness(services.store, WAITING, {"number": number}, clock=clock)
    while harness.execute_next(chained=True):
        pass
    return harness.id


def pause(services: TenantServices, ids: Sequence[str]) -> None:
    """Pause runs, and let them continue."""
    services.bulk.pause(ids)
    services.bulk.unpause(ids)


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
