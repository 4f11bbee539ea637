"""The visits of every scenario of the crash matrix change as the table of transitions says."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from noetl.executor.model.run import Visit, VisitStatus
from noetl.executor.model.visit_states import VisitTrigger
from noetl.testing.transition_observer import TransitionObserver, table_without
from tests.simulation.backends import StoreBackend, memory_backend
from tests.simulation.faults import FaultInjectingStore
from tests.simulation.matrix import all_cells, find_scenario, sample_cells
from tests.simulation.scenarios import SCENARIOS, Scenario
from tests.simulation.world import SimulatedWorld

SAMPLE_SIZE = 12


class ObservingWorld(SimulatedWorld):
    """A simulation that compares all visits before and after each call of the store."""

    def _wrap_store(self) -> FaultInjectingStore:
        if not self.run_id:
            self.observer = TransitionObserver(self._read_visits)
        return super()._wrap_store()

    def _read_visits(self, run_id: str) -> list[Visit]:
        return list(self.raw_store.runs.visits(run_id))

    def _before_call(self, name: str) -> None:
        super()._before_call(name)
        with self.points.disabled():
            self.observer.observe("a call that has failed, or that is not finished")

    def _observe_call(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        super()._observe_call(name, args, result)
        if name == "create":
            self.observer.add_run(result.id)
        elif name == "claim" and result is not None:
            self.observer.add_run(result.run.id)
        with self.points.disabled():
            self.observer.observe(name)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_change_is_a_transition_of_the_table(backend: StoreBackend, scenario: Scenario) -> None:
    world = ObservingWorld(backend)
    world.play(scenario)
    assert world.observer.unexplained() == []
    assert (VisitStatus.RUNNING, VisitTrigger.SUCCEED) in world.observer.observed_rows()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_change_is_one_after_faults(scenario: Scenario) -> None:
    with closing(memory_backend()) as backend:
        world = ObservingWorld(backend)
        cells = list(all_cells(scenario, world.play(scenario)))
        for cell in sample_cells(cells, SAMPLE_SIZE, scenario.name):
            world.play(scenario, cell.faults)
            assert world.observer.unexplained() == [], cell


def test_a_wrong_table_is_noticed() -> None:
    with closing(memory_backend()) as backend:
        world = ObservingWorld(backend)
        world.play(find_scenario("failed and resumed"))
        assert world.observer.unexplained() == []
        world.observer.table = table_without((VisitStatus.FAILED, VisitTrigger.REOPEN))
        assert world.observer.unexplained() != []
