"""The marks of a run that a drawing shows, compared at each moment with what random runs do later."""

from __future__ import annotations

from collections import Counter

import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.draw.run_marks import WILL_NOT_RUN, RunMarks, mark_run
from noetl.testing.run_harness import FakeClock, RunHarness
from tests.oracle.execution import accepts_inputs, compile_data, execute_observed, quiet_logs, register
from tests.oracle.generator import generate
from tests.oracle.run_case import RunCase
from tests.oracle.seeds import seeds_of_chunk

COUNT = 300
CHUNKS = 3


class _Observer:
    """The marks at each moment of a run. The joins that wait are compared with those of the store."""

    def __init__(self, store: MemoryStore, harness: RunHarness) -> None:
        self._store = store
        self._harness = harness
        self._services = create_services(store, catalogue(), controls_local_runs=True)
        self.moments: list[tuple[RunMarks, Counter[str]]] = []
        self.waiting = 0

    def __call__(self) -> None:
        harness = self._harness
        _, drawn = self._services.data.drawn_run(harness.id)
        marks = mark_run(harness.plan, drawn)
        self.moments.append((marks, Counter(drawn.visits)))
        run = harness.run
        if run.status.is_final or run.stop is not None or harness.plan.header.sequential:
            return
        arrivals = self._store.state.runs[harness.id].arrivals
        modes = {name: join.mode for name in arrivals if (join := harness.plan.steps[name].join) is not None}
        assert set(marks.joins) == {name for name, mode in modes.items() if mode == "all"}
        assert all(wait.missing for wait in marks.joins.values())
        self.waiting += len(marks.joins)


def _observe(case: RunCase, seed: int) -> _Observer | None:
    """Return what was observed of the run of a random playbook, or None if it cannot run."""
    plan = compile_data(case.playbook).plan
    if plan is None or not accepts_inputs(plan, case.inputs):
        return None
    store = MemoryStore()
    for child in case.children:
        register(store, child)
    harness = RunHarness(store, plan, case.inputs, clock=FakeClock())
    observer = _Observer(store, harness)
    execute_observed(harness, seed, observer)
    return observer


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_runs_later_was_never_excluded(chunk: int) -> None:
    waiting = 0
    with quiet_logs():
        for seed in seeds_of_chunk(chunk, COUNT // CHUNKS):
            observer = _observe(generate(seed), seed)
            if observer is None:
                continue
            waiting += observer.waiting
            _, final = observer.moments[-1]
            for marks, visits in observer.moments:
                later = final - visits
                assert not [name for name in later if marks.states.get(name) == WILL_NOT_RUN], seed
            for (earlier, visits), (marks, visits_later) in zip(
                observer.moments, observer.moments[1:], strict=False
            ):
                for name in earlier.joins.keys() & marks.joins.keys():
                    if visits[name] == visits_later[name]:
                        before, after = earlier.joins[name], marks.joins[name]
                        assert set(before.arrived) <= set(after.arrived), seed
                        assert set(after.arrived) <= {*before.arrived, *before.missing}, seed
    assert waiting > 50
