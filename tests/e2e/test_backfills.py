"""Backfills that several services and workers perform, while they are killed."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from datetime import UTC, datetime

import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.engine.backfill_start import BackfillRequest
from noetl.executor.model.backfills import BackfillState
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.stores.interface import Store
from tests.e2e.test_triggers import COMMANDS, Start, start, store

__all__ = ["start", "store"]

KILLS = 10
DAYS = 40
LIMIT = 3
TEXT = """
name: filling
triggers:
- {name: daily, type: schedule, every: 1d, input: {day: "{{ trigger.local[:10] }}"}}
input: {day: {type: string}}
steps:
- name: a
  run: [{action: log, message: "{{ day }}"}, {action: wait, seconds: 0.2}]
"""


@pytest.mark.timeout(300)
def test_killed_processes_start_each_partition_once(start: Start, store: Store) -> None:
    """Kill a random process every second, and start another. No more runs are open than the limit."""
    services = create_services(store, catalogue())
    services.playbooks.register(TEXT)
    end = datetime.fromtimestamp(store.clock(), UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = datetime.fromtimestamp(end.timestamp() - DAYS * 86_400, UTC)
    request = BackfillRequest(first.isoformat(), end.isoformat(), limit=LIMIT)
    backfill, _ = services.backfills.start("filling", "daily", request)
    processes = [start(command) for command in COMMANDS]
    victims, replacements = random.Random(11), itertools.cycle(COMMANDS)
    kills, killed_at, most_open = 0, time.monotonic(), 0
    while (entry := services.backfills.get(backfill.id)).finished_at is None or kills < KILLS:
        open_runs = [run for run in find_runs(store) if not run.status.is_final]
        most_open = max(most_open, len(open_runs))
        if time.monotonic() - killed_at >= 1.0:
            victim = processes.pop(victims.randrange(len(processes)))
            victim.kill()
            victim.wait()
            processes.append(start(next(replacements)))
            kills, killed_at = kills + 1, time.monotonic()
        time.sleep(0.05)
    assert entry.state is BackfillState.SUCCEEDED
    assert (entry.counts.started, entry.counts.succeeded) == (DAYS, DAYS)
    days = Counter(run.trigger["scheduled_at"] for run in find_runs(store) if run.trigger is not None)
    assert (len(days), set(days.values())) == (DAYS, {1})
    assert 1 <= most_open <= LIMIT
    assert kills >= KILLS


def find_runs(store: Store) -> list[RunSummary]:
    return store.runs.find(RunFilter("default", limit=1000))[0]
