"""Places at limits that a cancelled or paused run gives back."""

from __future__ import annotations

import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness

TEXT = """
    name: call
    steps:
    - {name: load, concurrency: [{limit: 1}, {use: crm}], run: [{action: log, message: hello}]}
"""


@pytest.mark.parametrize("change", ["cancel", "pause"])
def test_what_waits_gets_the_place_at_once(store: SqliteStore, change: str) -> None:
    store.gates.set_limit(named_gate("default", "crm"), LimitKind.STEPS, 0)
    first = RunHarness(store, TEXT, origin="service")
    second = RunHarness(store, TEXT, origin="service", clock=first.clock)
    for harness in (first, second):
        assert harness.execute_next()
    # The first holds a place at the limit of the step, and waits for that of the operator.
    assert [slot.is_held for slot in store.gates.slots_of(first.id)] == [True, False]
    assert [slot.is_held for slot in store.gates.slots_of(second.id)] == [False]
    runs = create_services(store, catalogue(), clock=first.clock).runs
    getattr(runs, change)(first.id)
    assert store.gates.slots_of(first.id) == []
    assert [slot.is_held for slot in store.gates.slots_of(second.id)] == [True]
