"""Faults at every call of a switch to another plan: the run is on one of both plans, complete."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.engine.switching import PlanSwitcher, SwitchRequest
from noetl.executor.errors import StoreError
from noetl.executor.model.run import RunStatus
from noetl.planner.continuation.switch_state import Switch
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.operations import failed_checks
from noetl.testing.store_contract.switches import WRONG, judge
from tests.simulation.backends import StoreBackend
from tests.simulation.faults import FAULTS_OF_PORT, Fault, SimulatedCrash

RENAMED = WRONG.replace('["false"]', '["true"]').replace("name: c", "name: r").replace("[b, c]", "[b, r]")
RIGHT = RENAMED.replace("set: {x: 1}", "set: {x: 1, k: 1}").replace("x + y", "x + y + k")
"""A correction in which a step has another name, and that reads a name which the run does not have."""

OLD, NEW = compile_text(WRONG), compile_text(RIGHT)
SWITCH = Switch({"c": "r"}, {"k": 4})
KEY = ("key", "hash")
FAULTS = frozenset({Fault.ERROR, Fault.LOST_RESPONSE, Fault.CRASH_AFTER})
"""The faults that differ for a transaction. A crash before a call rolls back, as an error does."""

sql_backends = pytest.mark.parametrize("backend", ["memory", "SQLite", "Postgres"], indirect=True)


class FailedRun:
    """A failed run with a branch that waits at a join, which is to continue in another plan."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        with backend.points.disabled():
            store = backend.clear()
            self.harness = RunHarness(store, OLD, {"m": "a"}).finish()
            store.plans.save(NEW)
        assert self.harness.status is RunStatus.FAILED

    def switch(self) -> None:
        """Let the run continue, or return the run that an earlier request with the same key has left."""
        switcher = PlanSwitcher(self.harness.store, self.harness.clock, judge)
        assert switcher.switch(self.harness.id, SwitchRequest(NEW, SWITCH), KEY).run is not None

    def switch_with(self, faults: dict[int, Fault]) -> list[tuple[str, str]]:
        """Let the run continue with faults at the calls of these numbers. Return the calls."""
        points = self.backend.points
        points.restart(faults, lambda **_: None, lambda **_: None)
        try:
            self.switch()
        except (StoreError, SimulatedCrash):
            assert points.injected
        assert len(points.injected) == len(faults)
        return list(points.calls)


@sql_backends
def test_a_switch_with_a_fault_is_done_once_or_not_at_all(backend: StoreBackend) -> None:
    calls = FailedRun(backend).switch_with({})
    assert [port for port, _ in calls].count("commit") == 2
    ends = set()
    for number, (port, name) in enumerate(calls, 1):
        for fault in FAULTS_OF_PORT[port] & FAULTS:
            failed = FailedRun(backend)
            with backend.points.disabled():
                before = backend.dump()
            failed.switch_with({number: fault})
            with backend.points.disabled():
                harness = failed.harness
                harness.store = backend.reopen()
                is_switched = harness.run.plan_hash == NEW.hash
                ends.add((port, fault, is_switched))
                assert is_switched or backend.dump() == before, (name, fault)
                after = backend.dump()
                failed.switch()
                assert not is_switched or backend.dump() == after, (name, fault)
                assert failed_checks(harness.store) == [], (name, fault)
                assert harness.finish().result == {"sum": 7}, (name, fault)
                assert harness.visit_counts == {"a": 1, "b": 1, "r": 1, "d": 1}, (name, fault)
    assert ("commit", Fault.LOST_RESPONSE, True) in ends
    assert {is_switched for _, _, is_switched in ends} == {True, False}


@pytest.mark.parametrize("backend", ["DynamoDB"], indirect=True)
def test_a_switch_with_a_fault_is_completed_in_dynamodb(backend: StoreBackend) -> None:
    """Inject faults from the transaction on. The next worker completes the resume of a switched run."""
    names = [name for _, name in FailedRun(backend).switch_with({})]
    assert names.count("transact_write_items") == 1
    ends = set()
    for number in range(names.index("transact_write_items") + 1, len(names) + 1):
        for fault in FAULTS_OF_PORT["request"] & FAULTS:
            failed = FailedRun(backend)
            failed.switch_with({number: fault})
            with backend.points.disabled():
                harness = failed.harness
                harness.store = backend.reopen()
                ends.add(harness.run.plan_hash == NEW.hash)
                failed.switch()
                assert harness.finish().result == {"sum": 7}, (number, fault)
                assert harness.visit_counts == {"a": 1, "b": 1, "r": 1, "d": 1}, (number, fault)
                assert failed_checks(harness.store) == [], (number, fault)
    assert ends == {True, False}
